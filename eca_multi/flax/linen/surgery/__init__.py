"""ECA into, and out of, linen networks that exist."""
