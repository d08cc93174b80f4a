"""Record the gates of a network that a command line names: import it by name, run it on data, batch by batch."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np

from eca_multi._named import PACKAGES, named
from eca_multi._parsing import parsing

from .errors import not_recorded
from .record import GateRecord

BATCH = 32


def record_named(
    target: str, data: str | os.PathLike[str] | None = None, *, batch: int = BATCH, raw: int = 0
) -> GateRecord:
    """Return the record of a network over all samples of some data.

    Args:
        target: "module:name" or "file.py:name" of a network, or of a function without arguments that returns one; also
            of (network, inputs) or (network, inputs, labels). For linen (module, variables, inputs), and labels behind.
        data: An .npz file with the inputs "x" and perhaps labels "y"; instead of those that the name gives.
        batch: How many samples the network gets at once.
        raw: As for `record_gates`.

    Raises:
        ValueError: If the name does not lead to a network, if there are no inputs, if inputs and labels differ in
            number, or if the network cannot run on the inputs.
        TypeError: If the name's value is no network of a known framework.
        OSError: If the file cannot be read.
        Exception: Those of `record_gates`.
    """
    package, parts = named(target)
    own = 2 if package == PACKAGES["flax.linen"] else 1
    model, given = parts[:own], parts[own:]
    if len(model) < own or len(given) > 2:
        known = "(module, variables, inputs, labels)" if own == 2 else "a network or (network, inputs, labels)"
        raise not_recorded(
            "MODULE:FACTORY", f"a function that returns {known}", f"{len(parts)} values", "Return those."
        )
    inputs, labels = (*given, None, None)[:2] if data is None else _read(data)
    if inputs is None:
        remedy = "Return (network, inputs, labels), or pass --data FILE.npz with x and y."
        raise not_recorded("MODULE:FACTORY", "beside inputs for the network", "a network alone", remedy)
    samples = len(inputs)
    if labels is not None and len(labels) != samples:
        received = f"{len(labels)} labels for {samples} inputs"
        raise not_recorded("labels", "as many as inputs", received, "Give each sample one.")
    slices = [slice(start, start + batch) for start in range(0, samples, batch)]
    batches = [(inputs[one], None if labels is None else labels[one]) for one in slices]
    return _RUNS[package](import_module(package), model, batches, raw)


def _torch(package: Any, model: Any, batches: Any, raw: int) -> GateRecord:
    torch = sys.modules["torch"]
    model[0].eval()
    with torch.no_grad(), package.record_gates(model[0], raw=raw) as record:
        for x, y in batches:
            with _labelled(record, y), _running():
                model[0](torch.as_tensor(x))
    return record  # type: ignore[no-any-return]  # the package is imported by its name


def _keras(package: Any, model: Any, batches: Any, raw: int) -> GateRecord:
    with package.record_gates(model[0], raw=raw) as record:
        for x, y in batches:
            with _labelled(record, y), _running():
                model[0](x, training=False)
    return record  # type: ignore[no-any-return]  # as above


def _nnx(package: Any, model: Any, batches: Any, raw: int) -> GateRecord:
    model[0].eval()
    with package.record_gates(model[0], raw=raw) as record:
        for x, y in batches:
            with _labelled(record, y), _running():
                model[0](x)
    return record  # type: ignore[no-any-return]  # as above


def _linen(package: Any, model: Any, batches: Any, raw: int) -> GateRecord:
    record = GateRecord("linen", type(model[0]).__name__, raw=raw)
    apply = package.record_gates(model[0])
    for x, y in batches:
        with _running():
            _, gates = apply(model[1], x)
        with _labelled(record, y):
            gates.into(record)
    return record


_RUNS: dict[str, Callable[[Any, Any, Any, int], GateRecord]] = {
    PACKAGES["torch"]: _torch,
    PACKAGES["keras"]: _keras,
    PACKAGES["flax.nnx"]: _nnx,
    PACKAGES["flax.linen"]: _linen,
}


@contextmanager
def _labelled(record: GateRecord, labels: Any) -> Iterator[None]:
    if labels is None:
        yield
        return
    with record.label(labels):
        yield


@contextmanager
def _running() -> Iterator[None]:
    """Say of an error of the network's own that it is one; texts of ours stay as they are."""
    try:
        yield
    except (TypeError, ValueError):
        raise
    except Exception as error:  # any, from the user's code
        raise ValueError(f"The network must run on the inputs. It raised {type(error).__name__}: {error}") from error


def _read(file: str | os.PathLike[str]) -> tuple[Any, Any]:
    """Return x and y of an .npz file; y is None where there is none."""
    name = os.fsdecode(file)

    def bad(reason: str) -> ValueError:
        expected, remedy = "an .npz file with the inputs x, and labels y", "Write it by numpy.savez(file, x=x, y=y)."
        return not_recorded("--data", expected, f"{name!r} ({reason})", remedy)

    with open(file, "rb") as opened, parsing(bad), np.load(opened, allow_pickle=False) as arrays:
        if "x" not in arrays:
            raise ValueError(f"it has {', '.join(arrays.files) or 'nothing'}")
        return arrays["x"], arrays.get("y")
