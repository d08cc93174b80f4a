"""The examination of one torch network."""

import contextlib
import copy
import io
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.zoo.count import counted
from benchmarks.zoo.other_process import Other
from benchmarks.zoo.steps import judged, listed, must, planned
from benchmarks.zoo.torch_flow import adds_of
from benchmarks.zoo.torch_run import run, seed, tensors
from eca_multi.surgery.at_start import NO_MEAN
from eca_multi.surgery.plan import ECAPlan
from eca_multi.torch import eca_parameters, insert_eca, plan_eca, remove_eca

Network = tuple[nn.Module, Any]


def examine(name: str, build: Callable[[], Network], other: Other, without: Sequence[str] = ()) -> dict[str, Any]:
    """Return what was found; each step is a dict of `judged`."""
    model, inputs = _built(build)
    plain, _ = _built(build)  # for the controls
    before, snapshot = run(model, inputs), _snapshot(model)
    adds = adds_of(model, inputs)
    found: dict[str, Any] = {"adds": len(adds)}
    found["plain"] = judged(lambda: _equal(before, run(model, inputs)))
    plan, skipped = planned(lambda where: plan_eca(model, where, example_inputs=inputs), found)
    if plan is None:
        return found | counted(adds, adds, skipped)
    found["insert"] = judged(lambda: insert_eca(model, plan=plan, example_inputs=inputs))
    if not found["insert"]["ok"]:
        return found | counted(adds, adds, skipped)
    gated = adds_of(model, inputs) if found["where"] == "residual" else adds
    found |= {"sites": len(plan.entries), **counted(adds, gated, skipped)}
    same_twice = lambda: _equal(before, run(plain, inputs))  # noqa: E731  # one line, and used by several controls
    found["equal"] = judged(lambda: _equal(before, run(model, inputs)), same_twice)
    found["names"] = judged(lambda: _names_kept(plain, model))
    found["intersect"] = judged(lambda: _intersects(plain, model))
    _randomise_kernels(model)
    found["acts"] = judged(
        lambda: must(not _is_equal(before, run(model, inputs)), "kernels change no output"),
        lambda: _sites_change_outputs(plain, inputs, before, plan),
    )
    found["reload"] = judged(lambda: _reloaded(model, inputs, other), lambda: _reloaded(plain, inputs, other))
    found["rebuilt"] = judged(lambda: _rebuilt(build, model, inputs, plan), same_twice)
    found["train"] = judged(lambda: _trains(model, inputs), lambda: _sites_are_dead(plain, model, inputs, plan))
    if "export" not in without:
        found["export"] = judged(lambda: _exports(model, inputs), lambda: _exports(plain, inputs))
    found["undo"] = judged(lambda: _undone(model, inputs, snapshot, before), same_twice)
    return found


def _built(build: Callable[[], Network]) -> Network:
    seed(0)
    model, inputs = build()
    _randomise(model)
    return model.eval(), inputs


def _randomise(model: nn.Module) -> None:
    """A fresh norm has statistics 0 and 1, and a scale may be zero: a gate that is lost would change no output."""
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
        for name, parameter in model.named_parameters():
            if parameter.numel() and parameter.abs().max() < 1e-3:
                # A bias, too: behind an instance norm without it the mean of each channel is 0, and so a gate is 1.
                parameter.normal_(0, 0.1) if name.endswith("bias") else parameter.uniform_(0.5, 1.5)


def _randomise_kernels(model: nn.Module) -> None:
    torch.manual_seed(2)
    with torch.no_grad():
        for kernel in eca_parameters(model):
            kernel.normal_(0, 0.5)


def _sites_change_outputs(plain: nn.Module, inputs: Any, before: list[torch.Tensor], plan: ECAPlan) -> None:
    """The control: what the plain network has at the plan's sites, times other numbers for each channel.

    Behind an instance norm without bias the mean of each channel is 0, and every ECA's gate is 1; the plan notes that.
    """
    must(any(NO_MEAN not in entry.notes for entry in plan.entries), f"each site {NO_MEAN}")

    def scaling(axis: int) -> Any:
        def hook(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
            shape = [1] * output.ndim
            shape[axis] = output.shape[axis]
            return output * torch.linspace(0.5, 1.5, shape[axis], dtype=output.dtype).reshape(shape)

        return hook

    modules = dict(plain.named_modules(remove_duplicate=False))
    sites = [entry for entry in plan.entries if entry.path in modules]
    hooks = [modules[entry.path].register_forward_hook(scaling(entry.channel_axis)) for entry in sites]
    try:
        must(not _is_equal(before, run(plain, inputs)), "other numbers at those sites change no output")
    finally:
        for hook in hooks:
            hook.remove()


def _snapshot(model: nn.Module) -> dict[str, Any]:
    modules = list(model.named_modules(remove_duplicate=False))
    return {
        "state": {name: value.clone() for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)},
        "modules": [(path, type(module), id(module)) for path, module in modules],
        "hooks": [[len(h) for h in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks)] for _, m in modules],
        "attributes": [sorted(vars(module)) for _, module in modules],
        "repr": repr(model),
    }


