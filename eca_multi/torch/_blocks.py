"""The blocks of ECA-ResNet and ECA-MobileNetV2 for PyTorch, with the module names of the original code."""

from typing import Any

import torch
from torch import nn

from eca_multi.networks import Block, Conv

from .layers import ECA

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}
MAX_POOLS = {1: nn.MaxPool1d, 2: nn.MaxPool2d}
AVERAGE_POOLS = {1: nn.AvgPool1d, 2: nn.AvgPool2d}
ACTIVATIONS = {"relu": nn.ReLU, "relu6": nn.ReLU6}


def convolution(conv: Conv, dims: int, **factory: Any) -> nn.Module:
    """Return a convolution as torchvision initialises it."""
    layer = CONVOLUTIONS[dims](
        conv.inputs,
        conv.outputs,
        conv.kernel,
        stride=conv.stride,
        padding=conv.kernel // 2,
        groups=conv.groups,
        bias=False,
        **factory,
    )
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


def normalisation(conv: Conv, dims: int, **factory: Any) -> nn.Module:
    return NORMS[dims](conv.outputs, eps=1e-5, momentum=0.1, **factory)


def conv_norm_act(conv: Conv, activation: str, dims: int, **factory: Any) -> nn.Sequential:
    return nn.Sequential(
        convolution(conv, dims, **factory),
        normalisation(conv, dims, **factory),
        ACTIVATIONS[activation](inplace=True),
    )


class DropPath(nn.Module):
    """Stochastic depth: in training, skips a sample's branch with probability `rate` and scales the others."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        kept = x.new_empty(x.shape[:1] + (1,) * (x.ndim - 1)).bernoulli_(keep)
        return x * (kept / keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


def gated_sum(eca: nn.Module, drop_path: nn.Module, branch: torch.Tensor, shortcut: torch.Tensor) -> torch.Tensor:
    """Return drop_path(eca(branch)) + shortcut, in one pass where both are ours and nothing is dropped."""
    ours = type(eca) is ECA and type(drop_path) is DropPath
    if not ours or (drop_path.training and drop_path.rate):
        y: torch.Tensor = drop_path(eca(branch)) + shortcut
    else:
        y = eca(branch, residual=shortcut.to(branch.dtype))  # under autocast the two may differ
    return y


class ResidualBlock(nn.Module):
    """A ResNet's block, basic or bottleneck: relu(shortcut(x) + eca(branch(x)))."""

    def __init__(self, block: Block, kernel_size: int, drop_path: float, dims: int, **factory: Any) -> None:
        super().__init__()
        self.steps = []
        for conv in block.convs:
            names = conv.path.rpartition(".")[2], conv.norm.rpartition(".")[2]
            self.add_module(names[0], convolution(conv, dims, **factory))
            self.add_module(names[1], normalisation(conv, dims, **factory))
            self.steps.append((*names, conv.activation))
        self.eca = ECA(block.outputs, kernel_size, **factory)
        self.drop_path = DropPath(drop_path)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if block.shortcut is not None:
            halve = AVERAGE_POOLS[dims](2, 2, ceil_mode=True, count_include_pad=False) if block.pool else nn.Identity()
            layers = convolution(block.shortcut, dims, **factory), normalisation(block.shortcut, dims, **factory)
            named = block.shortcut.path.endswith(".1")  # timm's count the pooling
            self.downsample = nn.Sequential(halve, *layers) if named else nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = x
        for conv, norm, activation in self.steps:
            branch = getattr(self, norm)(getattr(self, conv)(branch))
            if activation:
                branch = self.relu(branch)
        shortcut = x if self.downsample is None else self.downsample(x)
        y: torch.Tensor = self.relu(gated_sum(self.eca, self.drop_path, branch, shortcut))
        return y


class InvertedBlock(nn.Module):
    """A MobileNetV2's block: eca(branch(x)), added to x where the shapes allow it."""

    def __init__(self, block: Block, kernel_size: int, drop_path: float, dims: int, **factory: Any) -> None:
        super().__init__()
        *inner, last = block.convs
        layers: list[nn.Module] = [conv_norm_act(conv, "relu6", dims, **factory) for conv in inner]
        layers += [convolution(last, dims, **factory), normalisation(last, dims, **factory)]
        self.conv = nn.Sequential(*layers, ECA(block.outputs, kernel_size, **factory))
        self.drop_path = DropPath(drop_path)
        self.residual = block.residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Not `gated_sum`: whoever hooks `conv` gets the gated branch, as in the original code.
        branch: torch.Tensor = self.conv(x)
        return x + self.drop_path(branch) if self.residual else branch
