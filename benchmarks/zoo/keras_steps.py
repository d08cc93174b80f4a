"""The examination of one Keras network, on the backend that runs. On TensorFlow its residual adds are counted too."""

import json
import tempfile
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import keras
import numpy as np

from benchmarks.zoo.count import counted
from benchmarks.zoo.flow import Add
from benchmarks.zoo.keras_run import run
from benchmarks.zoo.other_process import Other
from benchmarks.zoo.steps import judged, listed, must, planned
from eca_multi.keras import eca_parameters, insert_eca, plan_eca, remove_eca
from eca_multi.keras._private import layers_in
from eca_multi.keras.surgery._find.graph import Network as Graphs
from eca_multi.surgery.entry import Skipped
from eca_multi.surgery.plan import ECAPlan

Network = tuple[Any, Any]
BACKEND = keras.backend.backend()
ON_BACKEND = import_module(f"benchmarks.zoo.keras_{BACKEND}")


def examine(name: str, build: Callable[[], Network], other: Other, without: Sequence[str] = ()) -> dict[str, Any]:
    """Return what was found; each step is a dict of `judged`."""
    plain, inputs = _built(build)
    before, adds = run(plain, inputs), _adds(plain, inputs)
    found: dict[str, Any] = {}
    found["plain"] = judged(lambda: _equal(before, run(plain, inputs)))
    plan, skipped = planned(lambda where: plan_eca(plain, where), found)
    if plan is None:
        return found | _counted(adds, adds, skipped)
    made: list[Any] = []
    found["insert"] = judged(
        lambda: made.append(insert_eca(plain, plan=plan, example_inputs=inputs)),
        lambda: _made_again(plain),
    )
    if not made:
        return found | _counted(adds, adds, skipped)
    model = made[0]
    gated = _adds(model, inputs) if found["where"] == "residual" else adds
    found |= {"sites": len(plan.entries), **_counted(adds, gated, skipped)}
    found["equal"] = judged(lambda: _equal(before, run(model, inputs)))
    found["class"] = judged(lambda: _class_kept(plain, model))
    found["names"] = judged(lambda: _names_kept(plain, model))
    found["intersect"] = judged(lambda: _intersects(plain, model))
    rng = np.random.default_rng(2)
    for kernel in eca_parameters(model):
        kernel.assign(rng.normal(0, 0.5, kernel.shape))
    found["acts"] = judged(
        lambda: must(not _is_equal(before, run(model, inputs)), "kernels change no output"),
        lambda: _sites_change_outputs(plain, inputs, before, plan),
    )
    found["reload"] = judged(lambda: _reloaded(model, inputs, other), lambda: _reloaded(plain, inputs, other))
    found["rebuilt"] = judged(lambda: _rebuilt(build, model, inputs, plan))
    found["train"] = judged(lambda: _trains(model, inputs), lambda: _reached(plain, model, inputs))
    if "export" not in without and BACKEND == "tensorflow":
        found["export"] = judged(lambda: _exports(model, inputs), lambda: _exports(plain, inputs))
    found["undo"] = judged(lambda: _undone(plain, model, inputs, before))
    return found


