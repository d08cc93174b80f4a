"""A data flow in which a module that returns several tensors is replaced by the steps of its own forward.

A branch and its shortcut may leave such a module side by side, as in pre-activation units that return the activated map
too; which of the two has the convolutions shows inside of the module alone.
"""

from collections.abc import Callable
from dataclasses import replace

from .flow import Flow, Step

Inner = Callable[[str], Flow | None]


def inlined(flow: Flow, inner: Inner) -> Flow:
    """Return the flow with the steps of those modules in place; `inner` returns a module's flow by its path."""
    new = Flow(by_run=flow.by_run)
    numbers: list[int] = []  # by the old number of a step, its new one
    returned: dict[
        int, list[int]
    ] = {}  # by the old number of a module's step, the new numbers of what the module returns
    for old, step in enumerate(flow.steps):
        inputs = [numbers[i] for i in step.inputs]
        if step.kind == "module" and step.part and old - 1 in returned and flow.steps[old - 1].name == step.name:
            returned[old] = returned[old - 1]  # another tensor of the same call, in a run
        elif _returns_several(flow, old, step) and (inside := inner(step.name)) is not None:
            outputs = _placed(new, inside, step.name, inputs)
            if outputs:
                returned[old] = outputs
        source = old if old in returned else step.inputs[0] if step.inputs else -1
        if source in returned and step.part is not None and step.part < len(returned[source]):
            numbers.append(returned[source][step.part])
        elif old in returned:
            numbers.append(returned[old][0])
        else:
            numbers.append(len(new.steps))
            new.steps.append(replace(step, inputs=inputs))
    new.outputs = [numbers[i] for i in flow.outputs]
    return new


def _returns_several(flow: Flow, number: int, step: Step) -> bool:
    users = [flow.steps[i] for i in flow.users(number)]
    by_index = bool(users) and all(user.name == "getitem" and user.part is not None for user in users)
    return step.kind == "module" and (step.part is not None or (by_index and number not in flow.outputs))


def _placed(new: Flow, inside: Flow, name: str, inputs: list[int]) -> list[int]:
    """Append the steps of a module to a flow and return the numbers of its outputs; none if its inputs are unclear."""
    entries = [i for i, step in enumerate(inside.steps) if step.kind == "input"]
    if len(inputs) != 1 and len(entries) != len(inputs):
        return []
    numbers: dict[int, int] = {}
    for i, step in enumerate(inside.steps):
        if step.kind == "input":
            numbers[i] = inputs[0 if len(inputs) == 1 else entries.index(i)]
            continue
        numbers[i] = len(new.steps)
        path = f"{name}.{step.name}" if step.kind == "module" else step.name
        new.steps.append(replace(step, name=path, inputs=[numbers[j] for j in step.inputs], is_inside=True))
    return [numbers[i] for i in inside.outputs]
