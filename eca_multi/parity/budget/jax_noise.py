"""Rounding noise in JAX: the error budget of a function of JAX arrays, from float64 re-runs of its jaxpr.

A function is traced once, with its gradients where it takes them (`jax.vjp`), and its jaxpr is interpreted in float64.
Each result of a primitive moves as noise.py says:

    xi * (k * u * |out| + u_acc * sqrt(n) * op(|in|) + min(tiny, |out|)),    xi = +1 or -1 per element and term

Every floating-point number is a float64 there: a cast to a lower precision does nothing, since a layer may cast to
float32. Loops, branches, jit, remat and custom derivatives are followed. The interpretation is compiled once.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from . import jax_rules as rules
from .errors import Arrays, error_budget, whole_or_float64

CHUNK = 2**18  # signs of one draw; a larger result takes the same signs again
Values = list[Any]


class JaxNoise:
    """Interprets jaxprs in float64, with noise.

    Attributes:
        unknown_ops: Primitives that no table has; their results got the noise of one rounding.
    """

    def __init__(self) -> None:
        self.unknown_ops: set[str] = set()

    def run(self, closed: ClosedJaxpr, args: Sequence[Any], signs: "Signs") -> Values:
        """Return the results of a jaxpr."""
        return self._run(closed.jaxpr, closed.consts, args, signs)

    def _run(self, jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any], signs: "Signs") -> Values:
        known: dict[Any, Any] = {}

        def read(atom: Any) -> Any:
            return _wide(atom.val) if isinstance(atom, Literal) else known[atom]

        known.update(zip(jaxpr.constvars, map(_wide, consts), strict=True))
        known.update(zip(jaxpr.invars, map(_wide, args), strict=True))
        for eqn in jaxpr.eqns:
            results = self._equation(eqn, [read(atom) for atom in eqn.invars], signs)
            known.update(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, eqn: Any, args: Values, signs: "Signs") -> Values:
        name, params = eqn.primitive.name, eqn.params
        if name in _CONTROL:
            return _CONTROL[name](self, params, args, signs)
        inner = next((params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in params), None)
        if isinstance(inner, ClosedJaxpr):
            return self.run(inner, args, signs)
        if isinstance(inner, Jaxpr):
            return self._run(inner, (), args, signs)
        if name in rules.RANDOM:
            raise RuntimeError(
                f"{name} draws random numbers, which the float64 reference cannot repeat: feed the mask as an input, "
                "or turn dropout off."
            )
        if name == "bitcast_convert_type":  # the bits of the dtype that the caller wrote
            args = [jnp.asarray(a, atom.aval.dtype) for a, atom in zip(args, eqn.invars, strict=True)]
        else:
            params = {key: _wide_dtype(value) for key, value in params.items()}

        def bind(*operands: Any) -> Any:
            return eqn.primitive.bind(*operands, **params)

        out = args[0] if name == "reduce_precision" else bind(*args)
        outs = [_wide(o) for o in out] if eqn.primitive.multiple_results else [_wide(out)]
        if name in rules.EXACT:
            return outs
        if name in rules.LINEAR:
            size = rules.size_of_sums(bind, name, args, params)
            return [signs.noisy(outs[0], 1.0, size)]
        known = name in rules.ARITHMETIC or name in rules.TRANSCENDENTAL or name == "integer_pow"
        if not known and any(_is_float(o) for o in outs):
            self.unknown_ops.add(name)
        return [signs.noisy(o, rules.roundings(name, params) if known else 1.0) for o in outs]


class Signs:
    """The noise of one run: its levels, and random signs from places of one table that a seed decides.

    Drawing each sign would cost most. Levels of 0 leave every number as it is, so that the clean run needs no program
    of its own.
    """

    def __init__(self, levels: Any, table: Any, seed: Any) -> None:
        self._levels, self._table, self._seed, self._draws = levels, table, seed, 0

    def noisy(self, out: Any, k: float, size: Any = None) -> Any:
        """Add k roundings, a flush to zero, and u_acc * size."""
        if not _is_float(out) or out.size == 0:
            return out
        u, u_acc, tiny = self._levels
        flush, rounding, summing = self._draw(out.shape)
        out = out + jnp.clip(out, -tiny, tiny) * flush
        out = out * (1.0 + k * u * rounding)  # as a factor, which keeps infinities
        if size is None:
            return out
        return out + u_acc * jnp.nan_to_num(size, nan=0.0, posinf=0.0, neginf=0.0) * summing

    def within(self, step: Any) -> "Signs":
        """Return the noise of one step of a loop, or of one branch."""
        start = self._seed + self._place() + jnp.asarray(step).astype(jnp.uint64) * np.uint64(0xA0761D6478BD642F)
        return Signs(self._levels, self._table, _mixed(start))

    def _draw(self, shape: tuple[int, ...]) -> Any:
        size = math.prod(shape)
        start = (self._seed + self._place()) % np.uint64(CHUNK)
        signs = jax.lax.dynamic_slice(self._table, (0, start.astype(jnp.int64)), (3, min(size, CHUNK)))
        if size > CHUNK:
            signs = jnp.tile(signs, (1, -(-size // CHUNK)))[:, :size]
        return signs.reshape(3, *shape)

    def _place(self) -> np.uint64:
        self._draws += 1
        return np.uint64(self._draws * 0x9E3779B97F4A7C15 % 2**64)


def budget(
    evaluate: Callable[[], dict[Any, Any]],
    u: float,
    u_acc: float,
    tiny: float,
    *,
    samples: int = 16,
    seed: int = 0,
) -> tuple[Arrays, Arrays]:
    """Return the float64 reference of `evaluate`, and how far rounding may carry each element from the reference.

    Arguments and results are those of `noise.budget`, but for `evaluate`: it computes named JAX arrays, outputs and
    gradients alike, and is traced, with float64 switched on. It may compute in any precision.

    Raises:
        RuntimeError: A primitive draws random numbers.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from eca_multi.parity.budget.jax_noise import budget
        >>> def evaluate():
        ...     y, back = jax.vjp(lambda x: jnp.tanh(x).sum(), jnp.ones(5))
        ...     return {"y": y, "dx": back(jnp.ones_like(y))[0]}
        >>> values, errors = budget(evaluate, 2.0**-24, 2.0**-24, 2.0**-126)
        >>> bool((errors["dx"] < 1e-6).all())
        True
    """
    noise = JaxNoise()
    names: list[Any] = []
    rng = np.random.default_rng(seed)
    signs = 1.0 - 2.0 * rng.integers(0, 2, (3, 2 * CHUNK)).astype(np.float64)
    seeds = rng.integers(2**63, size=samples + 1, dtype=np.uint64)

    def traced() -> Values:
        found = evaluate()
        names[:] = found
        return list(found.values())

    with jax.enable_x64(True):
        closed, table = jax.make_jaxpr(traced)(), jnp.asarray(signs)
        program = jax.jit(lambda *noisy: noise.run(closed, (), Signs(*noisy)))

        def run(levels: tuple[float, float, float], own: np.uint64) -> Arrays:
            values = program(np.array(levels), table, own)
            return {name: whole_or_float64(a) for name, a in zip(names, values, strict=True)}

        reference = run((0.0, 0.0, 0.0), seeds[0])
        errors = error_budget(reference, (run((u, u_acc, tiny), own) for own in seeds[1:]), u, tiny)
        return reference, errors


def _mixed(x: Any) -> Any:
    """Spread a 64-bit number: splitmix64's last steps."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _is_float(value: Any) -> bool:
    return bool(jnp.issubdtype(jnp.result_type(value), jnp.floating))


