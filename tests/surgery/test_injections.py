"""Whatever is raised at whatever line of our own code, the model, what was passed in and all random states stay.

Surgery and loading in four frameworks; `--slow` runs thousands of injections, a default run a sample of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch

import eca_multi
from tests.support.frameworks import FRAMEWORKS
from tests.support.injecting import Injector, Interrupted, NoMemory, drawn
from tests.support.loading_nets import SHAPE, SITES, numpy, package, plain, with_eca
from tests.support.looking import fingerprint, look
from tests.support.trained_nets import TRAINED

OURS = Injector(Path(eca_multi.__file__).parent)
KINDS = ("torch", "keras", "linen", "nnx")
layers = pytest.mark.only(*KINDS)


@dataclass
class Subject:
    """One call, and all that it must leave alone: `held` is the model, `given` what else is passed in."""

    kind: str
    held: Any
    call: Callable[[], Any]
    given: dict[Any, Any] = field(default_factory=dict)

    def look(self) -> dict[str, Any]:
        """Structure, identities, numbers, flags, hooks, random states: equal only if nothing is another."""
        given = {path: (id(value), fingerprint(value)) for path, value in self.given.items()}
        return look(self.kind, self.held) | {"given": given}


# --- the calls --------------------------------------------------------------------------------------------------------


def inputs(kind: str) -> Any:
    x = np.linspace(-1, 1, int(np.prod(SHAPE[kind])), dtype=np.float32).reshape(SHAPE[kind])
    return torch.from_numpy(x) if kind == "torch" else x


def insert(kind: str, **options: Any) -> Subject:
    held, function = plain(kind), package(kind).insert_eca
    given = {"example_inputs": inputs(kind)} if options.pop("run", False) or kind == "linen" else {}
    arguments = held if kind == "linen" else (held,)
    return Subject(kind, held, lambda: function(*arguments, SITES, kernel_size=3, **options, **given), given)


def remove(kind: str) -> Subject:
    net = with_eca(kind)
    arguments = net.held if kind == "linen" else (net.held,)
    return Subject(kind, net.held, lambda: package(kind).remove_eca(*arguments))


def trained(kind: str) -> Subject:
    """In the middle of training: gradients that wait, an optimizer's state, a user's hook at a site."""
    training = TRAINED[kind]()
    if kind == "torch":
        training.net.norm.register_forward_hook(lambda module, args, output: None)
    function, given = package(kind).insert_eca, {"example_inputs": training.x}
    return Subject(kind, training.net, lambda: function(training.net, ["conv", "norm"], **given), given)


def load(kind: str, part: str) -> Subject:
    net = with_eca(kind)
    state = {path: halved(value) for path, value in net.state(part).items()}
    return Subject(kind, net.held, lambda: net.load(part, state), state)


def halved(value: Any) -> Any:
    return value / 2 if numpy(value).dtype == np.float32 else value


def canonical(kind: str) -> Subject:
    framework = next(one for one in FRAMEWORKS if one.kind == kind)
    built = framework.build(8, 5)
    weights = {"weight": np.linspace(-1, 1, 5, dtype=np.float32)}
    held = {
        "torch": lambda: torch.nn.ModuleList([built.layer]),
        "keras": lambda: keras.Sequential([keras.Input((None, 8)), built.layer]),
        "linen": lambda: (built.layer, built.holder),
        "nnx": lambda: built.layer,
    }[kind]()
    return Subject(kind, held, lambda: framework.package.from_canonical(built.holder, weights), weights)


def call(kind: str) -> Subject:
    """What says that a module is gated already must not outlive an interrupted call: the next one would be ungated."""
    net = with_eca(kind)
    return Subject(kind, net.held, lambda: net.held[0].apply(net.held[1], inputs(kind)))


def network(kind: str) -> Subject:
    """A whole network's canonical weights; the frameworks differ in how one tensor is set, which `canonical` tests."""
    from eca_multi.torch import eca_mobilenet_v2

    model = eca_mobilenet_v2(num_classes=2)
    weights = {name: array / 2 for name, array in package(kind).to_canonical(model).items()}
    return Subject(kind, model, lambda: package(kind).from_canonical(model, weights))


# By call: what makes its subject, and how many injections a default run and a slow one do in each framework.
CALLS: dict[str, tuple[Callable[[str], Subject], dict[str, tuple[int, int]]]] = {
    "insert": (lambda kind: insert(kind), {"torch": (10, 160), "keras": (6, 80), "linen": (4, 30), "nnx": (10, 100)}),
    "insert-drawn": (
        lambda kind: insert(kind, init="uniform", gate="sigmoid"),
        {"torch": (10, 160), "keras": (6, 60), "linen": (0, 20), "nnx": (10, 80)},
    ),
    "insert-verified": (
        lambda kind: insert(kind, run=True),
        {"torch": (10, 160), "keras": (0, 50), "linen": (0, 0), "nnx": (0, 50)},  # linen's is always
    ),
    "insert-trained": (trained, {"torch": (0, 80), "keras": (0, 30), "nnx": (0, 40)}),
    "remove": (remove, {"torch": (10, 120), "keras": (10, 80), "linen": (10, 50), "nnx": (10, 80)}),
    "load_base_state": (lambda kind: load(kind, "base"), dict.fromkeys(KINDS, (15, 100))),
    "load_eca_state": (lambda kind: load(kind, "eca"), dict.fromkeys(KINDS, (15, 80))),
    "from_canonical": (canonical, dict.fromkeys(KINDS, (10, 50))),
    "call": (call, {"linen": (10, 200)}),
    "network": (network, {"torch": (0, 40)}),
}


