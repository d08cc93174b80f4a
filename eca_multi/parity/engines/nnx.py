"""The engine for Flax nnx: the state becomes a dict by path, and the merged module a pure function of it."""

from collections.abc import Mapping
from typing import Any

from flax import nnx, serialization

from eca_multi.parity.define.job import Job

from .base import Native, no_sublayer, tap_output
from .jax import Apply, JaxEngine


class NnxEngine(JaxEngine):
    distributions = ("flax", "jax", "jaxlib")
    optimizers = "optimizer_nnx"

    def functional(self, job: Job) -> tuple[Apply, Mapping[str, Any]]:
        settings = job.settings()
        layer = self.adapter.build(settings)
        if settings.get("training", False):
            layer.train()
        else:
            layer.eval()
        self._attach_taps(layer, job)
        graph, state = nnx.split(layer)
        leaves = {_path(keys): variable for keys, variable in nnx.to_flat_state(state)}

        def apply(weights: Native, state: Native, inputs: Native) -> tuple[Any, Native]:
            flat = [
                (keys, variable.replace(weights.get(_path(keys), state.get(_path(keys), variable.get_value()))))
                for keys, variable in nnx.to_flat_state(nnx.state(layer))
            ]
            merged = nnx.merge(graph, nnx.from_flat_state(flat))
            out = self.adapter.call(merged, inputs, settings)
            after = {_path(keys): v.get_value() for keys, v in nnx.to_flat_state(nnx.state(merged))}
            return out, {name: value for name, value in after.items() if name in state_names}

        native = {name: variable.get_value() for name, variable in leaves.items()}
        state_names = [n for n, variable in leaves.items() if not isinstance(variable, nnx.Param)]
        return apply, native

    def _attach_taps(self, layer: Any, job: Job) -> None:
        """Give each sub-layer that the adapter names a class of its own, which taps the return value."""
        for name, path in self.adapter.taps.items():
            if name not in job.taps:
                continue
            part = layer
            try:
                for key in path.split("."):
                    part = part[int(key)] if key.isdigit() else getattr(part, key)
            except (AttributeError, LookupError) as error:
                have = [_path(keys) for keys, _ in nnx.iter_modules(layer)]
                raise no_sublayer(self.adapter, path, have) from error
            base = type(part)

            def call(self: Any, *arguments: Any, base: Any = base, name: str = name, **keywords: Any) -> Any:
                return tap_output(name, base.__call__(self, *arguments, **keywords))

            part.__class__ = type(base.__name__, (base,), {"__call__": call})

    def reloaded(self, arrays: Native) -> Native:
        data = serialization.to_bytes(arrays)
        return dict(serialization.from_bytes({name: array * 0 for name, array in arrays.items()}, data))


def _path(keys: tuple[Any, ...]) -> str:
    return ".".join(map(str, keys))