def _wide(value: Any) -> Any:
    """Return a floating-point value in float64; integers, booleans and keys stay."""
    return jnp.asarray(value, jnp.float64) if hasattr(value, "dtype") and _is_float(value) else jnp.asarray(value)


def _wide_dtype(value: Any) -> Any:
    """Return float64 for a parameter that is a floating-point dtype."""
    is_dtype = isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic))
    return np.dtype(np.float64) if is_dtype and jnp.issubdtype(value, jnp.floating) else value


def _cond(noise: JaxNoise, params: rules.Params, args: Values, signs: Signs) -> Values:
    inner = signs.within(0)
    branches = [lambda *a, branch=branch: noise.run(branch, a, inner) for branch in params["branches"]]
    return list(jax.lax.switch(args[0], branches, *args[1:]))


def _while(noise: JaxNoise, params: rules.Params, args: Values, signs: Signs) -> Values:
    in_cond = params["cond_nconsts"]
    split = in_cond + params["body_nconsts"]
    for_cond, for_body, start = args[:in_cond], args[in_cond:split], args[split:]

    def proceeds(state: Any) -> Any:
        step, carry = state
        return noise.run(params["cond_jaxpr"], [*for_cond, *carry], signs.within(step))[0]

    def body(state: Any) -> Any:
        step, carry = state
        return step + 1, noise.run(params["body_jaxpr"], [*for_body, *carry], signs.within(step))

    return list(jax.lax.while_loop(proceeds, body, (jnp.int64(0), start))[1])


def _scan(noise: JaxNoise, params: rules.Params, args: Values, signs: Signs) -> Values:
    n, carried = params["num_consts"], params["num_carry"]
    consts, start, rows = args[:n], args[n : n + carried], args[n + carried :]

    def body(state: Any, row: Any) -> Any:
        step, carry = state
        outs = noise.run(params["jaxpr"], [*consts, *carry, *row], signs.within(step))
        return (step + 1, outs[:carried]), outs[carried:]

    (_, carry), stacked = jax.lax.scan(
        body, (jnp.int64(0), start), rows, length=params["length"], reverse=params["reverse"]
    )
    return [*carry, *stacked]


_CONTROL: dict[str, Callable[..., Values]] = {"cond": _cond, "while": _while, "scan": _scan}
