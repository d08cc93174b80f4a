"""One run of a network that leaves the network unchanged: each module's output shape and number of calls."""

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from eca_multi.surgery.errors import UnsupportedModelError
from eca_multi.torch._private import tree_leaves
from eca_multi.torch._unchanged import buffers_with_values

from .flow import Flow
from .recorder import Recorder


@dataclass
class Run:
    """The tensors in a network's output, and what a run showed of each module, by path.

    `shapes` holds the shape of the module's last output, or None if that was no single tensor of real numbers.
    """

    outputs: list[torch.Tensor] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...] | None] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    flows: dict[str, Flow] = field(default_factory=dict)


def observe(
    model: nn.Module,
    example_inputs: Any,
    watched: Mapping[str, nn.Module],
    flows: Sequence[str] = (),
    names: Mapping[str, Sequence[str]] | None = None,
    values: Mapping[str, torch.Tensor] | None = None,
) -> Run:
    """Run a network once in evaluation mode, without gradients; its flags, buffers, hooks and the random state stay.

    Args:
        model, example_inputs: As in `plan_eca`.
        watched: By path, the modules whose calls are counted.
        flows: The paths of those whose data flow is written down; `names` then holds all paths of each module.
        values: By name, the parameters to run with in the place of the network's own.

    Raises:
        UnsupportedModelError: If the network does not run on these inputs.
    """
    args, kwargs = arguments(example_inputs)
    run = Run(calls=dict.fromkeys(watched, 0))
    recorder = Recorder(watched, names or {}, flows)
    hooks: list[Any] = []
    try:
        hooks += [module.register_forward_hook(partial(_note, run, path)) for path, module in watched.items()]
        recorder.attach()
        with (
            unchanged_by_a_run(model),
            torch.no_grad(),
            _uncompiled(),
            recorder if flows else contextlib.nullcontext(),
        ):
            model.eval()
            result = functional_call(model, dict(values), args, kwargs) if values else model(*args, **kwargs)
    except Exception as error:
        raise UnsupportedModelError(
            f"model must run on example_inputs. Received: {type(error).__name__}: {str(error).splitlines()[0]}. "
            "Pass what you call the model with: a tensor, a tuple, or a dict of keywords."
        ) from error
    finally:
        recorder.detach()
        for hook in hooks:
            hook.remove()
    run.outputs = [leaf.detach() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
    run.flows = recorder.flows
    return run


def arguments(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, tuple | list):
        return tuple(example_inputs), {}
    return (example_inputs,), {}


@contextlib.contextmanager
def unchanged_by_a_run(model: nn.Module) -> Iterator[None]:
    """Put training flags, buffers and the random state back."""
    flags = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in buffers_with_values(model)]
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            for module, flag in flags:
                module.training = flag
            with torch.no_grad():
                for buffer, old in buffers:
                    buffer.copy_(old)


def _uncompiled() -> contextlib.AbstractContextManager[Any]:
    """Run what torch.compile has compiled operation by operation: compiled, it rounds differently beside an ECA."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else contextlib.nullcontext()


def _note(run: Run, path: str, module: nn.Module, args: Any, output: Any) -> None:
    run.calls[path] += 1
    is_map = isinstance(output, torch.Tensor) and output.is_floating_point()
    run.shapes[path] = tuple(output.shape) if is_map else None
