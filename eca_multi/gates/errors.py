"""The messages about recorded gates, one text in every framework."""

from collections.abc import Sequence
from typing import Any

from eca_multi._errors import _text
from eca_multi._printable import PrintableError


class GatesFileError(PrintableError, ValueError):
    """A file that is no record of gates, or a broken one."""


def bad_file(name: str, reason: str) -> GatesFileError:
    remedy = "Pass a file that record.save wrote."
    return GatesFileError(_text("path", "a record of gates", f"{name!r} ({reason})", remedy))


def nested() -> ValueError:
    remedy = "Leave the first record_gates before you enter another one."
    return ValueError(_text("model", "a network whose gates nobody records yet", "one inside of record_gates", remedy))


def nothing_recorded(paths: Sequence[str], remedy: str) -> ValueError:
    """Return the error for a recording that saw no gate: an empty record would look like an answer."""
    received = f"no call of {_some(paths)}"
    return ValueError(_text("record_gates", "followed by a call of the network's ECAs", received, remedy))


def not_passed_on(paths: Sequence[str], remedy: str) -> ValueError:
    """Return the error for gates that exist inside of a compiled or lifted function alone."""
    return ValueError(_text("the network", "one whose gates can be read", f"hidden gates of {_some(paths)}", remedy))


def without_values(path: str, kind: str) -> ValueError:
    remedy = "Inside of record_gates, call the network itself on its data, and trace or export it outside."
    return ValueError(_text("x", "a tensor with values", f"a {kind} at {path!r}", remedy))


def wrong_labels(count: int, samples: int, path: str) -> ValueError:
    remedy = "Label each call with its own batch: with gates.label(y): model(x)."
    return ValueError(_text("labels", "one for each sample of the call", f"{count} labels for {samples} samples at "
                            f"{path!r}", remedy))  # fmt: skip


def no_labels(value: Any) -> TypeError:
    remedy = "Pass class numbers or names, one for each sample; of one-hot rows take the argmax."
    received = f"{type(value).__name__} of {getattr(value, 'dtype', 'no dtype')}, shape {getattr(value, 'shape', '?')}"
    return TypeError(_text("labels", "a sequence of integers or strings", received, remedy))


def too_many_classes(most: int) -> ValueError:
    remedy = "Number the classes, or group them: a statistic is kept for each."
    return ValueError(_text("labels", f"of at most {most} classes", "more", remedy))


def labelled_twice() -> ValueError:
    remedy = "Leave the first gates.label before you enter another one."
    return ValueError(_text("label", "entered once for a call", "a label inside of a label", remedy))


def no_such_layer(path: object, paths: Sequence[str]) -> KeyError:
    return KeyError(f"path must be that of a recorded ECA. Received: {path!r}. There are {', '.join(paths) or 'none'}.")


def no_record(value: Any) -> TypeError:
    remedy = "Pass what record_gates or load_gates gave."
    return TypeError(_text("record", "a record of gates", f"a {type(value).__name__}", remedy))


def not_recorded(name: str, expected: str, received: str, remedy: str) -> ValueError:
    """Return the error for what a picture shall show and the record does not have."""
    return ValueError(_text(name, expected, received, remedy))


def too_many_shown(count: int, most: int) -> ValueError:
    remedy = "A chart tells no more apart; draw several figures."
    return ValueError(_text("classes", f"{most} labels at most", f"{count} labels", remedy))


def no_format(value: object, known: Sequence[str]) -> ValueError:
    remedy = "The figures that are returned can be saved in any format of matplotlib."
    return ValueError(_text("formats", f"a list of {' and '.join(map(repr, known))}", repr(value), remedy))


def _some(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return f"{', '.join(map(repr, paths[:3]))}{more}"
