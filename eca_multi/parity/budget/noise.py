"""Rounding noise in PyTorch: the error budget of an arbitrary layer, forwards and backwards, from its float64 re-runs.

Under `RoundingNoise` each elementary aten operation on float64 tensors, of the forward pass and of autograd's backward
pass, gives

    out + xi * (k * u * |out| + u_acc * sqrt(n) * op(|in|) + min(tiny, |out|)),    xi = +1 or -1 per element and term

with `u` the unit roundoff of the dtype under test, `u_acc` that of its accumulator, `tiny` its smallest normal number,
and k = 1 or, for transcendental functions, 2. The second term is for sums of n products only (reductions, matrix
products, convolutions, pools, scattered additions); op(|in|) is what the sum would be without cancellation. What copies
or selects gets none. What rounds several times inside (norms, softmax, gelu, losses, attention) is taken apart, so that
each step gets its noise: frameworks fuse these differently.

`tiny` stands for flushing to zero, which changes no sign and leaves zero alone; hence the minimum. It keeps roots and
logarithms of small numbers finite.

How far the re-runs stray from the clean one is, up to second-order terms, how far a correct implementation may.
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache, partial
from typing import Any, Self

import torch
from torch._C import _is_alias_of  # type: ignore[attr-defined]  # missing in torch's stub
from torch._decomp import core_aten_decompositions, get_decompositions
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

from .noisy_array import Arrays, check_repeatable, error_budget, whole_or_float64

Args = tuple[Any, ...]
Rule = Callable[["RoundingNoise", OpOverload, Args, dict[str, Any]], Any]

aten = torch.ops.aten
LOWER = (torch.float32, torch.float16, torch.bfloat16)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Values are copied, selected or compared: every result is one of the inputs, its negative, or a constant.
EXACT = _words(
    """
    clone copy _to_copy alias lift_fresh lift_fresh_copy lift contiguous convert_element_type _conj_physical device_put
    _reshape_copy _reshape_alias _unsafe_view expand_copy repeat cat stack flip roll tril triu diag_embed block_diag
    index _unsafe_index index_select gather take where select_scatter slice_scatter diagonal_scatter as_strided_scatter
    as_strided_copy index_copy index_fill masked_fill masked_select masked_scatter _unsafe_masked_index masked_fill_
    slice_backward select_backward diagonal_backward constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d
    replication_pad1d replication_pad2d replication_pad3d pixel_shuffle pixel_unshuffle channel_shuffle im2col
    native_channel_shuffle embedding unfold_copy split_copy split_with_sizes_copy unbind_copy view_copy
    upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d
    _upsample_nearest_exact3d max_unpool2d max_unpool3d
    neg abs relu relu6 hardtanh hardtanh_backward clamp clamp_min clamp_max maximum minimum fmax fmin sign sgn positive
    floor ceil round trunc fix frac threshold threshold_backward copysign heaviside nan_to_num nextafter hardshrink
    hardshrink_backward softshrink_backward
    max min amax amin aminmax cummax cummin _cummax_helper _cummin_helper sort topk kthvalue median nanmedian mode
    max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool2d adaptive_max_pool3d unique_dim _unique2
    empty empty_permuted complex zeros ones full arange eye scalar_tensor new_empty new_zeros new_ones new_full
    empty_like zeros_like ones_like full_like empty_strided new_empty_strided fill zero set resize resize_as_ detach
    requires_grad tensor linspace item _local_scalar_dense is_same_size equal record_stream pin_memory _pin_memory
    """
)

# Rounded once; any other elementwise operation counts as transcendental.
ARITHMETIC = _words("add sub rsub mul div reciprocal sqrt square fmod remainder floor_divide leaky_relu softshrink")

# Taken apart although PyTorch counts some of them among its core operations.
COMPOSITE = (
    aten._softmax,
    aten._log_softmax,
    aten.batch_norm_backward,
    aten.gelu,
    aten.elu,
    aten.addmv,
    aten.upsample_bilinear2d,
    aten.upsample_linear1d,
    aten.upsample_trilinear3d,
    aten.upsample_bicubic2d,
    aten.grid_sampler_2d,
)


class RoundingNoise(TorchDispatchMode):
    """Add rounding noise to every float64 operation of a `with` block; see the module's formula.

    `evaluate` must not draw random numbers: a mask is an input. Casts to a lower precision stay in float64, so that the
    reference of a layer that says `.float()` is one. Scaled dot-product attention takes its unfused path meanwhile.

    Attributes:
        noised: How often each operation got noise.
        unknown_ops: Operations that no table knows; their results got the noise of one rounding.
        quiet: Add none, for the clean run. Random operations, such as the initialisers of a layer that is built at its
            first use, pass.
    """

    def __init__(self, u: float, u_acc: float, tiny: float, generator: torch.Generator) -> None:
        super().__init__()
        self.u, self.u_acc, self.tiny = u, u_acc, tiny
        self.noised: Counter[str] = Counter()
        self.unknown_ops: set[str] = set()
        self.quiet = False
        self._signs = _Signs(u, generator)
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
        # In the backward pass a cast to float32 belongs to a float32 leaf, which needs it.
        if kwargs.get("dtype") in LOWER and _has_float64(args) and torch._C._current_graph_task_id() == -1:
            kwargs = {**kwargs, "dtype": torch.float64}
        return rule(func)(self, func, args, kwargs)

    def budget(self, evaluate: Callable[[], dict[Any, torch.Tensor]], samples: int = 16) -> tuple[Arrays, Arrays]:
        """As the function `budget`, which makes the mode; here the mode's attributes can be read afterwards."""
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
        # A copy: an evaluation may return a tensor that the next one writes into.
        return {name: whole_or_float64(t.detach().cpu().resolve_conj().numpy()) for name, t in tensors.items()}

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
            # As a factor, which leaves infinities as they are; after the flush, which may have left exactly zero.
            chunk.add_(flushed).mul_(signs.draw(size, device, k))
            for terms in magnitude:
                terms = terms.nan_to_num(0.0, 0.0, 0.0)  # infinite where chunk is, and inf - inf would be NaN
                chunk.addcmul_(terms, signs.draw(size, device), value=self.u_acc)