def campaign(make: Callable[[], Subject], count: int, seed: int, injector: Injector = OURS) -> dict[str, Any]:
    """Inject so often; a subject that is as it was serves again."""
    positions = injector.positions(make().call)
    tally: dict[str, Any] = {"raised": 0, "swallowed": 0, "missed": 0, "changed": []}
    subject = make()
    for number, position in enumerate(drawn(positions, count, seed)):
        before = subject.look()
        outcome = injector.strike(subject.call, position, (Interrupted, NoMemory)[number % 2])
        tally[outcome] += 1
        after = subject.look()
        if outcome == "raised" and after != before:
            what = [key for key in before if after.get(key) != before[key]]
            tally["changed"].append(f"{Path(position[0]).name}:{position[1]} ({what})")
        if after != before:
            subject = make()
    return tally


def run(kind: str, slow: bool) -> dict[str, int]:
    """All calls of one framework; how many injections were raised, caught by the function itself, or never reached."""
    total = {"raised": 0, "swallowed": 0, "missed": 0}
    changed = []
    for name, (make, counts) in CALLS.items():
        count = counts.get(kind, (0, 0))[slow]
        if count:
            tally = campaign(lambda make=make: make(kind), count, seed=1)
            changed += [f"{name} at {where}" for where in tally["changed"]]
            total = {key: number + tally[key] for key, number in total.items()}
    assert changed == []
    return total


@layers
def test_whatever_is_raised_nothing_is_changed(framework):
    assert run(framework.kind, slow=False)["raised"] >= 35


@pytest.mark.slow
def test_two_thousand_injections():
    totals = {kind: run(kind, slow=True) for kind in KINDS}
    print(totals)
    assert sum(total["raised"] for total in totals.values()) >= 2000


@layers
def test_a_plan_leaves_the_model_as_it_was(framework):
    """torch.fx keeps constants that it meets as attributes of the module."""
    kind = framework.kind
    subject = insert(kind, run=kind != "linen")
    before = subject.look()
    arguments = subject.held if kind == "linen" else (subject.held,)
    package(kind).plan_eca(*arguments, SITES, kernel_size=3, **subject.given)
    assert subject.look() == before


# --- the injector itself ----------------------------------------------------------------------------------------------

HERE = Injector(Path(__file__))


def load_one_by_one(model: torch.nn.Module, state: dict[str, Any]) -> None:
    own = model.state_dict()
    for name, value in state.items():
        own[name].copy_(value)


def run_without_a_finally(model: torch.nn.Module) -> None:
    hook = model.register_forward_hook(print)
    model.eval()
    torch.rand(1)
    hook.remove()
    model.train()


def test_the_injector_finds_what_is_half_done():
    """The negative control: a function that assigns one by one, and one that does not clean up."""

    def loaded() -> Subject:
        net = with_eca("torch")
        state = {path: halved(value) for path, value in net.held.state_dict().items()}
        return Subject("torch", net.held, lambda: load_one_by_one(net.held, state), state)

    tally = campaign(loaded, 30, 0, HERE)
    assert tally["raised"] == 30
    assert len(tally["changed"]) >= 10
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    tally = campaign(lambda: Subject("torch", model, lambda: run_without_a_finally(model)), 10, 0, HERE)
    assert len(tally["changed"]) >= 6


@pytest.mark.only("torch", "linen", "nnx")
def test_what_is_looked_at_shows_a_change(framework):
    """The negative control of the comparison: one bit of one number, in the model and in what is passed in."""
    subject = load(framework.kind, "base")
    before = subject.look()
    path = next(path for path, value in subject.given.items() if numpy(value).dtype == np.float32)
    old, subject.given[path] = subject.given[path], subject.given[path] + 1
    assert subject.look()["given"] != before["given"]
    subject.given[path] = old
    assert subject.look() == before
    after = subject.call()
    held = (subject.held[0], after) if framework.kind == "linen" else subject.held
    assert Subject(framework.kind, held, subject.call, subject.given).look()["numbers"] != before["numbers"]


def test_the_injector_says_where_it_was():
    def positions() -> list[str]:
        return sorted({f"{Path(file).name}:{line}" for file, line, _ in OURS.positions(load("torch", "eca").call)})

    assert any(one.startswith("_owned.py") for one in positions())
    subject = load("torch", "eca")
    first = OURS.positions(subject.call)[0]
    with pytest.raises(ValueError, match="what the function raises itself"):
        OURS.strike(_fail, first, Interrupted)
    assert OURS.strike(subject.call, (*first[:2], 99), Interrupted) == "missed"
    assert OURS.strike(subject.call, first, Interrupted) == "raised"


def _fail() -> None:
    raise ValueError("what the function raises itself")