def _is_equal(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return len(left) == len(right) and all(
        a.shape == b.shape and a.dtype == b.dtype and torch.equal(_bits(a), _bits(b))
        for a, b in zip(left, right, strict=True)
    )


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().nan_to_num(nan=1.5e30) if tensor.is_floating_point() else tensor


def _equal(left: list[torch.Tensor], right: list[torch.Tensor]) -> None:
    must(bool(left), "the network returns no tensor")
    must(_is_equal(left, right), "outputs differ")


def _names_kept(plain: nn.Module, model: nn.Module) -> None:
    for kind in ("state_dict", "named_parameters", "named_modules"):
        old, new = [list(dict(getattr(m, kind)())) for m in (plain, model)]
        kept = [name for name in new if name in set(old)]
        lost = [name for name in old if name not in set(new)]
        must(not lost, f"{kind}: {len(lost)} of {len(old)} names are gone: {listed(lost)}")
        must(kept == old, f"{kind}: the order of the old names changed")
        more = [name for name in new if name not in set(old) and "eca" not in name.split(".")]
        must(not more, f"{kind}: new names that are no ECA's: {listed(more)}")


def _intersects(plain: nn.Module, model: nn.Module) -> None:
    """Load as the libraries do that first drop what is not in the model, in both directions."""
    for source, target, wanted in ((plain, model, plain), (model, plain, plain)):
        there, state = target.state_dict(), source.state_dict()
        moved = [k for k, v in state.items() if k in there and getattr(v, "shape", 0) == getattr(there[k], "shape", 0)]
        total = len(wanted.state_dict())
        must(len(moved) == total, f"{len(moved)} of {total} items are transferred")


def _reloaded(model: nn.Module, inputs: Any, other: Other) -> None:
    with tempfile.TemporaryDirectory(prefix="eca-zoo-") as folder:
        path = Path(folder) / "model.pt"
        torch.save({"model": model, "inputs": inputs}, path)
        other.ask(path)
        _equal(run(model, inputs), torch.load(f"{path}.outputs"))


def _rebuilt(build: Callable[[], Network], model: nn.Module, inputs: Any, plan: ECAPlan) -> None:
    """The plan from its file on a new network, and the state dict, strictly."""
    fresh, _ = _built(build)
    insert_eca(fresh, plan=ECAPlan.from_json(plan.to_json()))
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=False))
    _equal(run(model, inputs), run(fresh, inputs))


def _loss(outputs: list[torch.Tensor]) -> torch.Tensor:
    torch.manual_seed(3)
    parts = [(t * torch.randn_like(t)).sum() for t in outputs if t.is_floating_point() and t.requires_grad]
    return torch.stack([part.float() for part in parts]).sum()


@contextlib.contextmanager
def _kept(model: nn.Module) -> Iterator[None]:
    """Training changes statistics: put them back, and take the gradients away."""
    state = copy.deepcopy(model.state_dict())  # with its metadata, which some networks ask for
    try:
        yield
    finally:
        model.zero_grad(set_to_none=True)
        model.load_state_dict(state, strict=False)
        model.eval()


def _trains(model: nn.Module, inputs: Any) -> None:
    with _kept(model):
        dead = _dead_kernels(model, inputs)
        must(not dead, f"{len(dead)} kernels without a gradient: {listed(dead)}")


def _dead_kernels(model: nn.Module, inputs: Any) -> list[str]:
    _loss(run(model, inputs, training=True)).backward()
    kernels = {id(kernel) for kernel in eca_parameters(model)}
    named = [(name, p) for name, p in model.named_parameters() if id(p) in kernels]
    return [name for name, p in named if p.grad is None or not p.grad.abs().max() > 0]


def _sites_are_dead(plain: nn.Module, model: nn.Module, inputs: Any, plan: ECAPlan) -> None:
    """The control: in the plain network, no gradient reaches the outputs of those sites either."""
    with _kept(model):
        dead = _dead_kernels(model, inputs)
    modules, alive, hooks = dict(plain.named_modules(remove_duplicate=False)), set(), []

    def watching(path: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            for tensor in tensors(output):
                if tensor.requires_grad:
                    tensor.register_hook(lambda grad: alive.add(path) if grad.abs().max() > 0 else None)

        return hook

    sites = [entry.path for entry in plan.entries if any(name.startswith(f"{entry.path}.") for name in dead)]
    with _kept(plain):
        hooks = [modules[path].register_forward_hook(watching(path)) for path in sites]
        try:
            _loss(run(plain, inputs, training=True)).backward()
        finally:
            for hook in hooks:
                hook.remove()
    must(bool(alive & set(sites)), f"no gradient reaches {listed(sites)} in the plain network")


def _exports(model: nn.Module, inputs: Any) -> None:
    model.eval()
    args, kwargs = (
        ((), inputs) if isinstance(inputs, dict) else (inputs if isinstance(inputs, tuple) else (inputs,), {})
    )
    program = torch.export.export(model, args, kwargs, strict=False)
    with torch.no_grad():
        exported, expected = tensors(program.module()(*args, **kwargs)), run(model, inputs)
    close = [
        torch.allclose(a, b, rtol=1e-3, atol=1e-4, equal_nan=True) for a, b in zip(exported, expected, strict=True)
    ]
    must(all(close), "the exported program computes something else")


def _undone(model: nn.Module, inputs: Any, snapshot: dict[str, Any], before: list[torch.Tensor]) -> None:
    remove_eca(model)
    now = _snapshot(model)
    for kind in ("modules", "hooks", "attributes", "repr"):
        must(now[kind] == snapshot[kind], f"{kind} differ after remove_eca")
    old, new = snapshot["state"], now["state"]
    must(list(old) == list(new), "names of the state dict differ after remove_eca")
    must(all(_is_equal([old[k]], [new[k]]) for k in old), "values of the state dict differ after remove_eca")
    _equal(before, run(model, inputs))