class _Signs:
    """Random signs, and 1 + k * u * sign, from one table read at random places: drawing them costs most otherwise."""

    chunk = 2**18  # of 2 MB, so that the passes over a chunk find it in the cache

    def __init__(self, u: float, generator: torch.Generator) -> None:
        self._u = u
        bits = torch.randint(0, 2, (2 * self.chunk,), generator=generator, device=generator.device, dtype=torch.int8)
        self._table = 1.0 - 2.0 * bits.to(torch.float64)
        self._random = random.Random(int(torch.randint(2**62, (), generator=generator, device=generator.device)))
        self._made: dict[tuple[torch.device, float], torch.Tensor] = {}

    def draw(self, size: int, device: torch.device, k: float = 0.0) -> torch.Tensor:
        """Return `size` signs, or with k the factors 1 + k * u * sign."""
        table = self._made.get((device, k))
        if table is None:
            table = (1.0 + k * self._u * self._table if k else self._table).to(device)
            self._made[device, k] = table
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
    """Return the float64 reference of `evaluate` and how far, element by element, rounding may carry one from it.

    Args:
        evaluate: Computes named tensors in float64, forwards and backwards, from the same inputs at each call: it must
            not draw random numbers nor keep state (running statistics are inputs). It is called samples + 2 times.
        u: Unit roundoff of the dtype under test.
        u_acc: Unit roundoff of its accumulator.
        tiny: Smallest normal number of the dtype.
        samples: Number of noisy runs.
        seed: Of the noise; the same one gives the same budget.

    Returns:
        (reference, E), both by name and in float64; integers and booleans of the reference stay what they are. E is
        positive and finite where the reference is finite, and NaN elsewhere.

    Raises:
        RuntimeError: An operation draws random numbers, or two clean runs differ.
    """
    return RoundingNoise(u, u_acc, tiny, torch.Generator().manual_seed(seed)).budget(evaluate, samples)


