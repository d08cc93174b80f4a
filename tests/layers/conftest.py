"""Fixtures of more than one test file of the layers."""

import pytest
import torch

from eca_multi.torch import _eager
from eca_multi.torch._fast import choose, feature_map


@pytest.fixture(params=["native", "fused"])
def code(request, monkeypatch):
    """Autograd's code, or that with a backward of its own: for small tensors and float64 too, and in many blocks."""
    monkeypatch.setattr(choose, "SMALL", 0 if request.param == "fused" else 1 << 62)
    monkeypatch.setattr(_eager, "DTYPES", (*_eager.DTYPES, torch.float64))
    monkeypatch.setattr(feature_map, "BLOCK", 16)
    return request.param
