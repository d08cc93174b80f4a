"""The engine for JAX functions, which also runs Flax and Keras on JAX.

Whatever the framework, a layer becomes a pure function apply(weights, state, inputs) -> (outputs, state), with weights
and state as dicts by native name, and is differentiated by `jax.vjp`.
"""

import io
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eca_multi.parity.define.adapters import Adapter
from eca_multi.parity.define.job import Job
from eca_multi.parity.define.maps import WeightMap
from eca_multi.parity.define.tensor import Cotangent

from .base import Computed, Engine, Native, Unsupported
from .weight_map import function_weights, map_of, native_weights

Apply = Callable[[Native, Native, Native], tuple[Any, Native]]

# JAX's text on a precision that it chooses by itself and refuses to compile for a CPU: `jax.nn.dot_product_attention`
# in float16, and so Keras's and Flax's attention.
_REFUSAL = "is not supported by dot_general on"


class JaxEngine(Engine):
    distributions: tuple[str, ...] = ("jax", "jaxlib")
    probes = "jax"
    optimizers = "optimizer_optax"

    def __init__(self, adapter: Adapter) -> None:
        super().__init__(adapter)
        self._programs: dict[object, tuple[Callable[..., Any], Mapping[str, Any]]] = {}

    def functional(self, job: Job) -> tuple[Apply, Mapping[str, Any]]:
        """Return the layer as a pure function, and an array or a shape for each parameter and state."""
        function = self.adapter.build(job.settings())

        def apply(weights: Native, state: Native, inputs: Native) -> tuple[Any, Native]:
            return function(inputs, {**weights, **state}), {}

        return apply, function_weights(self.adapter, job)

    def compute(self, job: Job) -> Computed:
        program, weight_map, arrays = self.load(job)
        self.check_loaded(job, weight_map, arrays)
        weights = {n: arrays[n] for n in weight_map.holding(job.weights)}
        state = {n: a for n, a in arrays.items() if n not in weights}
        inputs = {n: self.array(a, job.dtype) for n, a in self.native_inputs(job).items()}
        floats = {n: a for n, a in inputs.items() if jnp.issubdtype(a.dtype, jnp.floating)}
        others = {n: a for n, a in inputs.items() if n not in floats}
        cotangents = {n: self.array(a, job.dtype) for n, a in self.native_cotangents(job).items()}
        outputs, new_state, taps, grads = program(weights, state, floats, others, cotangents)
        done = Computed(outputs, weight_map, {n: a for n, a in new_state.items() if n in state}, taps=taps)
        if job.gradients:
            done.weight_grads[Cotangent.DRAWN], done.input_grads[Cotangent.DRAWN], done.tap_grads = grads
            ones = {n: self.array(np.ones(a.shape, np.float32), job.dtype) for n, a in cotangents.items()}
            *_, again = program(weights, state, floats, others, ones)  # half as much to compile as both in one
            done.weight_grads[Cotangent.ONES], done.input_grads[Cotangent.ONES], _ = again
        return done

    def load(self, job: Job) -> tuple[Callable[..., Any], WeightMap, Native]:
        """Return a job's executable, and its weights and states as JAX arrays."""
        program, native = self.program(job)
        weight_map = map_of(self.adapter, job, native)
        arrays = native_weights(job, weight_map)
        return program, weight_map, {n: self.parameter(a, native[n], job) for n, a in arrays.items()}

    def program(self, job: Job) -> tuple[Callable[..., Any], Mapping[str, Any]]:
        """Return the executable of a job, which every check runs: JAX code runs compiled."""
        key = (job.structure, job.gradients)
        if key not in self._programs:
            apply, native = self.functional(job)
            self._programs[key] = _compiled(self._differentiated(job, apply)), native
        return self._programs[key]

    def _differentiated(self, job: Job, apply: Apply) -> Callable[..., Any]:
        def run(weights: Native, state: Native, floats: Native, others: Native, cotangents: Native) -> Any:
            def call(weights: Native, floats: Native, shifts: Native) -> tuple[Native, Any]:
                taps: Native = {}

                def record(name: str, value: Any) -> Any:
                    taps[name] = value
                    return value + shifts[name] if name in shifts else value  # 0, whose gradient is the tap's

                with self.listening(record if job.taps else None):
                    inputs = {n: floats[n] if n in floats else others[n] for n in job.inputs}
                    returned, new_state = apply(weights, state, inputs)
                named = self.named_outputs(job, returned)
                heads = {n: named[n] for n in job.outputs if n in named}
                rest = {n: a for n, a in named.items() if n not in heads}
                return heads, (rest, new_state, taps)

            if not job.gradients:
                heads, (rest, new_state, taps) = call(weights, floats, {})
                return {**heads, **rest}, new_state, taps, ()
            shifts = {}
            if job.taps:
                shapes = jax.eval_shape(lambda w, f: call(w, f, {})[1][2], weights, floats)
                shapes = {n: s for n, s in shapes.items() if jnp.issubdtype(s.dtype, jnp.floating)}
                shifts = {n: jnp.zeros(s.shape, s.dtype) for n, s in shapes.items()}
            heads, back, (rest, new_state, taps) = jax.vjp(call, weights, floats, shifts, has_aux=True)
            grads = back({n: _cotangent(a, cotangents.get(n)) for n, a in heads.items()})
            return {**heads, **rest}, new_state, taps, grads

        return run

    def array(self, array: np.ndarray, dtype: str) -> Any:
        # NumPy casts and copies: JAX would compile both for each shape.
        return jax.device_put(array.astype(jnp.dtype(dtype) if array.dtype.kind == "f" else array.dtype))

    def parameter(self, array: np.ndarray, like: Any, job: Job) -> Any:
        return self.array(array, job.parameters)

    def save_and_load(self, job: Job) -> Native:
        return self.reloaded(self.load(job)[-1])

    def reloaded(self, arrays: Native) -> Native:
        """Save to NumPy's archive, since JAX has no format of its own. The archive holds bfloat16 as bytes."""
        file = io.BytesIO()
        packed: dict[str, Any] = {
            name: np.atleast_1d(np.asarray(array)).view(np.uint8) for name, array in arrays.items()
        }
        np.savez(file, **packed)
        file.seek(0)
        with np.load(file) as archive:
            return {name: archive[name].view(array.dtype).reshape(array.shape) for name, array in arrays.items()}