@cache
def rule(func: OpOverload) -> Rule:
    """Return what to do for an operation. The order matters: an exact or a linear one may have a decomposition too."""
    name, schema = func._opname, func._schema
    writes = any(a.alias_info is not None and a.alias_info.is_write for a in schema.arguments)
    base = name.removesuffix("_") if writes else name
    if torch.Tag.nondeterministic_seeded in func.tags and not _is_composite(func):
        return _random
    if base in EXACT or torch.Tag.view_copy in func.tags or torch.Tag.inplace_view in func.tags:
        return _exact
    if any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns):
        return _exact  # a view
    if writes and func not in _decompositions():
        return _in_place
    if base in LINEAR:
        return LINEAR[base]
    if base in ARITHMETIC:
        return _rounded
    if func is aten.pow.Tensor_Scalar:
        return _power
    if func in _decompositions():
        return partial(_decomposed, _decompositions()[func])
    if _is_composite(func):
        return partial(_decomposed, func.decompose)
    if torch.Tag.pointwise in func.tags:
        return partial(_rounded, k=2.0)
    return _unknown


def _exact(mode: RoundingNoise, func: OpOverload, args: Args, kwargs: dict[str, Any]) -> Any:
    if func is aten.copy_.default and args[1].dtype == torch.float64 and args[0].dtype in LOWER:
        mode.unknown_ops.add(f"{func._schema.name} to {args[0].dtype}")
    return func(*args, **kwargs)


def _random(mode: RoundingNoise, func: OpOverload, args: Args, kwargs: dict[str, Any]) -> Any:
    if mode.quiet:
        return func(*args, **kwargs)
    raise RuntimeError(
        f"{func._schema.name} draws random numbers, which the float64 reference cannot repeat: feed the mask as an "
        "input, or turn dropout off."
    )


def _rounded(mode: RoundingNoise, func: OpOverload, args: Args, kwargs: dict[str, Any], k: float = 1.0) -> Any:
    out = func(*args, **kwargs)
    for tensor in _tensors(out):
        mode.perturb(func, tensor, k)
    return out


