"""The builders of the networks by name, from a framework's one function that builds any network."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, Generic, ParamSpec, TypeVar

from .catalogue import find
from .describe import describe
from .sizes import kernel_sizes
from .tables import Network

Options = ParamSpec("Options")
Built = TypeVar("Built")
_SKIP = "  # doctest: +SKIP"  # of a deep network, which takes seconds to build


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
