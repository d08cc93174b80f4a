"""The causal networks of linen and of nnx behind one set of verbs, so that one test body runs on both."""

from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from tests.support import causal_linen, causal_nnx

SHAPES = {
    "first": (2, 3, 9), "frames": (2, 4, 6, 5, 3), "frames in training": (2, 4, 6, 5, 3),
    "batched frames": (2, 4, 6, 5, 3), "causal video": (2, 4, 6, 5, 3),
}  # fmt: skip
NETS = {"linen": causal_linen.NETS, "nnx": causal_nnx.NETS}


def input_of(name: str) -> np.ndarray:
    return np.random.default_rng(7).normal(size=SHAPES.get(name, (2, 9, 3))).astype(np.float32)


@dataclass(frozen=True)
class Net:
    """A network of one framework: of linen with its variables, of nnx a model."""

    framework: str
    module: Any
    variables: Any
    x: np.ndarray
    axis: int  # of time, in input and output

    @property
    def package(self) -> Any:
        return import_module(f"eca_multi.flax.{self.framework}")

    @property
    def _args(self) -> tuple[Any, ...]:
        return (self.module, self.variables) if self.framework == "linen" else (self.module,)

    def plan(self, where: Any = "residual", **options: Any) -> Any:
        return self.package.plan_eca(*self._args, where, **({"example_inputs": self.x} | options))

    def insert(self, where: Any = "residual", **options: Any) -> "Net":
        options = {"example_inputs": self.x} | options
        if self.framework == "linen":
            module, variables = self.package.insert_eca(*self._args, where, **options)
            return replace(self, module=module, variables=variables)
        return replace(self, module=self.package.insert_eca(*self._args, where, inplace=False, **options))

    def remove(self) -> "Net":
        if self.framework == "linen":
            module, variables = self.package.remove_eca(*self._args)
            return replace(self, module=module, variables=variables)
        return replace(self, module=self.package.remove_eca(nnx.clone(self.module)))

    def split(self) -> tuple[Any, Any]:
        """Return a function of (parameters, x) and the parameters; statistics of batch norms are as they are."""
        if self.framework == "linen":
            rest = {name: value for name, value in self.variables.items() if name != "params"}
            return lambda params, x: self.module.apply({"params": params, **rest}, x), self.variables["params"]
        model = nnx.clone(self.module)
        model.eval()
        graph, params, rest = nnx.split(model, nnx.Param, ...)
        return lambda params, x: nnx.merge(graph, params, rest)(x), params

    def __call__(self, x: Any) -> np.ndarray:
        run, params = self.split()
        return np.asarray(run(params, jnp.asarray(x)))

    def trained(self, steps: int = 20) -> "Net":
        """Return the network after some steps towards random targets."""
        run, params = self.split()
        x = jnp.asarray(self.x)
        target = jnp.asarray(np.random.default_rng(8).normal(size=run(params, x).shape), jnp.float32)
        optimizer = optax.adam(3e-2)

        @jax.jit
        def step(params, state):
            gradient = jax.grad(lambda p: ((run(p, x) - target) ** 2).mean())(params)
            updates, state = optimizer.update(gradient, state)
            return optax.apply_updates(params, updates), state

        state = optimizer.init(params)
        for _ in range(steps):
            params, state = step(params, state)
        if self.framework == "linen":
            return replace(self, variables={**self.variables, "params": params})
        model = nnx.clone(self.module)
        nnx.update(model, params)
        return replace(self, module=model)

    def leak(self) -> float:
        """The most that an output moves when the inputs of later positions change."""
        run, params = self.split()
        run = jax.jit(run)
        x, before = self.x, np.asarray(run(params, self.x))
        moved = 0.0
        for t in range(1, x.shape[self.axis]):
            later = np.arange(x.shape[self.axis]).reshape(-1, *(1,) * (x.ndim - self.axis - 1)) >= t
            after = np.asarray(run(params, np.where(later, 3 - x, x).astype(np.float32)))
            moved = max(moved, float(np.abs(after - before).take(range(t), axis=self.axis).max()))
        return moved

    def kernels(self) -> list[np.ndarray]:
        _, params = self.split()
        leaves = jax.tree_util.tree_flatten_with_path(params)[0]
        return [np.asarray(leaf) for path, leaf in leaves if "eca" in jax.tree_util.keystr(path)]


def build(framework: str, name: str) -> Net:
    x = input_of(name)
    module, variables = NETS[framework][name](), None
    if framework == "linen":
        variables = module.init(jax.random.key(0), x)
    elif name != "frames in training":
        module.eval()
    return Net(framework, module, variables, x, 2 if name == "first" else 1)
