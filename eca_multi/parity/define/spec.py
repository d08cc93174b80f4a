"""A specification: what a layer takes and returns, on which data, by which adapters, judged by what."""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .axes import Axes, SpecError
from .sources import Arrays, Rng, Source, axes_of
from .tensor import Kind, Quantity


@dataclass(frozen=True)
class Case:
    """One input to compare on, and what it shows.

    Attributes:
        name: Its name in reports and files, in lower case with hyphens; no other case has it.
        why: One line: which fault would go unseen without this case.
        config: Settings and sizes of axes in place of the specification's.
        inputs, weights, state, outputs: In place of the specification's, or beside them.
        draw: Called as draw(rng, config); returns arrays that take the place of the drawn ones, by name; "dy" is the
            cotangent of an output y. Other names are refused.
    """

    name: str
    why: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Source] = field(default_factory=dict)
    weights: Mapping[str, Source] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    state: Mapping[str, Source] = field(default_factory=dict)
    draw: Callable[[Rng, Mapping[str, Any]], Arrays] | None = None


STANDARD = (
    Case("offsets", "a mean of its own in each channel, H != W, N > 1"),
    Case("one-sample", "N = 1", {"N": 1}),
    Case("large-map", "long sums, which stagnate in half precision", {"H": 37, "W": 41, "L": 1531}),
)


@dataclass(frozen=True)
class Manual:
    """A tolerance by hand, atol + rtol * |reference|, instead of a budget. Reports label it `manual`."""

    rtol: float
    atol: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("rtol", self.rtol), ("atol", self.atol)):
            if not 0 <= value < math.inf:  # a negative one would let everything pass
                raise SpecError(f"rtol and atol must be 0 or more, and finite. Received: {name}={value}.")

    def limit(self, reference: np.ndarray) -> np.ndarray:
        """Return the largest error of each element; infinite where it is no float64."""
        with np.errstate(over="ignore", invalid="ignore"):
            found: np.ndarray = self.atol + self.rtol * np.abs(reference)
        return found


@dataclass(frozen=True)
class Training:
    """How the trajectory check trains: steps of the harness's own update rule.

    Attributes:
        steps: Number of updates.
        optimizer: "sgd", "momentum" or "adam".
        rate: Learning rate.
        batches: Called as batches(rng, config, steps); returns inputs with a leading axis of steps. None draws the
            case's inputs anew for each step.
        loss: The output whose sum is the loss; None takes sum(cotangent * output), as the other checks do.
        cases: Names of the cases to train on; None takes all.
    """

    steps: int = 20
    optimizer: str = "sgd"
    rate: float = 0.05
    batches: Callable[[Rng, Mapping[str, Any], int], Arrays] | None = None
    loss: str | None = None
    cases: Sequence[str] | None = None


