"""The engine for Flax linen: variables become a dict by path, and the module a pure function of it."""

from collections.abc import Mapping
from typing import Any

import jax
from flax import linen as nn
from flax import serialization
from flax.traverse_util import flatten_dict, unflatten_dict

from eca_multi.parity.define.job import Job

from .base import Native, no_sublayer, tap_output
from .jax import Apply, JaxEngine


class LinenEngine(JaxEngine):
    distributions = ("flax", "jax", "jaxlib")

    def functional(self, job: Job) -> tuple[Apply, Mapping[str, Any]]:
        settings = job.settings()
        module = self.adapter.build(settings)
        inputs = {name: self.array(array, job.dtype) for name, array in self.native_inputs(job).items()}
        called = {path: name for name, path in self.adapter.taps.items() if name in job.taps}
        paths: set[str] = set()

        def intercept(call: Any, arguments: Any, keywords: Any, context: Any) -> Any:
            out = call(*arguments, **keywords)
            path = "/".join(context.module.path)
            paths.add(path)
            return tap_output(called[path], out) if path in called and context.method_name == "__call__" else out

        def run(variables: Any, inputs: Native) -> tuple[Any, Any]:
            changed: dict[str, Any] = {}

            def layer(*arguments: Any, **keywords: Any) -> Any:
                with nn.intercept_methods(intercept):
                    if variables is None:
                        out, new = module.init_with_output(jax.random.key(0), *arguments, **keywords)
                    else:
                        mutable = [name for name in variables if name != "params"]
                        out, new = module.apply(variables, *arguments, mutable=mutable, **keywords)
                changed.update(new)
                return out

            ordered = {name: inputs[name] for name in job.inputs}  # eval_shape sorts a dict
            return self.adapter.call(layer, ordered, settings), changed

        shapes = jax.eval_shape(lambda inputs: run(None, inputs)[1], inputs)
        native = flatten_dict(shapes, sep="/")
        for path in called:
            if path not in paths:
                raise no_sublayer(self.adapter, path, sorted(paths))

        def apply(weights: Native, state: Native, inputs: Native) -> tuple[Any, Native]:
            out, new = run(unflatten_dict({**weights, **state}, sep="/"), inputs)
            return out, flatten_dict(new, sep="/")

        return apply, native

    def parameter(self, array: Any, like: Any, job: Job) -> Any:
        return self.array(array, job.parameters) if array.dtype.kind == "f" else self.array(array, str(like.dtype))

    def reloaded(self, arrays: Native) -> Native:
        data = serialization.to_bytes(unflatten_dict(arrays, sep="/"))
        empty = unflatten_dict({name: array * 0 for name, array in arrays.items()}, sep="/")
        return dict(flatten_dict(serialization.from_bytes(empty, data), sep="/"))
