"""A small residual network with attention at the end of each branch, and the kinds of attention that are compared."""

from collections.abc import Callable

import torch
from torch import nn

from eca_multi.torch import ECA

WIDTHS = (32, 64, 128)  # the rule gives k = 3, 3 and 5


class SE(nn.Module):
    """Squeeze-and-excitation (Hu et al., CVPR 2018) with the original's reduction of 16."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // 16), nn.ReLU(), nn.Linear(channels // 16, channels), nn.Sigmoid()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = self.fc(x.flatten(2).mean(2))
        return x * gate.reshape(*gate.shape, *(1,) * (x.ndim - 2))


KINDS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda channels: nn.Identity(),
    "SE": SE,
    "ECA": ECA,
    "ECA-NS": lambda channels: ECA(channels, shared=False),
    "ECA, k = 1": lambda channels: ECA(channels, 1),
    "ECA, k = 3": lambda channels: ECA(channels, 3),
    "ECA, k = 9": lambda channels: ECA(channels, 9),
    "ECA, circular": lambda channels: ECA(channels, padding="circular"),
}


class Block(nn.Module):
    """Convolution, norm, ReLU, convolution, norm, attention; then the shortcut and ReLU."""

    def __init__(self, rank: int, channels: int, width: int, stride: int) -> None:
        super().__init__()
        conv, norm = (nn.Conv1d, nn.BatchNorm1d) if rank == 1 else (nn.Conv2d, nn.BatchNorm2d)
        self.branch = nn.Sequential(
            conv(channels, width, 3, stride, 1, bias=False),
            norm(width),
            nn.ReLU(),
            conv(width, width, 3, 1, 1, bias=False),
            norm(width),
        )
        self.attention: nn.Module = nn.Identity()
        self.shortcut = nn.Sequential(conv(channels, width, 1, stride, bias=False), norm(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.attention(self.branch(x)) + self.shortcut(x))


def build(kind: str, channels: int, rank: int, classes: int, seed: int) -> nn.Sequential:
    """Build the network. The weights that all kinds have start from the same numbers; the attention is drawn after."""
    torch.manual_seed(seed)
    ins, strides = (channels, *WIDTHS), (1, 2, 2)
    blocks = [Block(rank, ins[i], width, strides[i]) for i, width in enumerate(WIDTHS)]
    pool = nn.AdaptiveAvgPool1d(1) if rank == 1 else nn.AdaptiveAvgPool2d(1)
    network = nn.Sequential(*blocks, pool, nn.Flatten(), nn.Linear(WIDTHS[-1], classes))
    for block, width in zip(blocks, WIDTHS, strict=True):
        block.attention = KINDS[kind](width)
    return network


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
