"""Prove an insertion in a Keras network by runs before and after."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np
from keras import ops

from eca_multi.keras._owned import values
from eca_multi.surgery.entry import ECAEntry
from eca_multi.surgery.plan import ECAPlan
from eca_multi.surgery.verify import check_numbers, check_verified, did_not_run, differences, probe

from ._find.check import does_not_run, first_words
from ._find.graph import Network
from ._find.observe import run
from ._wrap.installed import InsertedECA, installed_layers

Runs = Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]]  # what each ECA received and returned, by its path


def verify(plan: ECAPlan, old: Any, new: Any, example_inputs: Any) -> None:
    """Raise VerifyError unless the new model does what the plan says."""
    try:
        before = run(old, example_inputs)
    except Exception as error:
        raise does_not_run(error) from error
    check_numbers(plan.keeps_output and any(np.not_equal(y, y).any() for y in before))  # NaN differs from itself
    try:
        after = run(new, example_inputs)
    except Exception as error:
        raise did_not_run(error, first_words(error)) from error
    same = len(before) == len(after) and all(
        x.dtype == y.dtype and np.array_equal(x, y, equal_nan=True) for x, y in zip(before, after, strict=True)
    )
    installed = installed_layers(Network(new))
    calls = {entry.path: entry.calls or 0 for _, entry in installed}
    inserted = [(layer, entry) for layer, entry in installed if entry.path in plan.paths]
    wrong = _wrong_at_probe(new, inserted, plan.gate, example_inputs)
    check_verified(plan, same, {e.path: (e.calls or 0, calls.get(e.path, 0)) for e in plan.entries}, wrong)


def _wrong_at_probe(
    model: Any, inserted: Sequence[tuple[InsertedECA, ECAEntry]], gate: str, example_inputs: Any
) -> list[str]:
    """Compare each ECA, with a kernel off the identity, with the oracle; the kernels are put back."""
    before = {entry.path: values(layer.kernel) for layer, entry in inserted}
    with _recorded(inserted) as runs:
        run(model, example_inputs)
    kernels = {path: probe(entry, runs[path][0][0]) for _, entry in inserted if runs[path := entry.path]}
    try:
        for layer, entry in inserted:
            if entry.path in kernels:
                layer.kernel.assign(kernels[entry.path].reshape(layer.kernel.shape))
        with _recorded(inserted) as runs:
            run(model, example_inputs)
    finally:
        for layer, entry in inserted:
            layer.kernel.assign(before[entry.path])
    return [
        text
        for _, entry in inserted
        if entry.path in kernels
        for x, y in runs[entry.path]
        for text in differences(entry, gate, kernels[entry.path], x, y)
    ]


@contextmanager
def _recorded(inserted: Sequence[tuple[InsertedECA, ECAEntry]]) -> Iterator[Runs]:
    """Give a record of what the ECAs receive and return; none of those that run while a function is traced."""
    runs: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {entry.path: [] for _, entry in inserted}
    with ExitStack() as stack:
        for layer, entry in inserted:
            _record(layer, runs[entry.path])
            stack.callback(delattr, layer, "call")
        yield runs


def _record(layer: InsertedECA, runs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    call = layer.call

    def recorded(inputs: Any, **kwargs: Any) -> Any:
        outputs = call(inputs, **kwargs)
        if kwargs.get("mask") is None:  # the oracle has no mask
            with suppress(Exception):  # a tensor without values
                runs.append((_read(inputs), _read(outputs)))
        return outputs

    object.__setattr__(layer, "call", recorded)


def _read(tensor: Any) -> np.ndarray:
    return np.array(ops.convert_to_numpy(ops.cast(tensor, "float32")))
