"""ECA-ResNet and ECA-MobileNetV2 as tables: what stands where in a network, for all frameworks.

A network is a stem of convolutions, blocks, perhaps a last convolution, global pooling and a classifier. Each
convolution is followed by batch normalisation. A block is a branch of convolutions with ECA at its end, added to its
shortcut where it has one. All paths are the module names of the original ECANet and torchvision, in deep stems timm's.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import ClassVar


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
        shortcut: The convolution on the way of that input; None where it is added as it is.
        pool: Whether the input is halved by 2x2 average pooling before `shortcut` (an odd row or column is averaged
            with what there is).
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
        stride = 1
        for conv in self.convs:
            stride *= conv.stride
        return stride


@dataclass(frozen=True)
class Feature:
    """A feature map that `features_only` returns: after the module `path`, `stride` times smaller than the input."""

    path: str
    channels: int
    stride: int


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
    activation_after_add = True  # else there is none behind a block
    pool_stem = True  # 3x3 max pooling of stride 2 behind the stem
    classifier = "fc"
    classifier_spread = None  # standard deviation of a new classifier; None is U(-1/sqrt(width), 1/sqrt(width))
    dropout = 0.0
    head: ClassVar[tuple[Conv, ...]] = ()  # convolutions between the last block and the pooling

    @property
    def stem_convs(self) -> tuple[Conv, ...]:
        """The stem; the first convolution's `inputs` stand for the network's own input channels."""
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


@dataclass(frozen=True)
class MobileNetV2:
    """A MobileNetV2 with ECA at the end of each block, before the add where there is one.

    Args:
        name: Of the builder.
        settings: Of each stage: expansion, output channels, number of blocks, stride of the first.
        kernels: Kernel sizes of the released weights by stage.
    """

    name: str
    settings: tuple[tuple[int, int, int, int], ...] = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    kernels: tuple[int, ...] | None = None

    activation = "relu6"
    activation_after_add = False
    pool_stem = False
    classifier = "classifier.1"
    classifier_spread = 0.01
    dropout = 0.25  # before the classifier, in training
    stem_convs: ClassVar[tuple[Conv, ...]] = (Conv("features.0.0", "features.0.1", 3, 32, kernel=3, stride=2),)
    width = 1280

    @property
    def depths(self) -> tuple[int, ...]:
        return tuple(depth for _, _, depth, _ in self.settings)

    @property
    def head(self) -> tuple[Conv, ...]:
        """The convolutions between the last block and the pooling."""
        number = sum(self.depths) + 1
        return (Conv(f"features.{number}.0", f"features.{number}.1", self.settings[-1][1], self.width),)

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        return tuple(_inverted_blocks(self))

    @property
    def features(self) -> tuple[Feature, ...]:
        """The last block's output at each resolution."""
        found: dict[int, Feature] = {}
        stride = 2
        for block in self.blocks:
            stride *= block.stride
            found[stride] = Feature(block.path, block.outputs, stride)
        return tuple(found.values())


def _inverted_blocks(network: MobileNetV2) -> Iterator[Block]:
    inputs, number = network.stem_convs[-1].outputs, 0
    for stage, (expansion, outputs, depth, first) in enumerate(network.settings):
        for i in range(depth):
            number += 1
            path = f"features.{number}"
            stride = first if i == 0 else 1
            hidden = inputs * expansion
            convs, at = [], f"{path}.conv.0"
            if expansion != 1:
                convs.append(Conv(f"{at}.0", f"{at}.1", inputs, hidden))
                at = f"{path}.conv.1"
            convs.append(Conv(f"{at}.0", f"{at}.1", hidden, hidden, 3, stride, groups=hidden))
            end = len(convs)  # the last convolution, its normalisation and the ECA stand in the sequence themselves
            names = f"{path}.conv.{end}", f"{path}.conv.{end + 1}"
            convs.append(Conv(*names, hidden, outputs, activation=False))
            residual = stride == 1 and inputs == outputs
            yield Block(path, stage, tuple(convs), f"{path}.conv.{end + 2}", residual)
            inputs = outputs


Network = ResNet | MobileNetV2