def _cotangent(head: Any, cotangent: Any) -> Any:
    if not jnp.issubdtype(head.dtype, jnp.floating):
        return np.zeros(head.shape, jax.dtypes.float0)
    # An output of a wrong shape gets a verdict, so differentiating it must not raise.
    fits = cotangent is not None and cotangent.shape == head.shape
    return cotangent.astype(head.dtype) if fits else jnp.ones_like(head)


def _compiled(run: Callable[..., Any]) -> Callable[..., Any]:
    """Compile at the first call: the executable, unlike `jax.jit`, never runs operation by operation.

    The program returns a list: names of results would tell apart two layers that compute the same, and a cache would
    hold both.
    """
    made: list[tuple[Any, Any]] = []

    def call(*arguments: Any) -> Any:
        if not made:
            trees: list[Any] = []

            def layer(*arguments: Any) -> Any:
                leaves, tree = jax.tree.flatten(run(*arguments))
                trees.append(tree)
                return leaves

            try:
                executable = jax.jit(layer).lower(*arguments).compile()
            except ValueError as error:
                if _REFUSAL in str(error):
                    raise Unsupported(f"JAX compiles no such product on this machine: {error}") from error
                raise
            made.append((executable, trees[0]))
        executable, tree = made[0]
        return jax.tree.unflatten(tree, executable(*arguments))

    return call
