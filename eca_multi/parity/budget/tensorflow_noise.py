"""Rounding noise in TensorFlow: the error budget of eager code, forwards and backwards, from its float64 re-runs.

TensorFlow calls a function after each operation that runs eagerly, of the forward pass and of a GradientTape's backward
pass. The function adds to the operation's results, in place, what noise.py says:

    xi * (k * u * |out| + u_acc * sqrt(n) * op(|in|) + min(tiny, |out|)),    xi = +1 or -1 per element and term

Softmax, which rounds several times inside, is computed in steps. Functions made by `tf.function` run eagerly. A layer
that casts to float32, and images that TensorFlow resizes in float32, have rounded already: such a result counts as two.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from eca_multi.parity.define.axes import SpecError
from eca_multi.parity.engines._private_tensorflow import add_op_callback, again, in_memory, remove_op_callback

from . import tensorflow_rules as rules
from .errors import Arrays, check_repeatable, error_budget, whole_or_float64

CHUNK = 2**18  # signs of one draw; a larger result takes the same signs again
FLOATS = (tf.float64, tf.float32)


class TensorFlowNoise:
    """Adds rounding noise to every eager operation of a `with noise.on():` block; see the module's formula.

    Attributes:
        unknown_ops: Operations that no table has; their results got the noise of one rounding.
        quiet: Add no noise, for the clean run.
    """

    def __init__(self, u: float, u_acc: float, tiny: float, seed: int = 0) -> None:
        self.u, self.u_acc, self.tiny = u, u_acc, tiny
        self.unknown_ops: set[str] = set()
        self.quiet = False
        self._busy = False
        self._counts: dict[str, np.ndarray] = {}
        self._random = random.Random(seed)
        self._table = 1.0 - 2.0 * np.random.default_rng(seed).integers(0, 2, 2 * CHUNK)

    @contextmanager
    def on(self) -> Iterator[None]:
        """Listen to the operations of a `with` block."""
        eager = tf.config.functions_run_eagerly()
        tf.config.run_functions_eagerly(True)
        callback = self._after
        add_op_callback(callback)
        try:
            yield
        finally:
            remove_op_callback(callback)
            tf.config.run_functions_eagerly(eager)

    def _after(
        self, name: str, inputs: Sequence[Any], attributes: Sequence[Any], outputs: Sequence[Any], *_: Any, **__: Any
    ) -> None:
        if self._busy:  # an operation of this method's own
            return
        name = name.decode() if isinstance(name, bytes) else name
        if rules.is_random(name):
            raise RuntimeError(
                f"{name} draws random numbers, which the float64 reference cannot repeat: feed the mask as an input, "
                "or turn dropout off."
            )
        if self.quiet or name in rules.EXACT:
            return
        self._busy = True
        try:
            self._perturb(name, inputs, attributes, outputs)
        finally:
            self._busy = False

    def _perturb(self, name: str, inputs: Sequence[Any], attributes: Sequence[Any], outputs: Sequence[Any]) -> None:
        floats = [in_memory(out) for out in outputs if out.dtype in FLOATS]
        addresses = {in_memory(one).ctypes.data for one in inputs if one.dtype in FLOATS}
        # A result that lies where an input does was not computed: a sum of one term, say.
        results = [out for out in floats if out.size and out.ctypes.data not in addresses]
        if not results:
            return
        if name in ("Softmax", "LogSoftmax"):
            results[0][...] = self._softmax(in_memory(inputs[0]), name == "LogSoftmax")
        elif name in rules.LINEAR:
            self._noisy(results[0], 1.0, self._size(name, inputs, attributes, outputs))
        else:
            if name not in rules.ARITHMETIC and name not in rules.TRANSCENDENTAL:
                self.unknown_ops.add(name)
            for out in results:
                self._noisy(out, rules.roundings(name))

    def _softmax(self, x: np.ndarray, in_logarithms: bool) -> np.ndarray:
        with np.errstate(all="ignore"):
            z = self._noisy(x - x.max(-1, keepdims=True))
            e = self._noisy(np.exp(z), 2.0)
            total = e.sum(-1, keepdims=True)
            self._noisy(total, 1.0, total * x.shape[-1] ** 0.5)
            return self._noisy(z - self._noisy(np.log(total), 2.0)) if in_logarithms else self._noisy(e / total)

    def _size(self, name: str, inputs: Sequence[Any], attributes: Sequence[Any], outputs: Sequence[Any]) -> np.ndarray:
        """Return sqrt(n) * op(|in|) of an operation that sums n products."""
        known = dict(zip(attributes[::2], attributes[1::2], strict=True))
        arrays = [in_memory(one) if one.dtype in FLOATS else one for one in inputs]
        linear = rules.LINEAR[name]

        def applied(function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
            of = [
                tf.constant(function(one))
                if isinstance(one, np.ndarray) and (linear is None or place in linear)
                else old
                for place, (one, old) in enumerate(zip(arrays, inputs, strict=True))
            ]
            return np.asarray(again(name, of, attributes, len(outputs)).numpy())

        count: Any = rules.terms(name, known, arrays, in_memory(outputs[0]))
        if count is None:
            fixed = [one.shape if isinstance(one, np.ndarray) else one.numpy().tobytes() for one in arrays]
            key = repr((name, fixed, attributes))
            if linear is not None or key not in self._counts:
                self._counts[key] = np.maximum(applied(np.ones_like), 1.0)
            count = self._counts[key]
        return np.abs(applied(np.abs)) * np.sqrt(count)

    def _noisy(self, out: np.ndarray, k: float = 1.0, size: np.ndarray | None = None) -> np.ndarray:
        """Add to `out`, in place: k roundings, a flush to zero, and u_acc * size."""
        if out.dtype == np.float32:
            k, size = 2.0 * k, None if size is None else 2.0 * size
        with np.errstate(all="ignore"):
            out += np.clip(out, -self.tiny, self.tiny) * self._signs(out.shape)
            out *= 1.0 + k * self.u * self._signs(out.shape)  # as a factor, which keeps infinities
            if size is not None:
                out += self.u_acc * np.nan_to_num(size, nan=0.0, posinf=0.0, neginf=0.0) * self._signs(out.shape)
        return out

    def _signs(self, shape: tuple[int, ...]) -> np.ndarray:
        size, start = int(np.prod(shape)), self._random.randrange(CHUNK)
        found = self._table[start : start + min(size, CHUNK)]
        return np.resize(found, shape) if size > CHUNK else found.reshape(shape)


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

    Arguments and results are those of `noise.budget`, but for `evaluate`: it computes named TensorFlow tensors, outputs
    and gradients alike, eagerly.

    Raises:
        RuntimeError: An operation draws random numbers, or two clean runs differ.
        SpecError: TensorFlow has an operation, or its gradient, for compiled code alone.

    Example:
        >>> import tensorflow as tf
        >>> from eca_multi.parity.budget.tensorflow_noise import budget
        >>> def evaluate():
        ...     x = tf.ones(5, tf.float64)
        ...     with tf.GradientTape() as tape:
        ...         tape.watch(x)
        ...         y = tf.reduce_sum(tf.tanh(x))
        ...     return {"y": y, "dx": tape.gradient(y, x)}
        >>> values, errors = budget(evaluate, 2.0**-24, 2.0**-24, 2.0**-126)
        >>> bool((errors["dx"] < 1e-6).all())
        True
    """
    noise = TensorFlowNoise(u, u_acc, tiny, seed)

    def run(quiet: bool) -> Arrays:
        noise.quiet = quiet
        try:
            with noise.on():
                tensors = evaluate()
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError) as error:
            raise SpecError(
                "a reference on TensorFlow must run eagerly on the CPU, operation by operation, with its gradients. "
                f"Received: {str(error).partition('} ')[2] or error}. Load it under KERAS_BACKEND=torch or jax."
            ) from error
        return {name: whole_or_float64(tensor.numpy()) for name, tensor in tensors.items()}

    clean = run(True)
    errors = error_budget(clean, (run(False) for _ in range(samples)), u, tiny)
    check_repeatable(clean, run(True), errors)
    return clean, errors
