"""The choice of a rule for each aten operation under rounding noise."""

import inspect
import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch

from eca_multi.parity.engines._private_torch import OpOverload, is_alias_of, tree_iter, tree_map

from .decompositions import decompositions
from .derived import BACKWARD
from .errors import words
from .interpolation import RESIZES
from .linear import LINEAR
from .plain_rules import Args, Mode, Rule, exact, rounded, tensors_of

aten = torch.ops.aten

# Operations that copy, select or compare: every result is an input, its negative, or a constant.
EXACT = words(
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
ERF_ERROR = 4.0
# Elementwise operations that round once; all others count as transcendental.
ARITHMETIC = words(
    "add sub rsub mul div reciprocal sqrt square fmod remainder floor_divide leaky_relu softshrink "
    "rrelu_with_noise_backward"
)


@cache
def rule(func: OpOverload) -> Rule:
    """Return the rule of an operation. The order matters: an exact or linear operation may have a decomposition too."""
    name, schema = func._opname, func._schema
    writes = any(a.alias_info is not None and a.alias_info.is_write for a in schema.arguments)
    base = name.removesuffix("_") if writes else name
    if torch.Tag.nondeterministic_seeded in func.tags and not _is_composite(func):
        return _random
    if base in EXACT or torch.Tag.view_copy in func.tags or torch.Tag.inplace_view in func.tags:
        return exact
    if any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns):
        return exact  # a view
    if writes and func not in decompositions():
        return _in_place
    if base in LINEAR:
        return LINEAR[base]
    if base in RESIZES and func._overloadname == "default":
        return RESIZES[base]
    if base in ARITHMETIC:
        return rounded
    if func is aten.pow.Tensor_Scalar:
        return _power
    if func in (aten.gelu.default, aten.gelu_backward.default):
        return _gelu
    if base in BACKWARD:
        return BACKWARD[base]
    if base in RESIZES:
        return partial(_decomposed, func.decompose)
    if func in decompositions():
        return partial(_decomposed, decompositions()[func])
    if _is_composite(func):
        return partial(_decomposed, func.decompose)
    if torch.Tag.pointwise in func.tags:
        return partial(rounded, k=2.0)
    return _unknown


def _random(mode: Mode, func: OpOverload, args: Args, kwargs: dict[str, Any]) -> Any:
    # A layer that is built within the reference draws its parameters, which weights then replace; if none does, two
    # clean runs differ.
    if args and isinstance(args[0], torch.nn.Parameter):
        drawn = func(args[0].float(), *args[1:], **kwargs)  # the numbers that a float32 layer draws from the same seed
        return args[0].copy_(drawn)
    if _is_off(func, args, kwargs):
        return rounded(mode, func, args, kwargs)
    if mode.quiet or _is_of_init():  # orthogonal_ draws a tensor of its own, from which it makes the parameter
        return func(*args, **kwargs)
    raise RuntimeError(
        f"{func._schema.name} draws random numbers in the call, which the float64 reference cannot repeat: feed the "
        "mask as an input, or turn dropout off. A layer may draw its parameters when it is built."
    )


def _is_of_init() -> bool:
    """Return whether a function of torch.nn.init draws, which are all for parameters."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__") != torch.nn.init.__name__:
        frame = frame.f_back
    return frame is not None


def _is_off(func: OpOverload, args: Args, kwargs: dict[str, Any]) -> bool:
    """Return whether an operation draws in training alone, as randomised ReLU does, and is not called for it."""
    place = next((i for i, a in enumerate(func._schema.arguments) if a.name == "training"), None)
    return place is not None and not (args[place] if place < len(args) else kwargs.get("training", False))


def _unknown(mode: Mode, func: OpOverload, args: Args, kwargs: dict[str, Any]) -> Any:
    out = func(*args, **kwargs)
    if any(t.is_floating_point() or t.is_complex() for t in tensors_of(out)):
        mode.unknown_ops.add(func._schema.name)
    arguments = list(tensors_of((args, kwargs)))

    def noisy(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        fresh = value.clone() if any(is_alias_of(value, t) for t in arguments) else value
        mode.perturb(func, fresh)
        return fresh

    return tree_map(noisy, out)


def _decomposed(steps: Callable[..., Any], mode: Mode, func: OpOverload, args: Args, kwargs: dict[str, Any]) -> Any:
    with mode:
        out = steps(*args, **kwargs)
    return _unknown(mode, func, args, kwargs) if out is NotImplemented else out


def _in_place(mode: Mode, func: OpOverload, args: Args, kwargs: dict[str, Any]) -> Any:
    """Compute the functional form with its noise, and copy the result into the operation's targets."""
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
        for target, value in zip(targets, tensors_of(values), strict=True):
            if any(is_out) and target.shape != value.shape:
                target.resize_(value.shape)
            target.copy_(value)
    if not func._schema.returns:
        return None
    return targets[0] if len(func._schema.returns) == 1 and len(targets) == 1 else tuple(targets)


def _power(mode: Mode, func: OpOverload, args: Args, kwargs: dict[str, Any]) -> Any:
    return rounded(mode, func, args, kwargs, 1.0 if args[1] in (-1, 0.5, 1, 2) else 2.0)


def _gelu(mode: Mode, func: OpOverload, args: Args, kwargs: dict[str, Any]) -> Any:
    """Take GELU and its gradient apart; kernels take erf from a polynomial, whose error is relative to 1, not to erf.

    The usual one (Abramowitz and Stegun, 7.1.26) is off by 1.5e-7, 2.5 roundings in float32, and rounds on its way.
    """
    if kwargs.get("approximate", "none") != "none":
        return _decomposed(decompositions()[func], mode, func, args, kwargs)
    x = args[-1]
    with mode:
        erf = torch.erf(x * math.sqrt(0.5))
    mode.perturb(func, erf, 0.0, torch.full_like(erf, ERF_ERROR))
    with mode:
        part = 0.5 * (1 + erf)
        if func is aten.gelu.default:
            return x * part
        return args[0] * (part + x * (torch.exp(-0.5 * (x * x)) * (0.5 * math.sqrt(2 / math.pi))))


def _is_composite(func: OpOverload) -> bool:
    return bool(func.has_kernel_for_dispatch_key(torch.DispatchKey.CompositeImplicitAutograd))
