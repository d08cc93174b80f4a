"""ECA-MobileNetV2 as a table."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from .parts import Block, Conv, Feature


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
        features: dict[int, Feature] = {}
        stride = 2
        for block in self.blocks:
            stride *= block.stride
            features[stride] = Feature(block.path, block.outputs, stride)
        return tuple(features.values())


def _inverted_blocks(network: MobileNetV2) -> Iterator[Block]:
    inputs, number = network.stem_convs[-1].outputs, 0
    for stage, (expansion, outputs, depth, first) in enumerate(network.settings):
        for i in range(depth):
            number += 1
            path = f"features.{number}"
            stride = first if i == 0 else 1
            hidden = inputs * expansion
            widen = [Conv(f"{path}.conv.0.0", f"{path}.conv.0.1", inputs, hidden)] if expansion != 1 else []
            spatial = f"{path}.conv.{len(widen)}"
            convs = [*widen, Conv(f"{spatial}.0", f"{spatial}.1", hidden, hidden, 3, stride, groups=hidden)]
            end = len(convs)  # the last convolution, its normalisation and the ECA stand in the sequence themselves
            names = f"{path}.conv.{end}", f"{path}.conv.{end + 1}"
            convs.append(Conv(*names, hidden, outputs, activation=False))
            residual = stride == 1 and inputs == outputs
            yield Block(path, stage, tuple(convs), f"{path}.conv.{end + 2}", residual)
            inputs = outputs
