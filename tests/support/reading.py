"""Readers under a bound of time and memory."""

from contextlib import contextmanager
from importlib import import_module

import pytest

from eca_multi.checkpoints import CheckpointError
from tests.support import fuzz_readers

MIB = 1 << 20
OWN = {
    "torch": "eca_multi.torch.checkpoints",
    "keras": "eca_multi.keras.checkpoints",
    "linen": "eca_multi.flax.linen.checkpoints",
    "nnx": "eca_multi.flax.nnx.checkpoints",
}
FILES = {"torch": "model.pth", "keras": "model.weights.h5", "linen": "model.msgpack", "nnx": "model.msgpack"}
framework = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.keras] if n == "keras" else []) for n in OWN]
)


def own(name):
    return import_module(OWN[name]).read_checkpoint


@contextmanager
def bounded(seconds=5.0, memory=200 * MIB):
    """Fail if what is done takes longer, or more memory."""

    before = fuzz_readers.reset_peak()
    with fuzz_readers.limited(seconds):
        yield
    used = fuzz_readers.resident("VmHWM") - before
    assert used < memory, f"{used} bytes, must be < {memory}"


def refused(path, read, match):
    with bounded(), pytest.raises(CheckpointError, match=match):
        read(path)


DEEP = "[" * 100_000
