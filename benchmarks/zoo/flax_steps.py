"""The examination of one linen network."""

import pickle
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import serialization
from flax.traverse_util import flatten_dict, unflatten_dict

from benchmarks.zoo.count import counted
from benchmarks.zoo.flax_flow import adds_of
from benchmarks.zoo.flax_run import Call, apply, random_variables, run
from benchmarks.zoo.other_process import Other
from benchmarks.zoo.steps import judged, listed, must, planned
from eca_multi.flax.linen import insert_eca, plan_eca, remove_eca
from eca_multi.surgery.plan import ECAPlan

Network = tuple[nn.Module, Call]


def examine(name: str, build: Callable[[], Network], other: Other, without: Sequence[str] = ()) -> dict[str, Any]:
    """Return what was found; each step is a dict of `judged`."""
    plain, call = build()
    old = random_variables(plain, call)
    before, adds = run(plain, old, call), adds_of(plain, old, call)
    found: dict[str, Any] = {"adds": len(adds)}
    found["plain"] = judged(lambda: _equal(before, run(plain, old, call)))
    plan, skipped = planned(lambda where: plan_eca(plain, old, where, example_inputs=call.inputs), found)
    if plan is None:
        return found | counted(adds, adds, skipped)
    made: list[Any] = []
    found["insert"] = judged(lambda: made.extend(insert_eca(plain, old, plan=plan, example_inputs=call.inputs)))
    if not made:
        return found | counted(adds, adds, skipped)
    module, new = made
    gated = adds_of(module, new, call) if found["where"] == "residual" else adds
    found |= {"sites": len(plan.entries), **counted(adds, gated, skipped)}
    found["equal"] = judged(lambda: _equal(before, run(module, new, call)))
    found["names"] = judged(lambda: _names_kept(old, new))
    found["intersect"] = judged(lambda: _intersects(old, new))
    trained = _with_random_kernels(new)
    found["acts"] = judged(lambda: must(not _is_equal(before, run(module, trained, call)), "kernels change no output"))
    found["pickle"] = judged(lambda: _pickled(module, trained, call), lambda: _pickled(plain, old, call))
    found["reload"] = judged(lambda: _reloaded(name, module, trained, call, plan, other))
    found["train"] = judged(lambda: _trains(module, trained, call), lambda: _gradients(plain, old, call))
    if "export" not in without:
        found["export"] = judged(lambda: _exports(module, trained, call), lambda: _exports(plain, old, call))
    found["undo"] = judged(lambda: _undone(plain, old, module, trained, call, before))
    return found


def _with_random_kernels(variables: Any) -> Any:
    rng = np.random.default_rng(2)
    flat = flatten_dict(variables)
    return unflatten_dict(
        {k: jnp.asarray(rng.normal(0, 0.5, v.shape), v.dtype) if _is_eca(k) else v for k, v in flat.items()}
    )


def _is_eca(keys: Sequence[str]) -> bool:
    return "eca" in keys


def _is_equal(left: Sequence[np.ndarray], right: Sequence[np.ndarray]) -> bool:
    return len(left) == len(right) and all(
        a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        for a, b in zip(left, right, strict=True)
    )


def _equal(left: Sequence[np.ndarray], right: Sequence[np.ndarray]) -> None:
    must(bool(left), "the network returns no array")
    must(_is_equal(left, right), "outputs differ")


def _names_kept(old: Any, new: Any) -> None:
    before, after = list(flatten_dict(old)), list(flatten_dict(new))
    lost = ["/".join(keys) for keys in before if keys not in after]
    must(not lost, f"{len(lost)} of {len(before)} names are gone: {listed(lost)}")
    more = ["/".join(keys) for keys in after if keys not in before and not _is_eca(keys)]
    must(not more, f"new names that are no ECA's: {listed(more)}")


def _intersects(old: Any, new: Any) -> None:
    before, after = flatten_dict(old), flatten_dict(new)
    moved = [keys for keys, leaf in before.items() if keys in after and after[keys].shape == leaf.shape]
    must(len(moved) == len(before), f"{len(moved)} of {len(before)} arrays are transferred")


def _pickled(module: nn.Module, variables: Any, call: Call) -> None:
    again = pickle.loads(pickle.dumps(module))
    _equal(run(module, variables, call), run(again, variables, call))


def _reloaded(name: str, module: nn.Module, variables: Any, call: Call, plan: ECAPlan, other: Other) -> None:
    """The network from its code, the plan from its file, and the variables from their bytes, in another process."""
    with tempfile.TemporaryDirectory(prefix="eca-zoo-") as folder:
        path = Path(folder) / "network"
        plan.save(f"{path}.json")
        Path(f"{path}.bytes").write_bytes(serialization.to_bytes(variables))
        other.ask(f"{name} {path}")
        with np.load(f"{path}.npz") as file:
            _equal(run(module, variables, call), [file[name] for name in file.files])


def _gradients(module: nn.Module, variables: Any, call: Call) -> dict[tuple[str, ...], float]:
    """The largest gradient of each parameter, in training mode."""
    others = {name: part for name, part in variables.items() if name != "params"}
    rngs = {"dropout": jax.random.key(3), "params": jax.random.key(4), "drop_path": jax.random.key(5)}

    def loss(params: Any) -> Any:
        made, _ = module.apply(
            {"params": params, **others}, **call.arrays, **call.training, rngs=rngs, mutable=[*others, "intermediates"]
        )
        leaves = [leaf for leaf in jax.tree.leaves(made) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        rng = np.random.default_rng(3)
        return sum(jnp.sum(leaf * rng.normal(size=leaf.shape).astype(leaf.dtype)) for leaf in leaves)

    gradients = flatten_dict(jax.jit(jax.grad(loss))(variables["params"]))
    return {keys: float(jnp.abs(leaf).max()) for keys, leaf in gradients.items()}


def _trains(module: nn.Module, variables: Any, call: Call) -> None:
    dead = ["/".join(k) for k, size in _gradients(module, variables, call).items() if _is_eca(k) and not size > 0]
    must(not dead, f"{len(dead)} kernels without a gradient: {listed(dead)}")


def _exports(module: nn.Module, variables: Any, call: Call) -> None:
    def program(variables: Any, arrays: Any) -> Any:
        return apply(module, variables, call.with_arrays(arrays))

    exported = jax.export.export(jax.jit(program))(variables, call.arrays)
    again = jax.export.deserialize(exported.serialize())
    made, expected = jax.tree.leaves(again.call(variables, call.arrays)), run(module, variables, call)
    close = [np.allclose(a, b, rtol=1e-3, atol=1e-4, equal_nan=True) for a, b in zip(made, expected, strict=True)]
    must(all(close), "the exported program computes something else")


def _undone(plain: nn.Module, old: Any, module: nn.Module, new: Any, call: Call, before: Sequence[np.ndarray]) -> None:
    again, variables = remove_eca(module, new)
    must(type(again) is type(plain), f"the class is {type(again).__name__} after remove_eca")
    same = [getattr(again, f.name) == getattr(plain, f.name) for f in fields(plain) if f.name not in ("parent", "name")]
    must(all(same), "fields differ after remove_eca")
    was, now = flatten_dict(old), flatten_dict(variables)
    must(list(was) == list(now), "names of the variables differ after remove_eca")
    must(all(np.array_equal(was[k], now[k]) for k in was), "values of the variables differ after remove_eca")
    _equal(before, run(again, variables, call))
