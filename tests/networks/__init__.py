"""The paper's and timm's networks in every framework."""
