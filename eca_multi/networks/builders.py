"""The builders of the networks by name, and their docstrings, from a framework's one function for all networks."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Concatenate, Generic, ParamSpec, TypeVar

from .catalogue import Network, find
from .kernels import kernel_sizes
from .resnet import ResNet

Options = ParamSpec("Options")
Built = TypeVar("Built")
_SKIP = "  # doctest: +SKIP"  # of a deep network, which takes seconds to build

_TEXT = """Build {title}.

    {facts}

    Args:
        num_classes: Number of classes; 0 leaves the classifier out and returns the pooled features.
        in_channels: Number of channels of the input.
        kernel_sizes: "published", those of the released weights ({sizes} by stage); "adaptive", the rule on
            the gated width, at least 3; or a list of odd sizes, one per stage or one per ECA.
        features_only: Return the list of feature maps instead, at strides 2 to 32, of {features} channels.
        global_pool: "avg", "max", or None for the last feature map, without a classifier.
        drop_path: Stochastic depth: probability of the last block to be skipped in training; linear in depth.
        dims: 2 for images, 1 for signals.
{arguments}

    Shape:
        x: {layout} of any size. Output: (N, num_classes).

    Raises:
        TypeError, ValueError: If a keyword is of another type or out of range.

    Example:
{example}

    Source: {source}
    """

_PAPER = "Wang et al., ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks, CVPR 2020."
_TIMM = "the network of the same name in timm (pytorch-image-models), whose weights fit."


@dataclass(frozen=True)
class Builders(Generic[Options, Built]):
    """Call it with a network's name for the builder of that network.

    Args:
        build: Takes the network and the keywords of all builders.
        layout, arguments: As in `describe`.
        example: Lines of the Example section; {name}, {last} (the last kernel size) and {skip} stand for the network's.
    """

    build: Callable[Concatenate[Network, Options], Built]
    layout: str
    arguments: str
    example: str

    def __call__(self, name: str) -> Callable[Options, Built]:
        network, build = find(name), self.build

        def builder(*args: Options.args, **options: Options.kwargs) -> Built:
            return build(network, *args, **options)

        builder.__name__ = builder.__qualname__ = name
        builder.__module__ = build.__module__
        signature = inspect.signature(build)
        keywords = list(signature.parameters.values())[1:]
        builder.__signature__ = signature.replace(parameters=keywords)  # type: ignore[attr-defined]  # inspect reads it
        skip = "" if len(network.blocks) < 10 else _SKIP
        example = self.example.format(name=name, last=kernel_sizes(network)[-1], skip=skip)
        builder.__doc__ = describe(network, self.layout, self.arguments, example)
        return builder


def describe(network: Network, layout: str, arguments: str, example: str) -> str:
    """Return the docstring of `network`'s builder.

    Args:
        layout: Of the input.
        arguments: The framework's own keywords, as lines of the Args section.
        example: Lines of the Example section.
    """
    sizes = kernel_sizes(network)
    stages = [str(sizes[sum(network.depths[:stage])]) for stage in range(len(network.depths))]
    million = _parameters(network, sizes) / 1e6
    kind = "an ECA-ResNet" if isinstance(network, ResNet) else "an ECA-MobileNetV2"
    return _TEXT.format(
        title=f"{network.name}, {kind}",
        facts=f"{million:.2f} million parameters, {sum(sizes)} of them in {len(sizes)} ECAs.",
        sizes=", ".join(stages),
        features=", ".join(str(feature.channels) for feature in network.features),
        arguments=arguments,
        layout=layout,
        example=example,
        source=_PAPER if network.name.startswith("eca_") else _TIMM,
    )


def _parameters(network: Network, sizes: Sequence[int]) -> int:
    """Return `count_parameters(tensors(network))` quickly: an import formats seventeen docstrings."""
    shortcuts = [block.shortcut for block in network.blocks if block.shortcut is not None]
    branches = [conv for block in network.blocks for conv in block.convs]
    convs = [*network.stem_convs, *branches, *shortcuts, *network.head]
    kernels = sum(conv.outputs * conv.inputs // conv.groups * conv.kernel**2 for conv in convs)
    return kernels + sum(2 * conv.outputs for conv in convs) + sum(sizes) + (network.width + 1) * 1000