def _built(build: Callable[[], Network]) -> Network:
    """A network whose norms are not fresh: fresh statistics are 0 and 1, and a fresh scale may be zero."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    model, inputs = build()
    rng = np.random.default_rng(0)
    for weight in model.weights:
        name, value = weight.path.split("/")[-1], keras.ops.convert_to_numpy(weight)
        if name == "moving_mean":
            weight.assign(rng.normal(0, 0.1, value.shape))
        elif name == "moving_variance":
            weight.assign(rng.uniform(0.5, 1.5, value.shape))
        elif value.size and value.dtype.kind == "f" and np.abs(value).max() < 1e-3:
            weight.assign(rng.normal(0, 0.1, value.shape) if "b" in name[:2] else rng.uniform(0.5, 1.5, value.shape))
    for layer in model.layers:
        if hasattr(layer, "finalize_state"):  # Normalization computes with tensors that it makes of its variables
            layer.finalize_state()
    _settle(model, inputs, rng)
    return model, inputs


def _settle(model: Any, inputs: Any, rng: np.random.Generator) -> None:
    """Bring the statistics near to those of the inputs: with others a deep network is chaotic, and rounding decides."""
    norms = [x for x in layers_in(model) if isinstance(x, keras.layers.BatchNormalization)]
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    model(inputs, training=True)
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum
        value = keras.ops.convert_to_numpy(norm.moving_variance)
        norm.moving_variance.assign(value * rng.uniform(0.5, 1.5, value.shape) + 0.1)


def _made_again(plain: Any) -> None:
    """As in surgery, Keras makes each layer of a model again from its config."""
    again, count = keras.models.clone_model(plain, recursive=True), len(plain.weights)
    must(len(again.weights) == count, f"clone_model makes {len(again.weights)} weights of {count}")


def _adds(model: Any, inputs: Any) -> Sequence[Add] | None:
    """The residual adds of one run; they are the same on each backend, and counted on TensorFlow."""
    return import_module("benchmarks.zoo.keras_flow").adds_of(model, inputs) if BACKEND == "tensorflow" else None


def _counted(plain: Sequence[Add] | None, gated: Sequence[Add] | None, skipped: Sequence[Skipped]) -> dict[str, Any]:
    if plain is None or gated is None:
        return {}
    return {"adds": len(plain), **counted(plain, gated, skipped)}


def _is_equal(left: Sequence[np.ndarray], right: Sequence[np.ndarray]) -> bool:
    return len(left) == len(right) and all(
        np.array_equal(a, b, equal_nan=True) for a, b in zip(left, right, strict=True)
    )


def _equal(left: Sequence[np.ndarray], right: Sequence[np.ndarray]) -> None:
    must(_is_equal(left, right), "outputs differ")


def _paths(model: Any) -> list[str]:
    return [weight.path for weight in model.weights]


def _names_kept(plain: Any, model: Any) -> None:
    old, new = _paths(plain), set(_paths(model))
    lost = [path for path in old if path not in new]
    must(not lost, f"{len(lost)} of {len(old)} weights are gone: {listed(lost)}")
    more = [path for path in _paths(model) if path not in set(old) and "eca" not in path]
    must(not more, f"new weights that are no ECA's: {listed(more)}")
    layers = {layer.name for layer in model.layers}
    gone = [layer.name for layer in plain.layers if layer.name not in layers]
    must(not gone, f"{len(gone)} layers are gone: {listed(gone)}")


def _intersects(plain: Any, model: Any) -> None:
    there = {weight.path: weight for weight in model.weights}
    moved = [w.path for w in plain.weights if w.path in there and there[w.path].shape == w.shape]
    must(len(moved) == len(plain.weights), f"{len(moved)} of {len(plain.weights)} weights are transferred")


def _reloaded(model: Any, inputs: Any, other: Other) -> None:
    package = type(model).__module__.split(".")[0]
    with tempfile.TemporaryDirectory(prefix="eca-zoo-") as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        np.savez(f"{path}.inputs.npz", *keras.tree.flatten(inputs))
        other.ask(f"{package} {path}")
        with np.load(f"{path}.outputs.npz") as file:
            _equal(run(model, inputs), [file[name] for name in file.files])


def _rebuilt(build: Callable[[], Network], model: Any, inputs: Any, plan: ECAPlan) -> None:
    """The plan from its file on a new network, and the weights from Keras's own file."""
    fresh, _ = _built(build)
    again = insert_eca(fresh, plan=ECAPlan.from_json(plan.to_json()))
    with tempfile.TemporaryDirectory(prefix="eca-zoo-") as folder:
        model.save_weights(Path(folder) / "all.weights.h5")
        again.load_weights(Path(folder) / "all.weights.h5")
    _equal(run(model, inputs), run(again, inputs))


