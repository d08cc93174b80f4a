"""ECA-ResNet as a table."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import ClassVar

from .parts import Block, Conv, Feature


@dataclass(frozen=True)
class ResNet:
    """A ResNet (v1.5: the stride is in the 3x3 convolution) with ECA in each block.

    Args:
        name: Of the builder, "eca_resnet50".
        depths: Number of blocks in each stage.
        block: "basic" (two 3x3 convolutions) or "bottleneck" (1x1, 3x3, 1x1 to four times the width).
        stem: "plain" (7x7), "deep" (three 3x3) or "deep_tiered" (three 3x3 of growing width).
        stem_width: Of a deep stem's first convolutions; its last one has twice as many channels. A plain one has 64.
        average_down: Whether shortcuts halve by average pooling (ResNet-D) instead of a strided convolution.
        groups, base_width: Of a ResNeXt's 3x3 convolutions.
        kernels: Kernel sizes of the released weights by stage; None where they follow the adaptive rule.
        widths: For pruned networks: output widths of each block's convolutions. None follows the rule above.
    """

    name: str
    depths: tuple[int, ...]
    block: str = "bottleneck"
    stem: str = "plain"
    stem_width: int = 64
    average_down: bool = False
    groups: int = 1
    base_width: int = 64
    kernels: tuple[int, ...] | None = None
    widths: tuple[tuple[int, ...], ...] | None = None

    activation = "relu"
    activation_after_add = True  # else no activation follows a block
    pool_stem = True  # 3x3 max pooling of stride 2 behind the stem
    classifier = "fc"
    classifier_spread = None  # standard deviation of a new classifier; None is U(-1/sqrt(width), 1/sqrt(width))
    dropout = 0.0
    head: ClassVar[tuple[Conv, ...]] = ()  # convolutions between the last block and the pooling

    @property
    def stem_convs(self) -> tuple[Conv, ...]:
        """The stem for images of three channels."""
        if self.stem == "plain":
            return (Conv("conv1", "bn1", 3, 64, kernel=7, stride=2),)
        first = 3 * (self.stem_width // 4) if self.stem == "deep_tiered" else self.stem_width
        return (
            Conv("conv1.0", "conv1.1", 3, first, kernel=3, stride=2),
            Conv("conv1.3", "conv1.4", first, self.stem_width, kernel=3),
            Conv("conv1.6", "bn1", self.stem_width, 2 * self.stem_width, kernel=3),
        )

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        return tuple(_residual_blocks(self))

    @property
    def features(self) -> tuple[Feature, ...]:
        blocks = self.blocks
        ends = [max(i for i, block in enumerate(blocks) if block.stage == stage) for stage in range(len(self.depths))]
        stem = Feature("stem", self.stem_convs[-1].outputs, 2)
        return (stem, *(Feature(blocks[i].path, blocks[i].outputs, 4 << stage) for stage, i in enumerate(ends)))

    @property
    def width(self) -> int:
        """Number of channels that the classifier sees."""
        return self.blocks[-1].outputs


def _residual_blocks(network: ResNet) -> Iterator[Block]:
    inputs = network.stem_convs[-1].outputs
    places = chain.from_iterable(((stage, i) for i in range(depth)) for stage, depth in enumerate(network.depths))
    for number, (stage, i) in enumerate(places):
        path = f"layer{stage + 1}.{i}"
        stride = 2 if stage and not i else 1
        widths = network.widths[number] if network.widths else _widths(network, 64 << stage)
        basic = network.block == "basic"
        kernels = (3, 3) if basic else (1, 3, 1)
        strides = (stride, 1) if basic else (1, stride, 1)
        groups = (1, 1) if basic else (1, network.groups, 1)
        convs = []
        for j, outputs in enumerate(widths):
            names = f"{path}.conv{j + 1}", f"{path}.bn{j + 1}"
            before = widths[j - 1] if j else inputs
            convs.append(Conv(*names, before, outputs, kernels[j], strides[j], groups[j], j + 1 < len(widths)))
        shortcut, pool = _shortcut(network, path, i, inputs, widths, stride)
        yield Block(path, stage, tuple(convs), f"{path}.eca", True, shortcut, pool)
        inputs = widths[-1]


def _widths(network: ResNet, planes: int) -> tuple[int, ...]:
    if network.block == "basic":
        return planes, planes
    hidden = planes * network.base_width // 64 * network.groups
    return hidden, hidden, 4 * planes


def _shortcut(
    network: ResNet, path: str, i: int, inputs: int, widths: tuple[int, ...], stride: int
) -> tuple[Conv | None, bool]:
    """The convolution on the shortcut, and whether the input is pooled before it. Only a stage's first block may
    have one: of a pruned network too, where the widths alone would not say it."""
    if i or (stride == 1 and network.block == "basic"):
        return None, False
    if network.average_down:  # names as if the pooling were a module 0, also where nothing is pooled
        names = f"{path}.downsample.1", f"{path}.downsample.2"
        return Conv(*names, inputs, widths[-1], activation=False), stride == 2
    names = f"{path}.downsample.0", f"{path}.downsample.1"
    return Conv(*names, inputs, widths[-1], stride=stride, activation=False), False
