"""A classifier of sequences with ECA in PyTorch: two convolutions, each followed by ECA, for any length.

Trains on scikit-learn's digits, each image read as a sequence of its 8 rows with 8 values each, and prints the accuracy
on images that it has not seen. Run it: `python examples/conv1d_classifier_torch.py`.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from eca_multi.torch import ECA


class Conv1dClassifier(nn.Module):
    """x: (N, channels, L), of any length L >= 1. Output: logits (N, classes)."""

    def __init__(self, channels: int = 3, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(channels, 64, 3, padding=1)
        self.eca1 = ECA(64)
        self.conv2 = nn.Conv1d(64, 128, 3, padding=1)
        self.eca2 = ECA(128)
        self.dense = nn.Linear(128, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.eca1(self.conv1(x)))
        x = F.relu(self.eca2(self.conv2(x)))
        return self.dense(x.amax(2))  # the largest value along the sequence fits every length; a flatten fits one


def digits() -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Return (images, labels) to train on and to test on; images as (N, 8, 8), the columns as channels."""
    data = load_digits()
    x = torch.tensor(data.images / 16, dtype=torch.float32).transpose(1, 2)
    y = torch.tensor(data.target)
    return (x[:1437], y[:1437]), (x[1437:], y[1437:])


def train(model: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int = 10) -> None:
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(32):
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()


def accuracy(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    with torch.no_grad():
        return (model(x).argmax(1) == y).float().mean().item()


def main() -> None:
    torch.manual_seed(0)
    (x, y), (test_x, test_y) = digits()
    model = Conv1dClassifier(channels=8)
    train(model, x, y)
    print(f"accuracy on unseen digits: {accuracy(model, test_x, test_y):.3f}")
    longer = test_x.repeat_interleave(3, dim=2)
    print(f"a sequence three times as long: {tuple(longer.shape)} -> {tuple(model(longer).shape)}")


if __name__ == "__main__":
    main()