def _gradients(model: Any, inputs: Any, weights: Sequence[Any]) -> list[float]:
    """The largest gradient of each weight, in training mode; the statistics come back afterwards."""
    kept = [keras.ops.convert_to_numpy(weight) for weight in model.non_trainable_variables]

    def loss() -> Any:
        made = [keras.ops.cast(t, "float32") for t in keras.tree.flatten(model(inputs, training=True))]
        rng = np.random.default_rng(3)
        noise = [keras.ops.convert_to_tensor(rng.standard_normal(t.shape).astype("float32")) for t in made]
        return sum(keras.ops.sum(t * n) for t, n in zip(made, noise, strict=True))

    try:
        gradients = ON_BACKEND.gradients(loss, weights)
    finally:
        for weight, value in zip(model.non_trainable_variables, kept, strict=True):
            weight.assign(value)
    return [0.0 if g is None else float(keras.ops.max(keras.ops.abs(g))) for g in gradients]


def _trains(model: Any, inputs: Any) -> None:
    dead = _dead(model, inputs)
    must(not dead, f"{len(dead)} kernels without a gradient: {listed(dead)}")


def _dead(model: Any, inputs: Any) -> list[str]:
    kernels = eca_parameters(model)
    sizes = _gradients(model, inputs, kernels)
    return [kernel.path for kernel, size in zip(kernels, sizes, strict=True) if not size > 0]


def _reached(plain: Any, model: Any, inputs: Any) -> None:
    """The plain network's own weights at the sites of the kernels without a gradient: do all of them get none?"""
    weights = plain.trainable_weights
    sizes = _gradients(plain, inputs, weights)
    for kernel in _dead(model, inputs):
        site = kernel.removesuffix("_eca/kernel") + "/"
        of_site = [size for weight, size in zip(weights, sizes, strict=True) if weight.path.startswith(site)]
        if not of_site or max(of_site) > 0:
            return
    must(False, "the weights at these places get no gradient either")


def _sites_change_outputs(plain: Any, inputs: Any, before: Sequence[np.ndarray], plan: ECAPlan) -> None:
    """The plain network with other weights at the sites: a softmax of large numbers may show none of that."""
    operations = Graphs(plain).operations
    weights = [weight for entry in plan.entries for weight in operations[entry.path].trainable_variables]
    values = [keras.ops.convert_to_numpy(weight) for weight in weights]
    for weight, value in zip(weights, values, strict=True):
        weight.assign(1.5 * value)
    try:
        must(not _is_equal(before, run(plain, inputs)), "other weights at these places change no output either")
    finally:
        for weight, value in zip(weights, values, strict=True):
            weight.assign(value)


def _exports(model: Any, inputs: Any) -> None:
    with tempfile.TemporaryDirectory(prefix="eca-zoo-") as folder:
        made, expected = ON_BACKEND.served(model, inputs, folder), run(model, inputs)
    made.sort(key=lambda a: a.shape)
    expected.sort(key=lambda a: a.shape)
    close = [np.allclose(a, b, rtol=1e-2, atol=1e-3, equal_nan=True) for a, b in zip(made, expected, strict=True)]
    must(all(close), "the exported program computes something else")


def _class_kept(plain: Any, model: Any) -> None:
    """A class whose config tells no ECA becomes a subclass of the same name, whose config does."""
    kept = isinstance(model, type(plain)) and type(model).__name__ == type(plain).__name__
    must(kept, f"{type(plain).__name__} is {type(model)} now")


def _undone(plain: Any, model: Any, inputs: Any, before: Sequence[np.ndarray]) -> None:
    again = remove_eca(model)
    must(type(again) is type(plain), f"the class is {type(again).__name__} after remove_eca")
    must(_paths(again) == _paths(plain), "names of the weights differ after remove_eca")
    must([x.name for x in again.layers] == [x.name for x in plain.layers], "layers differ after remove_eca")
    same = [np.array_equal(a, b) for a, b in zip(again.get_weights(), plain.get_weights(), strict=True)]
    must(all(same), "weights differ after remove_eca")
    old, new = [json.dumps(keras.saving.serialize_keras_object(m), sort_keys=True, default=str) for m in (plain, again)]
    must(old == new, "the configuration differs after remove_eca")
    _equal(before, run(again, inputs))
