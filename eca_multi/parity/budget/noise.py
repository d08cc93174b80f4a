"""Rounding noise in PyTorch: the error budget of any layer, forwards and backwards, from its float64 re-runs.

Under `RoundingNoise` each elementary aten operation on float64 tensors, of the forward pass and of autograd's backward
pass, gives

    out + xi * (k * u * |out| + u_acc * sqrt(n) * op(|in|) + min(tiny, |out|)),    xi = +1 or -1 per element and term

with `u` the unit roundoff of the dtype under test, `u_acc` that of its accumulator, `tiny` its smallest normal number,
and k = 1 or, for transcendental functions, 2. The second term is for sums of n products only (reductions, matrix
products, convolutions, pools, scattered additions); op(|in|) is the sum without cancellation. An operation that copies
or selects gets no noise. One that rounds several times inside (norms, softmax, gelu, losses, attention) is decomposed,
so that each step gets its noise: frameworks fuse these steps differently.

The term with `tiny` stands for flushing to zero. The minimum keeps zeros and signs, and so keeps roots and logarithms
of small numbers finite.

Up to second-order terms, a correct implementation strays from the clean run no further than the noisy runs do.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Self

import torch

from eca_multi.parity.engines._private_torch import OpOverload, TorchDispatchMode, current_graph_task_id

from .errors import Arrays, check_repeatable, error_budget, whole_or_float64
from .plain_rules import LOWER, Args, is_float64
from .rules import rule

aten = torch.ops.aten
FLOAT32_TINY = 2.0**-126


class RoundingNoise(TorchDispatchMode):
    """Add rounding noise to every float64 operation of a `with` block; see the module's formula.

    The block must not draw random numbers: a mask is an input. Casts to a lower precision stay in float64, since a
    layer may call `.float()`. Scaled dot-product attention takes its unfused path.

    Attributes:
        noised: How often each operation got noise.
        unknown_ops: Operations that no table has; their results got the noise of one rounding.
        quiet: Add no noise, for the clean run. Random operations may run then: a lazy layer initialises itself.
    """

    def __init__(self, u: float, u_acc: float, tiny: float, generator: torch.Generator) -> None:
        super().__init__()
        self.u, self.u_acc, self.tiny = u, u_acc, tiny
        self.noised: Counter[str] = Counter()
        self.unknown_ops: set[str] = set()
        self.quiet = False
        self._signs = _Signs(generator)
        self._depth = 0
        self._settings = ExitStack()

    def __enter__(self) -> Self:
        if self._depth == 0:
            self._settings.enter_context(torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH))
            self._settings.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
            torch.backends.mha.set_fastpath_enabled(False)
        self._depth += 1
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        self._depth -= 1
        if self._depth == 0:
            self._settings.close()

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Args = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        # In the backward pass a cast to float32 belongs to a float32 leaf, which needs the cast.
        if kwargs.get("dtype") in LOWER and any(map(is_float64, args)) and current_graph_task_id() == -1:
            kwargs = {**kwargs, "dtype": torch.float64}
        return rule(func)(self, func, args, kwargs)

    def budget(self, evaluate: Callable[[], dict[Any, torch.Tensor]], samples: int = 16) -> tuple[Arrays, Arrays]:
        """Do the work of the function `budget`, which makes a mode."""
        clean = self._run(evaluate, quiet=True)
        errors = error_budget(clean, (self._run(evaluate) for _ in range(samples)), self.u, self.tiny)
        check_repeatable(clean, self._run(evaluate, quiet=True), errors)
        return clean, errors

    def _run(self, evaluate: Callable[[], dict[Any, torch.Tensor]], quiet: bool = False) -> Arrays:
        self.quiet = quiet
        try:
            with self:
                tensors = evaluate()
        finally:
            self.quiet = False
        # A copy: an evaluation may return a tensor that the next evaluation writes into.
        return {name: whole_or_float64(t.detach().cpu().resolve_conj().numpy()) for name, t in tensors.items()}

    @contextmanager
    def wide(self) -> Iterator[None]:
        """Give the operations of a `with` block the noise of the accumulator's precision.

        For coordinates, which no framework computes in half precision where no tensor of the caller holds them.
        """
        kept = self.u, self.tiny
        self.u, self.tiny = self.u_acc, min(self.tiny, FLOAT32_TINY)
        try:
            yield
        finally:
            self.u, self.tiny = kept

    def perturb(
        self, func: OpOverload, out: torch.Tensor, k: float = 1.0, magnitude: torch.Tensor | None = None
    ) -> None:
        """Add to `out`, in place: k roundings, a flush to zero, and u_acc * magnitude."""
        if self.quiet or out.numel() == 0 or out._is_zerotensor():
            return
        if out.dtype != torch.float64 or out.layout != torch.strided:
            if out.is_complex() or out.layout != torch.strided:
                self.unknown_ops.add(f"{func._schema.name} to {out.dtype}")
            return
        self.noised[func._opname] += 1
        parts = [out] if magnitude is None else [out, magnitude.to(out.dtype)]
        flat = _flat(parts)
        if flat is None:
            dense = [part.contiguous() for part in parts]
            self._perturb([part.view(-1) for part in dense], k)
            out.copy_(dense[0])
        else:
            self._perturb(flat, k)

    def _perturb(self, parts: list[torch.Tensor], k: float) -> None:
        signs = self._signs
        fits = parts[0].numel() <= signs.chunk
        for chunk, *magnitude in [parts] if fits else zip(*(p.split(signs.chunk) for p in parts), strict=True):
            size, device = chunk.numel(), chunk.device
            flushed = chunk.clamp(-self.tiny, self.tiny).mul_(signs.draw(size, device))
            # As a factor, which keeps infinities; after the flush, which may have given exactly zero.
            chunk.add_(flushed).mul_(signs.draw(size, device, k * self.u))
            for terms in magnitude:
                terms = terms.nan_to_num(0.0, 0.0, 0.0)  # infinite where chunk is, and inf - inf would be NaN
                chunk.addcmul_(terms, signs.draw(size, device), value=self.u_acc)


class _Signs:
    """Random signs, and 1 + step * sign, from random places of one table: drawing each sign would cost most."""

    chunk = 2**18  # of 2 MB, so that it stays in the cache

    def __init__(self, generator: torch.Generator) -> None:
        bits = torch.randint(0, 2, (2 * self.chunk,), generator=generator, device=generator.device, dtype=torch.int8)
        self._table = 1.0 - 2.0 * bits.to(torch.float64)
        self._random = random.Random(int(torch.randint(2**62, (), generator=generator, device=generator.device)))
        self._made: dict[tuple[torch.device, float | None], torch.Tensor] = {}

    def draw(self, size: int, device: torch.device, step: float | None = None) -> torch.Tensor:
        """Return `size` signs, or with a step the factors 1 + step * sign."""
        table = self._made.get((device, step))
        if table is None:
            table = (self._table if step is None else 1.0 + step * self._table).to(device)
            self._made[device, step] = table
        return table.narrow(0, self._random.randrange(self.chunk), size)


def budget(
    evaluate: Callable[[], dict[Any, torch.Tensor]],
    u: float,
    u_acc: float,
    tiny: float,
    *,
    samples: int = 16,
    seed: int = 0,
) -> tuple[Arrays, Arrays]:
    """Return the float64 reference of `evaluate`, and how far rounding may carry each element from the reference.

    Args:
        evaluate: Computes named tensors in float64, forwards and backwards, from the same inputs at each of samples + 2
            calls. It must not draw random numbers nor keep state: running statistics are inputs.
        u: Unit roundoff of the dtype under test.
        u_acc: Unit roundoff of its accumulator.
        tiny: Smallest normal number of the dtype.
        samples: Number of noisy runs.
        seed: Of the noise; the same seed gives the same budget.

    Returns:
        (reference, E), both by name and in float64; integers and booleans of the reference keep their dtype. E is
        positive and finite where the reference is finite, and NaN elsewhere.

    Raises:
        RuntimeError: An operation draws random numbers, or two clean runs differ.
    """
    return RoundingNoise(u, u_acc, tiny, torch.Generator().manual_seed(seed)).budget(evaluate, samples)


def _flat(parts: list[torch.Tensor]) -> list[torch.Tensor] | None:
    """Return the tensors as vectors over their memory, or None where their elements lie in different orders."""
    first = parts[0]
    if not all(p.is_contiguous() for p in parts):
        same = all(p.stride() == first.stride() for p in parts)
        if not same or not aten.is_non_overlapping_and_dense(first):
            return None
    return [p.as_strided((p.numel(),), (1,)) for p in parts]
