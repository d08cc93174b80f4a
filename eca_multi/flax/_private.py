"""Every private name of Flax that this package uses, each with its reason and the public way that was tried.

A test resolves each name of the tables, so that it says which name a new version of Flax has lost. `Class()` in a name
stands for an instance.
"""

from typing import Any

from flax import nnx

# --- nnx ----------------------------------------------------------------------------------------------------------

NNX_NAMES = {
    "flax.nnx.Module._pytree__is_pytree": (
        "A subclass is registered with JAX only if its base is, so the base's choice is passed on. nnx.Module takes "
        "that choice as a class keyword and has no public way to read it back."
    ),
    "flax.nnx.Module()._pytree__nodes": (
        "nnx notes each attribute in the graph definition, and `del module.eca` takes the note back since flax 0.12.8 "
        "only; flax 0.12.0 leaves it, so that the graph definition differs from the one before the insertion."
    ),
    "flax.nnx.Module()._pytree__state": (
        "Tells whether a module belongs to an outer trace. Setting an attribute raises nnx's public TraceContextError, "
        "but only by changing the module; leaves that are tracers show inner traces alone."
    ),
}


def is_pytree(module_class: Any) -> bool:
    """Whether a class of modules is registered with JAX."""
    return bool(module_class._pytree__is_pytree)


def forget_attribute(module: nnx.Module, name: str) -> None:
    """Take an attribute that was deleted out of the module's graph definition."""
    nodes = module._pytree__nodes
    if name in nodes:
        kept = {key: value for key, value in nodes.items() if key != name}
        object.__setattr__(module, "_pytree__nodes", type(nodes)(kept))


def belongs_to_another_trace(module: nnx.Module) -> bool:
    """Whether JAX traces a function that was given the module from outside."""
    state = vars(module).get("_pytree__state")
    return state is not None and not state.trace_state.is_valid()
