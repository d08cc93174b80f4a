"""Runners in PyTorch with one defect each, which the parity run must catch, and workers that misbehave.

Loaded by workers as `tests/support/mutants.py:Class`; nothing in the package knows of them.
"""

import os
import subprocess
import time
from contextlib import nullcontext

import torch

from eca_multi.parity import Adapter, tap
from eca_multi.parity.specs.eca import Torch
from eca_multi.torch import ECA, eca


class Layer(ECA):
    """ECA written out once, each step a method of the adapter, so that a mutant changes one step and nothing else."""

    def forward(self, x, mask=None):
        return self.adapter.forward(self, x, mask)


class Mutant(Torch):
    def build(self, config):
        layer = super().build(config)
        layer.__class__ = Layer
        layer.adapter = self
        return layer

    def tapping(self):
        return nullcontext()  # it calls tap itself

    def forward(self, layer, x, mask):
        pooled = tap("pooled", self.pool(x.float()))
        logits = tap("conv", self.convolve(pooled, layer.conv.weight.float()[0, 0]))
        gate = tap("gate", self.gate(logits))
        return (x * gate[..., None, None]).to(x.dtype)

    def pool(self, x):
        return x.mean((2, 3))

    def convolve(self, pooled, w):
        half = len(w) // 2
        padded = torch.nn.functional.pad(pooled, (half, half))
        return sum(w[j] * padded[:, j : j + pooled.shape[1]] for j in range(len(w)))

    def gate(self, logits):
        return torch.sigmoid(logits)


class Faithful(Mutant):
    """No defect: the control which shows that the others fail for theirs."""


class FlippedKernel(Mutant):
    def convolve(self, pooled, w):
        return super().convolve(pooled, w.flip(0))


class ShiftedPadding(Mutant):
    def convolve(self, pooled, w):
        return super().convolve(torch.nn.functional.pad(pooled, (1, 0))[:, :-1], w)


class DetachedGate(Mutant):
    """The output is right; only the gradients tell. A little of the gate keeps dw defined."""

    def gate(self, logits):
        gate = torch.sigmoid(logits)
        return gate.detach() + 0 * gate


class Float16Mean(Mutant):
    """Sums in float16, one addition after the other, as some kernels do."""

    def pool(self, x):
        total = torch.zeros(x.shape[:2], dtype=torch.float16)
        for position in x.flatten(2).half().unbind(2):
            total = total + position
        return total.float() / x[0, 0].numel()


class WrongAxis(Mutant):
    """The gate of each row instead of each channel."""

    def forward(self, layer, x, mask):
        return eca(x, layer.conv.weight, channel_axis=2)


class BatchLeak(Mutant):
    """A little of the neighbouring sample in each mean."""

    def pool(self, x):
        pooled = super().pool(x)
        return 0.99 * pooled + 0.01 * pooled.roll(1, 0)


class WrongShape(Mutant):
    def forward(self, layer, x, mask):
        return super().forward(layer, x, mask).flatten(2)


class WrongDtype(Mutant):
    def forward(self, layer, x, mask):
        return super().forward(layer, x, mask).double()


class NotFinite(Mutant):
    def gate(self, logits):
        gate = super().gate(logits)
        return torch.where(gate == gate.max(), torch.inf, gate)


class Untapped(FlippedKernel):
    """A layer that lacks one of its taps."""

    def forward(self, layer, x, mask):
        gate = self.gate(
            tap("conv", self.convolve(tap("pooled", self.pool(x.float())), layer.conv.weight.float()[0, 0]))
        )
        return (x * gate[..., None, None]).to(x.dtype)


class Random(Faithful):
    """A layer whose results differ between two runs."""

    def gate(self, logits):
        return super().gate(logits) + 1e-9 * torch.rand(())


class Raising(Mutant):
    def pool(self, x):
        raise RuntimeError("the pool is empty")


class Crashing(Mutant):
    def pool(self, x):
        print("last words", flush=True)
        os._exit(7)


class Hanging(Mutant):
    def pool(self, x):
        time.sleep(600)


class ExitsZero(Mutant):
    """A worker that exits with status 0 before it has answered."""

    def pool(self, x):
        os._exit(0)


class NoBuild(Torch):
    build = Adapter.build


class Leftover(Torch):
    def weights_for(self, config):
        return {}


class NoPermutation(Torch):
    def weights_for(self, config):
        return {"conv.weight": "w: k -> 1 1 k k"}


class WritesNonsense(Mutant):
    """A worker that writes nonsense to the pipe of the answers."""

    def pool(self, x):
        for handle in range(3, 64):
            try:
                os.write(handle, b"nonsense\n")
            except OSError:
                continue
        time.sleep(600)


class LeavesAChild(Mutant):
    def pool(self, x):
        child = subprocess.Popen(["sleep", "600"])
        print(f"child {child.pid}", flush=True)
        os._exit(5)