@dataclass(frozen=True)
class Spec:
    """A layer to compare across frameworks.

    Attributes:
        name: Its name in reports.
        layout: Order of the axes of inputs and outputs here, "NHWC" say. An adapter has a layout of its own.
        weights: Canonical name -> axes ("k", "out in"), or a `Draw` of them. Plain axes are drawn from N(0, 1).
        runners: Runner -> adapter: a class, or "file.py:Class" or "module:Class". A runner is torch, keras-tensorflow,
            keras-jax, keras-torch, linen, nnx, jax or numpy; "keras" stands for all three; "torch-old" is another
            torch. A `Runner` as the value gives it an environment or an interpreter of its own.
        reference: The adapter that is run in float64 as the oracle: a runner's name, a class, "file.py:Class", or a
            NumPy function of (inputs, weights).
        config: What adapters' `build` gets: settings, and sizes of the axes.
        inputs: Name -> axes or `Draw`. None is {"x": layout}. Float inputs get offsets along C.
        outputs: Name -> axes, or "" where the axes have no names. None is {"y": layout}.
        state: Like `weights`, for what the layer keeps and changes by itself; compared after the call as new_<name>.
        taps: Intermediate values in the order in which they are computed; see `tap`.
        cases: What to compare on.
        budget: None for the reference's own analytic budget, or else the stochastic one; `Manual` for a tolerance.
        training: The trajectory check's; None leaves it at its defaults.
        dtypes: What is compared where nothing else is asked for; None is all: float32, bfloat16, float16.

    Raises:
        SpecError: If two names collide, a name cannot be used, or a part is missing.

    Example:
        >>> from eca_multi.parity import NumpyAdapter, Spec
        >>> spec = Spec("Scale", "NC", weights={"scale": "C"}, runners={}, reference=lambda i, w: i["x"] * w["scale"])
        >>> spec.inputs
        {'x': 'NC'}
    """

    name: str
    layout: str
    weights: Mapping[str, Source]
    runners: Mapping[str, Any]
    reference: Any
    config: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Source] | None = None
    outputs: Mapping[str, str] | None = None
    state: Mapping[str, Source] = field(default_factory=dict)
    taps: Sequence[str] = ()
    cases: Sequence[Case] = STANDARD
    budget: Manual | None = None
    training: Training | None = None
    dtypes: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for name, default in (("inputs", {"x": self.layout}), ("outputs", {"y": self.layout})):
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)
        names = [*(self.inputs or ()), *self.weights, *self.state, *(self.outputs or ()), *self.taps]
        for name in names:
            if names.count(name) > 1 or "/" in name or "@" in name:
                raise SpecError(
                    f"inputs, weights, state, outputs and taps must have names of their own, without / and @. "
                    f"Received: {name!r} in {self.name}."
                )
        if not self.cases:
            raise SpecError(f"a specification must have a case. Received: cases=() in {self.name}.")
        self._check_cases()

    def _check_cases(self) -> None:
        names = [case.name for case in self.cases]
        for case in self.cases:
            # The name becomes part of file names, and "+nan" and "+inf" are appended to it.
            if not re.fullmatch(r"[a-z0-9][a-z0-9._+-]*", case.name):
                raise SpecError(
                    "the name of a case must be lower case letters, digits and . _ - + alone, and begin with a letter "
                    f"or digit. Received: {case.name!r} in {self.name}."
                )
            if names.count(case.name) > 1 or case.name.rpartition("+")[0] in names:
                raise SpecError(
                    f"each case must have a name of its own. Received: {case.name!r} twice, or with +nan or +inf, in "
                    f"{self.name}."
                )
            inputs, weights = {**(self.inputs or {}), **case.inputs}, {**self.weights, **case.weights}
            state = {**self.state, **case.state}
            check_results(inputs, weights, state, self.outputs_of(case), self.taps, self.name)

    def case(self, name: str) -> Case:
        return next(case for case in self.cases if case.name == name)

    def outputs_of(self, case: Case) -> dict[str, str]:
        return {**(self.outputs or {}), **case.outputs}

    def axes(self, case: Case) -> dict[str, Axes]:
        """The axes of the inputs and outputs that have named ones."""
        sources = {**(self.inputs or {}), **case.inputs, **self.outputs_of(case)}
        return {name: axes_of(source) for name, source in sources.items() if axes_of(source)}

    def digest(self) -> str:
        """A hash of what is compared and on what: equal for equal specifications."""
        plain = {
            "name": self.name,
            "layout": self.layout,
            "config": {k: str(v) for k, v in sorted(self.config.items())},
            "weights": {name: axes_of(source) for name, source in self.weights.items()},
            "inputs": {name: axes_of(source) for name, source in (self.inputs or {}).items()},
            "cases": [[c.name, {k: str(v) for k, v in sorted(c.config.items())}] for c in self.cases],
        }
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def check_results(
    inputs: Iterable[str],
    weights: Iterable[str],
    state: Iterable[str],
    outputs: Iterable[str],
    taps: Iterable[str],
    where: str,
) -> None:
    """Refuse names that give two results one label: one result would replace the other.

    Raises:
        SpecError: Naming the result.
    """
    taps = list(taps)
    kinds = (
        (Kind.OUTPUT, outputs),
        (Kind.TAP, taps),
        (Kind.INPUT_GRADIENT, inputs),
        (Kind.WEIGHT_GRADIENT, weights),
        (Kind.TAP_GRADIENT, taps),
        (Kind.STATE, state),
    )
    labels = [Quantity(kind, name).label for kind, names in kinds for name in names]
    for name in labels:
        if labels.count(name) > 1:
            raise SpecError(
                "results must have names of their own: dx is the gradient of an input or weight x, d_gate that of a "
                f"tap, new_mean a state after the call. Received: {name!r} twice in {where}. Rename one."
            )
