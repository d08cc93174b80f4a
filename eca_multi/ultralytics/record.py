"""The gates of a YOLO network in its YAML, from which ultralytics builds the network again: a plan that goes along.

Trainers build a network from `model.yaml` and move over the weights whose names the new network has. `register` makes
that building put the recorded gates in, so that training, resuming and its checkpoints keep them.
"""

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from eca_multi.surgery.plan import ECAPlan
from eca_multi.torch import insert_eca, installed_eca, plan_eca

from .register import RECORD, register

LAYERS = "model."  # the path of the list of layers in a network of ultralytics


@dataclass(frozen=True)
class Gates:
    """The plan of the gates in a list of layers, as JSON."""

    plan: str

    def insert(self, layers: nn.Sequential) -> None:
        """Put the gates into layers that were built anew; a head may have other channels there, for other classes."""
        plan = ECAPlan.from_json(self.plan)
        now = {entry.path: entry for entry in plan_eca(layers, plan.paths, kernel_size=1, gate=plan.gate).entries}
        entries = tuple(replace(entry, channels=now[entry.path].channels or entry.channels) for entry in plan.entries)
        insert_eca(layers, plan=replace(plan, entries=entries), keep_causality=False)  # the gates were there before

    def __reduce__(self) -> Any:
        return _read, (self.plan,)


def _read(plan: str) -> Gates:
    """Read a record in a process that may know no ECA yet."""
    register()
    return Gates(plan)


def keep(model: Any) -> None:
    """Write the gates that a network has into its YAML; without gates, take the record out."""
    plan = installed_eca(model)
    if not plan.entries:
        model.yaml.pop(RECORD, None)
        return
    register()
    inside = tuple(
        replace(
            entry,
            path=entry.path.removeprefix(LAYERS),
            aliases=tuple(alias.removeprefix(LAYERS) for alias in entry.aliases),
        )
        for entry in plan.entries
    )
    model.yaml[RECORD] = Gates(replace(plan, entries=inside).to_json())
