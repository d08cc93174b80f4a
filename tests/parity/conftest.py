"""Fixtures of the harness's tests."""

import importlib
from collections.abc import Callable

import pytest


@pytest.fixture
def no_closer_look(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Leave each failure at its verdict: to localise and to shrink it takes longer than to find it."""
    return lambda: monkeypatch.setattr(
        importlib.import_module("eca_multi.parity.run"), "explain_failures", lambda *_: []
    )


@pytest.fixture
def one_thread():
    """Run PyTorch on one thread: on small tensors, threads only wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
