"""The line `[-1, 1, ECA, []]` in a model's YAML: the name ECA where ultralytics looks for the classes of layers.

ultralytics builds each network with `ultralytics.nn.tasks.parse_model`, which looks up the class of a line among the
names of that module and gives the class the line's arguments. An argument that is the name of a variable of
parse_model, as `nc` in many files, becomes that variable. So an ECA line is read as if it said `[ch, f, ...]`: the
channels of all layers so far, and the number of the layer that the line takes.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import nn
from ultralytics.nn import tasks

from eca_multi.torch import ECA

NAME = "ECA"
RECORD = "eca"  # the entry of a model's YAML that holds the gates which insert_eca put into the network


class Inserted(Protocol):
    """The gates of a network, which go into a network that is built anew."""

    def insert(self, layers: nn.Sequential) -> None: ...


class ECALine(ECA):
    """The ECA that a line of a YAML makes.

    Args:
        channels, source: What `parse_model` knows: the channels of the layers so far, the number of the layer before.
        options: The line's own: nothing; a kernel size; a dict of the options of `ECA`; or both.

    A line with `{init: identity}` has the gate 2*sigmoid if the line names no gate, for only that one has an identity.
    """

    def __init__(self, channels: list[int], source: int, *options: Any) -> None:
        super().__init__(channels[source], *_kernel_size(options), **_options(options))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Register: a network that is read from a file is built anew by trainers, in a process that knows no ECA."""
        register()
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch's own


def register() -> None:
    """Let a line `[-1, 1, ECA, []]` in a model's YAML stand for an ECA, in this process.

    The channels are those of the layer before, at every scale. The brackets may hold a kernel size, a dict of the
    options of `eca_multi.torch.ECA`, or both: `[5]`, `[{init: identity}]`, `[3, {gate: hard_sigmoid}]`. A second call
    changes nothing. A saved network with ECA calls this function when it is read.

    Raises:
        ValueError: If another class has the name ECA in ultralytics.

    Example:
        >>> from ultralytics.nn.tasks import DetectionModel
        >>> from eca_multi.ultralytics import register
        >>> register()
        >>> backbone = [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "ECA", []]]
        >>> yaml = {"nc": 2, "backbone": backbone, "head": [[[1], 1, "Detect", ["nc"]]]}
        >>> DetectionModel(yaml, verbose=False).model[1].channels
        16
    """
    there = vars(tasks).get(NAME, ECALine)
    if there is not ECALine:
        raise ValueError(
            f"The name {NAME} must be free in ultralytics.nn.tasks. Received: {there!r} under that name. "
            f"Take that class out first: del ultralytics.nn.tasks.{NAME}."
        )
    vars(tasks)[NAME] = ECALine
    if tasks.parse_model is not _parse_model:
        _theirs.append(tasks.parse_model)
        tasks.parse_model = _parse_model


def unregister() -> None:
    """Undo `register`. Networks that exist stay as they are.

    Example:
        >>> from eca_multi.ultralytics import register, unregister
        >>> register()
        >>> unregister()
        >>> import ultralytics.nn.tasks
        >>> hasattr(ultralytics.nn.tasks, "ECA")
        False
    """
    if vars(tasks).get(NAME) is ECALine:
        del vars(tasks)[NAME]
    if tasks.parse_model is _parse_model:
        tasks.parse_model = _theirs.pop()


_theirs: list[Any] = []


def _parse_model(d: dict[str, Any], ch: int, verbose: bool = True) -> Any:
    """Build a network as ultralytics does; ECA lines hear their channels, and recorded gates go in again."""
    sections = {name: [_with_channels(line) for line in d[name]] for name in ("backbone", "head")}
    layers, save = _theirs[-1]({**d, **sections}, ch, verbose)
    gates: Inserted | None = d.get(RECORD)
    if gates is not None:
        gates.insert(layers)
    return layers, save


def _with_channels(line: list[Any]) -> list[Any]:
    source, number, kind, arguments = line
    if kind != NAME:
        return line
    if not isinstance(source, int):
        raise ValueError(
            f"An ECA line must take one layer. Received: [{source}, {number}, {NAME}, {arguments}]. "
            "Write -1 for the layer before, or put a Concat before the ECA."
        )
    return [source, number, kind, ["ch", "f", *arguments]]


def _kernel_size(options: tuple[Any, ...]) -> tuple[Any, ...]:
    numbers = tuple(option for option in options if not isinstance(option, Mapping))
    if len(numbers) > 1 or len(options) > 2:
        raise ValueError(
            f"An ECA line must have at most a kernel size and a dict of options. Received: {list(options)}. "
            "The channels are not named: write [], [5], [{init: identity}] or [5, {init: identity}]."
        )
    return numbers


def _options(options: tuple[Any, ...]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for option in options:
        named |= option if isinstance(option, Mapping) else {}
    return {"gate": "2sigmoid", **named} if named.get("init") == "identity" else named
