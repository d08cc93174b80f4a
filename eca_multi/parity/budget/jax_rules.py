"""JAX's primitives under rounding noise: those that copy or select, those that round once, and those that sum."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from .errors import words

Params = Mapping[str, Any]

# Primitives whose every result is an input, its negative, or a constant.
EXACT = words(
    """
    copy copy_p neg abs sign floor ceil round max min clamp select_n stop_gradient reshape broadcast_in_dim squeeze
    expand_dims transpose slice dynamic_slice dynamic_update_slice concatenate pad rev gather scatter iota sort
    reduce_max reduce_min argmax argmin cummax cummin top_k reduce_window_max reduce_window_min select_and_gather_add
    split convert_element_type reduce_precision real imag optimization_barrier nextafter device_put sharding_constraint
    name pvary empty empty2 zeros_like tile
    """
)
# Elementwise primitives that round once; all others count as transcendental.
ARITHMETIC = words("add add_any sub mul div rem square sqrt")
# Primitives linear in each of their floating-point operands: an error has the size of the result on absolute values.
LINEAR = words(
    """
    reduce_sum dot_general conv_general_dilated reduce_window_sum cumsum cumprod reduce_prod scatter_add scatter-add
    scatter_mul scatter-mul select_and_scatter_add
    """
)
TRANSCENDENTAL = words(
    """
    exp exp2 log log1p expm1 sin cos tan asin acos atan atan2 sinh cosh tanh asinh acosh atanh logistic rsqrt cbrt pow
    erf erfc erf_inv lgamma digamma igamma igammac polygamma regularized_incomplete_beta bessel_i0e bessel_i1e
    cumlogsumexp random_gamma_grad zeta
    """
)
RANDOM = words("random_bits rng_bit_generator rng_uniform random_gamma")


def roundings(name: str, params: Params) -> float:
    """Return how many roundings an elementwise primitive is charged."""
    if name == "integer_pow":
        return 1.0 if params["y"] in (-1, 0, 1, 2) else 2.0
    return 1.0 if name in ARITHMETIC else 2.0


def size_of_sums(bind: Callable[..., jax.Array], name: str, args: list[Any], params: Params) -> jax.Array:
    """Return sqrt(n) * op(|in|) of a primitive that sums n products."""
    return bind(*map(_absolute, args)) * jnp.sqrt(_TERMS.get(name, _multiplicity)(bind, args, params))


def _absolute(value: Any) -> Any:
    return jnp.abs(value) if _is_float(value) else value


def _is_float(value: Any) -> bool:
    return bool(jnp.issubdtype(jnp.result_type(value), jnp.floating))


def _multiplicity(bind: Callable[..., jax.Array], args: list[Any], params: Params) -> jax.Array:
    """Count the terms of each sum: the sum of ones."""
    return jnp.maximum(bind(*(jnp.ones_like(a) if _is_float(a) else a for a in args)), 1.0)


def _reduced(bind: Any, args: list[Any], params: Params) -> float:
    return math.prod(args[0].shape[axis] for axis in params["axes"])


def _contracted(bind: Any, args: list[Any], params: Params) -> float:
    (axes, _), _ = params["dimension_numbers"]
    return math.prod(args[0].shape[axis] for axis in axes)


def _window(bind: Any, args: list[Any], params: Params) -> float:
    """Count the elements of a window that are not holes of a dilated operand."""
    dilations = params["base_dilation"]
    return math.prod(math.ceil(w / d) for w, d in zip(params["window_dimensions"], dilations, strict=True))


def _kernel(bind: Any, args: list[Any], params: Params) -> float:
    """Count the products of one result; a dilated operand has holes, so that fewer elements of the kernel meet one."""
    shape, (_, channels, *axes) = args[1].shape, params["dimension_numbers"].rhs_spec
    dilations = params["lhs_dilation"]
    return shape[channels] * math.prod(math.ceil(shape[a] / d) for a, d in zip(axes, dilations, strict=True))


def _position(bind: Any, args: list[Any], params: Params) -> jax.Array:
    axis, x = params["axis"], args[0]
    count = jnp.arange(1.0, x.shape[axis] + 1).reshape(-1, *[1] * (x.ndim - 1 - axis))
    return jnp.flip(count, 0) if params["reverse"] else count


_TERMS: dict[str, Callable[..., Any]] = {
    "reduce_sum": _reduced,
    "reduce_prod": _reduced,
    "dot_general": _contracted,
    "conv_general_dilated": _kernel,
    "reduce_window_sum": _window,
    "cumsum": _position,
    "cumprod": _position,
}