def _unknown(mode: RoundingNoise, func: OpOverload, args: Args, kwargs: dict[str, Any]) -> Any:
    out = func(*args, **kwargs)
    if any(t.is_floating_point() or t.is_complex() for t in _tensors(out)):
        mode.unknown_ops.add(func._schema.name)
    given = list(_tensors((args, kwargs)))

    def noisy(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        fresh = value.clone() if any(_is_alias_of(value, t) for t in given) else value
        mode.perturb(func, fresh)
        return fresh

    return tree_map(noisy, out)


def _decomposed(
    steps: Callable[..., Any], mode: RoundingNoise, func: OpOverload, args: Args, kwargs: dict[str, Any]
) -> Any:
    with mode:
        out = steps(*args, **kwargs)
    return _unknown(mode, func, args, kwargs) if out is NotImplemented else out


def _in_place(mode: RoundingNoise, func: OpOverload, args: Args, kwargs: dict[str, Any]) -> Any:
    """Compute the functional form with its noise, and copy that into what the operation writes to."""
    written = [a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    named = {a.name: value for a, value in zip(func._schema.arguments, args, strict=False)} | kwargs
    targets = [t for name in written for t in tree_iter(named[name]) if isinstance(t, torch.Tensor)]
    if not any(t.dtype == torch.float64 for t in targets):
        return func(*args, **kwargs)
    functional = getattr(getattr(torch.ops, func.namespace), func._opname.removesuffix("_"), None)
    if functional is None:
        func(*args, **kwargs)
        mode.unknown_ops.add(func._schema.name)
        for target in targets:
            mode.perturb(func, target)
    else:
        is_out = [a.kwarg_only and a.name in written for a in func._schema.arguments]
        kept = {n: v for n, v in kwargs.items() if n not in written}
        with mode:
            values = functional(*args, **kept)
        for target, value in zip(targets, _tensors(values), strict=True):
            if any(is_out) and target.shape != value.shape:
                target.resize_(value.shape)
            target.copy_(value)
    if not func._schema.returns:
        return None
    return targets[0] if len(func._schema.returns) == 1 and len(targets) == 1 else tuple(targets)


def _norm(mode: RoundingNoise, func: OpOverload, args: Args, kwargs: dict[str, Any]) -> Any:
    order = args[1] if len(args) > 1 else kwargs.get("ord", 2)
    return (_exact if order in (math.inf, -math.inf) else _sums(_fan_in))(mode, func, args, kwargs)


def _sums(terms: Callable[..., float | torch.Tensor]) -> Rule:
    """Return the rule of an operation linear in its float64 tensors, whose results are sums of terms(...) products."""

    def sums(mode: RoundingNoise, func: OpOverload, args: Args, kwargs: dict[str, Any]) -> Any:
        out = func(*args, **kwargs)
        if mode.quiet or out.dtype != torch.float64 or out.numel() == 0:
            return out
        magnitude = func(*tree_map(_magnitude, args), **kwargs)
        mode.perturb(func, out, 1.0, magnitude * terms(func, out, *args, **kwargs) ** 0.5)
        return out

    return sums


def _convolution(mode: RoundingNoise, func: OpOverload, args: Args, kwargs: dict[str, Any]) -> Any:
    """The bias is added by itself: most frameworks round in between."""
    x, weight, bias, stride, padding, dilation, transposed, *rest = args
    out = func(x, weight, None, stride, padding, dilation, transposed, *rest)
    if not mode.quiet and out.numel():
        n = _contributions(weight, stride) * x.shape[1] if transposed else weight[0].numel()
        size = func(_magnitude(x), _magnitude(weight), None, stride, padding, dilation, transposed, *rest)
        mode.perturb(func, out, 1.0, size * (n / (rest[-1] if transposed else 1)) ** 0.5)
    if bias is None:
        return out
    with mode:
        return out + bias.view(-1, *[1] * (weight.ndim - 2))


def _convolution_backward(mode: RoundingNoise, func: OpOverload, args: Args, kwargs: dict[str, Any]) -> Any:
    cotangent, x, weight, _, stride, _, _, transposed, _, groups, _ = args
    outs = func(*args, **kwargs)
    if mode.quiet or cotangent.numel() == 0:
        return outs
    sizes = func(*map(_magnitude, args), **kwargs)
    per_group = cotangent.shape[1] // groups
    positions = (x if transposed else cotangent)[:, 0].numel()
    into_x = weight[0].numel() if transposed else per_group * _contributions(weight, stride)
    for out, size, n in zip(outs, sizes, (into_x, positions, cotangent[:, 0].numel()), strict=True):
        if out is not None:
            mode.perturb(func, out, 1.0, size * n**0.5)
    return outs


def _contributions(weight: torch.Tensor, stride: list[int]) -> int:
    """Count the taps of a kernel that reach one position of a map that it was spread over."""
    size = weight.shape[2:]
    strides = stride if len(stride) == len(size) else list(stride) * len(size)
    return math.prod(math.ceil(k / s) for k, s in zip(size, strides, strict=True))


def _moments(x: torch.Tensor, dim: Any, correction: float | None, keepdim: bool) -> tuple[torch.Tensor, torch.Tensor]:
    dims = list(range(x.ndim)) if dim is None or dim == [] else list(dim)
    centre = x.mean(dims, keepdim=True) if dims else x
    deviation = x - centre
    count = math.prod(x.shape[d] for d in dims) - (1 if correction is None else correction)
    square = deviation * deviation
    total = square.sum(dims, keepdim=keepdim) if dims else square
    return total / max(count, 0), centre if keepdim or not dims else centre.reshape(total.shape)


def _var(x: torch.Tensor, dim: Any = None, *, correction: float | None = None, keepdim: bool = False) -> torch.Tensor:
    return _moments(x, dim, correction, keepdim)[0]


def _std(x: torch.Tensor, dim: Any = None, *, correction: float | None = None, keepdim: bool = False) -> torch.Tensor:
    return _moments(x, dim, correction, keepdim)[0].sqrt()


def _var_mean(x: torch.Tensor, dim: Any = None, *, correction: float | None = None, keepdim: bool = False) -> Any:
    return _moments(x, dim, correction, keepdim)


def _std_mean(x: torch.Tensor, dim: Any = None, *, correction: float | None = None, keepdim: bool = False) -> Any:
    var, mean = _moments(x, dim, correction, keepdim)
    return var.sqrt(), mean


def _addmm(bias: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *, beta: float = 1, alpha: float = 1) -> torch.Tensor:
    """As PyTorch's own, which multiplies by 1 and so would round."""
    product = a.mm(b) if alpha == 1 else alpha * a.mm(b)
    return product + (bias if beta == 1 else beta * bias)


def _normalised(
    x: torch.Tensor, mean: torch.Tensor, scale: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None
) -> torch.Tensor:
    """As x * scale + shift: of the forms in use, the one that loses most where x is near its mean."""
    scale = scale if weight is None else scale * weight
    shift = -(mean * scale)
    return x * scale + (shift if bias is None else shift + bias)


def _layer_norm(
    x: torch.Tensor, shape: list[int], weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, ...]:
    var, mean = _moments(x, list(range(-len(shape), 0)), 0, keepdim=True)
    rstd = (var + eps).rsqrt()
    return _normalised(x, mean, rstd, weight, bias), mean, rstd


def _group_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    n: int,
    channels: int,
    _: int,
    groups: int,
    eps: float,
) -> tuple[torch.Tensor, ...]:
    grouped = x.reshape(n, groups, channels // groups, -1)
    var, mean = _moments(grouped, [2, 3], 0, keepdim=True)
    rstd = (var + eps).rsqrt()
    affine = [None if a is None else a.view(1, groups, channels // groups, 1) for a in (weight, bias)]
    return _normalised(grouped, mean, rstd, *affine).view(x.shape), mean.view(n, groups), rstd.view(n, groups)


def _batch_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[torch.Tensor, ...]:
    shape = [1, -1] + [1] * (x.ndim - 2)
    if training or running_mean is None or running_var is None:
        n = x.numel() // max(x.shape[1], 1)
        var, mean = _moments(x, [d for d in range(x.ndim) if d != 1], 0, keepdim=False)
        rstd = (var + eps).rsqrt()
        saved = (mean, rstd)
        for running, new in ((running_mean, mean), (running_var, var * (n / max(n - 1, 1)))):
            if running is not None:
                running.copy_(momentum * new + (1 - momentum) * running)
    else:
        mean, rstd = running_mean, (running_var + eps).rsqrt()
        saved = (x.new_empty(0), x.new_empty(0))
    affine = [None if a is None else a.view(shape) for a in (weight, bias)]
    return _normalised(x, mean.view(shape), rstd.view(shape), *affine), *saved


@cache
def _decompositions() -> dict[Any, Callable[..., Any]]:
    """Return PyTorch's decompositions, and ours where its own end in an operation that is none, or round too little."""
    return {
        **core_aten_decompositions(),
        **get_decompositions(COMPOSITE),
        aten.addmm.default: _addmm,
        aten.native_layer_norm.default: _layer_norm,
        aten.native_group_norm.default: _group_norm,
        aten.native_batch_norm.default: _batch_norm,
        aten._native_batch_norm_legit.default: _batch_norm,
        aten._native_batch_norm_legit.no_stats: lambda x, w, b, *rest: _batch_norm(x, w, b, None, None, *rest),
        aten._native_batch_norm_legit_no_training.default: lambda x, w, b, mean, var, momentum, eps: _batch_norm(
            x, w, b, mean, var, False, momentum, eps
        ),
        aten._batch_norm_with_update.default: lambda x, w, b, mean, var, momentum, eps: (
            *_batch_norm(x, w, b, mean, var, True, momentum, eps),
            x.new_empty(0, dtype=torch.uint8),
        ),
        aten.var.correction: _var,
        aten.std.correction: _std,
        aten.var_mean.correction: _var_mean,
        aten.std_mean.correction: _std_mean,
    }


def _fan_in(func: OpOverload, out: torch.Tensor, x: torch.Tensor, *_: Any, **__: Any) -> float:
    return max(x.numel() / out.numel(), 1.0)


def _inner(func: OpOverload, out: torch.Tensor, a: torch.Tensor, *_: Any, **__: Any) -> float:
    return a.shape[-1] if a.ndim else 1


def _window(func: OpOverload, out: torch.Tensor, x: torch.Tensor, kernel: list[int], *_: Any, **__: Any) -> float:
    return math.prod(kernel if len(kernel) > 1 else kernel * int(func._opname.removesuffix("d")[-1]))


def _windows(
    func: OpOverload, out: torch.Tensor, cotangent: torch.Tensor, x: torch.Tensor, kernel: list[int], *_: Any, **__: Any
) -> float:
    return max(math.prod(kernel) * cotangent.numel() / out.numel(), 1.0)


def _position(func: OpOverload, out: torch.Tensor, x: torch.Tensor, dim: int, *_: Any, **__: Any) -> torch.Tensor:
    count = torch.arange(1, x.shape[dim] + 1 if x.ndim else 2, device=x.device, dtype=torch.float64)
    return count.view(-1, *[1] * (x.ndim - 1 - dim % x.ndim)) if x.ndim else count.view(())


def _multiplicity(func: OpOverload, out: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Count what is added up, by adding ones."""
    ones = tree_map(lambda a: torch.ones_like(a) if _is_float64(a) else a, args)
    counts: torch.Tensor = func(*ones, **kwargs)
    return counts.abs().clamp_(min=1)


def _scattered(mode: RoundingNoise, func: OpOverload, args: Args, kwargs: dict[str, Any]) -> Any:
    """Writing to places adds only where `accumulate` or `reduce` says so."""
    names = [a.name for a in func._schema.arguments]
    given = dict(zip(names, args, strict=False)) | kwargs
    adds = given.get("accumulate", False) or given.get("reduce") not in (None, "amax", "amin")
    return (_sums(_multiplicity) if adds else _exact)(mode, func, args, kwargs)


def _power(mode: RoundingNoise, func: OpOverload, args: Args, kwargs: dict[str, Any]) -> Any:
    return _rounded(mode, func, args, kwargs, 1.0 if args[1] in (-1, 0.5, 1, 2) else 2.0)


def _each(names: str, rule: Rule) -> dict[str, Rule]:
    """Return the rule under each name; `#` stands for 1, 2 and 3 dimensions."""
    return {name.replace("#", str(d)): rule for name in names.split() for d in (1, 2, 3)}


LINEAR: dict[str, Rule] = {
    "convolution": _convolution,
    "convolution_backward": _convolution_backward,
    "linalg_vector_norm": _norm,
    **_each("index_put _unsafe_index_put _index_put_impl scatter scatter_reduce index_reduce", _scattered),
    **_each("sum mean nansum prod trace", _sums(_fan_in)),
    **_each("mm bmm mv dot vdot", _sums(_inner)),
    **_each("cumsum cumprod", _sums(_position)),
    **_each("avg_pool#d", _sums(_window)),
    **_each("avg_pool#d_backward", _sums(_windows)),
    **_each("_adaptive_avg_pool#d _adaptive_avg_pool#d_backward upsample_linear1d_backward", _sums(_fan_in)),
    **_each("upsample_bilinear2d_backward upsample_trilinear3d_backward upsample_bicubic2d_backward", _sums(_fan_in)),
    **_each("_upsample_bilinear2d_aa_backward _upsample_bicubic2d_aa_backward", _sums(_fan_in)),
    **_each("index_add scatter_add embedding_dense_backward col2im unfold_backward", _sums(_multiplicity)),
    **_each("_unsafe_masked_index_put_accumulate", _sums(_multiplicity)),
    **_each("max_pool#d_with_indices_backward adaptive_max_pool#d_backward", _sums(_multiplicity)),
    **_each("upsample_nearest#d_backward _upsample_nearest_exact#d_backward", _sums(_multiplicity)),
    **_each("reflection_pad#d_backward replication_pad#d_backward", _sums(_multiplicity)),
}


def _is_composite(func: OpOverload) -> bool:
    return bool(func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd))


def _is_float64(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == torch.float64


def _has_float64(args: Args) -> bool:
    return any(_is_float64(a) for a in args)


def _tensors(tree: Any) -> Iterator[torch.Tensor]:
    return (leaf for leaf in tree_iter(tree) if isinstance(leaf, torch.Tensor))


def _magnitude(value: Any) -> Any:
    # In float32: the size of an error needs no more, and a convolution takes a quarter of the time.
    return value.abs().float() if _is_float64(value) else value


def _flat(parts: list[torch.Tensor]) -> list[torch.Tensor] | None:
    """Return the tensors as vectors over their memory, or None where their elements lie in different orders."""
    first = parts[0]
    if not all(p.is_contiguous() for p in parts):
        same = all(p.stride() == first.stride() for p in parts)
        if not same or not aten.is_non_overlapping_and_dense(first):
            return None
    return [p.as_strided((p.numel(),), (1,)) for p in parts]
