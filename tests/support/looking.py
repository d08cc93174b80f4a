"""All that surgery may change of a model and of the process: equal before and after only if nothing is another."""

import random
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import torch
from flax import nnx
from torch.nn.parameter import is_lazy

from tests.support import loading_nets
from tests.support.loading_nets import flat


def look(kind: str, held: Any) -> dict[str, Any]:
    """Return structure, identities, numbers, flags, hooks, gradients, random states of a model, or (module, variables).

    `kind` is "torch", "keras", "linen" or "nnx".
    """
    return LOOKS[kind](held) | around()


def fingerprint(value: Any) -> Any:
    """Return shape, dtype and bits; what has no bits (meta, lazy, abstract) by its name."""
    if isinstance(value, torch.Tensor):
        if is_lazy(value) or value.is_meta:
            return type(value).__name__, str(value.dtype), "meta" if value.is_meta else "lazy"
        value = value.detach().view(torch.int16) if value.dtype == torch.bfloat16 else value
    return str(value) if isinstance(value, jax.ShapeDtypeStruct) else loading_nets.fingerprint(value)


def around() -> dict[str, Any]:
    """What a process has beside models."""
    return {
        "torch": (
            torch.get_rng_state().numpy().tobytes(),
            torch.is_grad_enabled(),
            torch._C._len_torch_function_stack(),
        ),
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].tobytes(),
        "jax": (jax.config.jax_disable_jit, isinstance(jnp.zeros(()), jax.core.Tracer)),
    }


def look_at_torch(model: torch.nn.Module) -> dict[str, Any]:
    modules = {}
    for path, module in model.named_modules(remove_duplicate=False):
        found = {name: table for name, table in vars(module).items() if isinstance(table, dict)}
        tables = {name: (type(table), [(k, id(v)) for k, v in table.items()]) for name, table in found.items()}
        attributes = [(name, id(value)) for name, value in vars(module).items()]
        modules[path] = (id(module), type(module), module.training, attributes, tables)
    tensors = [*model.named_parameters(), *model.named_buffers()]
    grads = {name: one.grad is not None and (id(one.grad), fingerprint(one.grad)) for name, one in tensors}
    numbers = {name: (id(one), one.requires_grad, grads[name], fingerprint(one)) for name, one in tensors}
    return {"modules": modules, "order": list(modules), "numbers": numbers}


def look_at_keras(model: keras.Model) -> dict[str, Any]:
    modules = [(id(x), x.name, type(x), x.trainable, x.built, len(x._inbound_nodes)) for x in model._flatten_layers()]
    numbers = [(id(v), v.path, v.trainable, fingerprint(keras.ops.convert_to_numpy(v))) for v in model.variables]
    optimizer = getattr(model, "optimizer", None)
    slots = [] if optimizer is None else optimizer.variables
    return {
        "modules": modules,
        "attributes": [list(vars(layer)) for layer in model._flatten_layers()],
        "numbers": numbers,
        "compiled": (model.compiled, id(optimizer)),
        "optimizer": [(id(v), v.path, fingerprint(keras.ops.convert_to_numpy(v))) for v in slots],
    }


def look_at_linen(held: tuple[Any, Any]) -> dict[str, Any]:
    from eca_multi.flax.linen.surgery._wrap import sites_of
    from eca_multi.flax.linen.surgery._wrap.gating import running

    module, variables = held
    numbers = {path: (id(value), fingerprint(value)) for path, value in flat(variables).items()}
    return {"modules": (id(module), type(module), sites_of(module)), "numbers": numbers, "active": running.gates}


def look_at_nnx(model: nnx.Module) -> dict[str, Any]:
    nodes = [
        (path, id(one), type(one), list(vars(one))) for path, one in nnx.iter_graph(model) if hasattr(one, "__dict__")
    ]
    leaves = nnx.to_flat_state(nnx.state(model))
    numbers = [
        (path, id(one), fingerprint(one.get_value() if isinstance(one, nnx.Variable) else one)) for path, one in leaves
    ]
    numbers = [one if "bare" not in one[0] else (one[0], one[2]) for one in numbers]
    return {
        "modules": nodes,
        "graph": nnx.graphdef(model),
        "numbers": numbers,
    }


LOOKS = {"torch": look_at_torch, "keras": look_at_keras, "linen": look_at_linen, "nnx": look_at_nnx}
