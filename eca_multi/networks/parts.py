"""The parts of a network as a table: a convolution, a block, a feature map.

A network is a stem of convolutions, blocks, perhaps a last convolution, global pooling and a classifier. Batch
normalisation follows each convolution. A block is a branch of convolutions with ECA at its end, added to its shortcut
if it has one. All paths are the module names of the original ECANet and torchvision, in deep stems those of timm.
"""

from dataclasses import dataclass
from math import prod


@dataclass(frozen=True)
class Conv:
    """A convolution without bias, with its normalisation; padded by kernel // 2 on both sides.

    Args:
        path, norm: Their module paths.
        inputs, outputs: Numbers of channels.
        kernel, stride: The same along every spatial axis.
        groups: 1, a ResNeXt's cardinality, or `inputs` (depthwise).
        activation: Whether the network's activation follows.
    """

    path: str
    norm: str
    inputs: int
    outputs: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    activation: bool = True


@dataclass(frozen=True)
class Block:
    """A branch that ends in ECA, and its shortcut.

    Args:
        path: Module path, "layer1.0".
        stage: Which stage it belongs to, from 0.
        convs: The branch; the last one has no activation.
        eca: Path of the ECA, which gates the branch's output before it is added.
        residual: Whether the block's input is added to the branch.
        shortcut: The convolution of that input before the sum; None where the block adds the input itself.
        pool: Whether 2x2 average pooling halves the input before `shortcut`; at an odd extent the last window averages
            fewer values.
    """

    path: str
    stage: int
    convs: tuple[Conv, ...]
    eca: str
    residual: bool = True
    shortcut: Conv | None = None
    pool: bool = False

    @property
    def outputs(self) -> int:
        return self.convs[-1].outputs

    @property
    def stride(self) -> int:
        return prod(conv.stride for conv in self.convs)


@dataclass(frozen=True)
class Feature:
    """A feature map that `features_only` returns: after the module `path`, `stride` times smaller than the input."""

    path: str
    channels: int
    stride: int
