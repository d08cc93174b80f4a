"""One traced run of an nnx network with tags on all modules: the data flow, and the calls of each module."""

import functools
import itertools
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
from flax import nnx

from eca_multi.flax._jaxpr.flow import Flow
from eca_multi.flax._jaxpr.tags import tag, tag_input
from eca_multi.flax._run import Shape, does_not_run, split_arrays, split_inputs, unbound_axis
from eca_multi.flax.nnx.surgery._wrap import become, hidden, subclass, variables

from .classes import CONVS, NORMS, static_stack
from .places import places

PATH = "eca_multi_path"
_recording = threading.local()
_numbers = itertools.count()


@dataclass
class Calls:
    """The calls of one module: output shapes (None if an output is not one array) and shapes of variables by path."""

    outputs: list[Shape | None] = field(default_factory=list)
    variables: dict[str, Shape] = field(default_factory=dict)


@dataclass(frozen=True)
class Trace:
    """What a run told: the data flow, and the calls by the module's path in the order of the run."""

    flow: Flow
    calls: Mapping[str, Calls]


def trace(model: nnx.Module, example_inputs: Any, method: str = "__call__") -> Trace:
    """Trace a copy of the model on the inputs' shapes; the model and its random streams stay as they are.

    `method` names the method that takes the inputs.

    Raises:
        TypeError: If the inputs hold no array. UnsupportedModelError: If the model cannot be traced on the inputs.
    """
    fill, arrays = split_arrays(split_inputs(example_inputs))
    graphdef, state = nnx.split(model)
    calls: dict[str, Calls] = {}
    # The number of the run stands in each module: without it an inner nnx.jit would take the trace of an earlier run.
    number = next(_numbers)
    # A copy has its attributes sorted, so that another name of a shared module may come first there.
    first_names = {name: place.path for place in places(model) for name in place.names}

    def run(state: Any, arrays: list[Any]) -> Any:
        # This trace needs its own copy: nnx refuses a change of statistics in a module of an outer trace.
        copy = nnx.merge(graphdef, state, copy=True)
        for place in places(copy):
            setattr(place.module, PATH, f"{number}:{first_names[place.path]}")
            base: Any = type(place.module)
            become(place.module, _tagging_class(base))
        args, kwargs = fill(arrays)
        return jax.tree.leaves(getattr(copy, method)(*args, **kwargs))

    try:
        _recording.calls = calls
        jaxpr = jax.make_jaxpr(run)(state, arrays)
    except NameError as error:
        raise unbound_axis("model", error) from error
    except Exception as error:
        raise does_not_run("model", error, _remedy(model)) from error
    finally:
        _recording.calls = None
    weights = jax.tree.leaves(state)
    return Trace(Flow(jaxpr, range(len(weights), len(weights) + len(arrays)), weights), calls)


def _remedy(model: nnx.Module) -> str:
    """Return what to do with a replicated model; "" for any other one."""
    stacks = {static_stack(place.module) for place in places(model) if isinstance(place.module, (*CONVS, *NORMS))}
    if len(stacks) == 1 and (stack := stacks.pop()):
        return (
            f"All its layers hold {stack[0]} copies of their arrays, as jax.pmap takes them: insert ECA before the "
            "state is replicated, or into a model that holds one copy of each array (array[0])."
        )
    return ""


@functools.cache
def _tagging_class(base: Any) -> type[nnx.Module]:
    """Return a subclass whose calls are tagged; the path is a static attribute, which all transformations keep."""

    @functools.wraps(base.__call__)
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        if PATH not in vars(self):  # the module's own call calls the module again, on a copy or by super()
            return base.__call__(self, *args, **kwargs)
        path = vars(self)[PATH].split(":", 1)[1]
        args = tuple(tag_input(path, a) if isinstance(a, jax.Array) else a for a in args)
        kwargs = {name: tag_input(path, a) if isinstance(a, jax.Array) else a for name, a in kwargs.items()}
        shapes = {name: tuple(variable.shape) for name, variable in variables(self).items()}
        with hidden(self, PATH):
            y = base.__call__(self, *args, **kwargs)
        calls = getattr(_recording, "calls", None)
        if calls is not None:
            calls.setdefault(path, Calls(variables=shapes)).outputs.append(
                tuple(y.shape) if isinstance(y, jax.Array) else None
            )
        return tag(path, y) if _is_plain(y) else y

    return subclass(base, "Tagged", type(base), {"__call__": __call__})


def _is_plain(value: Any) -> bool:
    """Whether a value is made of arrays and Python's containers alone: a module in it must stay the same object."""
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return isinstance(value, jax.Array)
    return all(_is_plain(item) for item in value)
