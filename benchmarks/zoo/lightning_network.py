"""A network as users of Lightning write it, at a place where pickle finds its class."""

import lightning
import torch
from torchvision.models import resnet18


class Classifier(lightning.LightningModule):
    """torchvision's ResNet-18 in a LightningModule."""

    def __init__(self) -> None:
        super().__init__()
        self.net = resnet18(weights=None, num_classes=10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)
