"""A specification: a layer's inputs, weights and outputs, its cases, adapters, reference and budget."""

import hashlib
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .axes import Axes, SpecError
from .sources import Arrays, Rng, Source, axes_of
from .tensor import Kind, Quantity


@dataclass(frozen=True)
class Case:
    """The data of one comparison, and the fault that it shows.

    Attributes:
        name: Its name in reports and files, in lower case with hyphens; no other case has it.
        why: One line: which fault would go unseen without this case.
        config: Settings and sizes of axes that replace the specification's.
        inputs, weights, state, outputs: Entries that replace the specification's, or come beside them.
        draw: Called as draw(rng, config); returns arrays by name that replace the drawn ones. "dy" is the cotangent of
            an output y. A name that the case does not have raises SpecError.
        scale: A factor of the float inputs that are drawn from plain axes.
    """

    name: str
    why: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Source] = field(default_factory=dict)
    weights: Mapping[str, Source] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    state: Mapping[str, Source] = field(default_factory=dict)
    draw: Callable[[Rng, Mapping[str, Any]], Arrays] | None = None
    scale: float = 1.0


STANDARD = (
    Case("offsets", "a mean of its own in each channel, H != W, N > 1"),
    Case("one-sample", "N = 1", {"N": 1}),
    Case("large-map", "long sums, which stagnate in half precision", {"H": 37, "W": 41, "L": 1531}),
    Case("small-variance", "a variance beside which the eps of a norm counts in half precision too", scale=0.05),
)


@dataclass(frozen=True)
class Manual:
    """A tolerance by hand, atol + rtol * |reference|, instead of a budget. Reports call it `manual`."""

    rtol: float
    atol: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("rtol", self.rtol), ("atol", self.atol)):
            if not 0 <= value < math.inf:  # a negative one would let everything pass
                raise SpecError(f"rtol and atol must be 0 or more, and finite. Received: {name}={value}.")

    def limit(self, reference: np.ndarray) -> np.ndarray:
        """Return the largest error of each element; infinite where float64 overflows."""
        with np.errstate(over="ignore", invalid="ignore"):
            limit: np.ndarray = self.atol + self.rtol * np.abs(reference)
        return limit


@dataclass(frozen=True)
class Training:
    """The settings of the trajectory check, which trains by the harness's own update rule.

    Attributes:
        steps: Number of updates.
        optimizer: "sgd", "momentum" or "adam".
        rate: Learning rate.
        batches: Called as batches(rng, config, steps); returns inputs with a leading axis of steps. None draws the
            case's inputs anew for each step.
        loss: The output whose sum is the loss; None takes sum(cotangent * output), like the other checks.
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
        layout: Order of the axes of inputs and outputs, such as "NHWC". An adapter has a layout of its own.
        weights: Canonical name -> axes ("k", "out in"), or a `Draw` of them. Plain axes are drawn from N(0, 1) over the
            root of the fan-in, so that no activation saturates: the fan-in is the product of the axes that no output
            has, or of all but the last. A vector is drawn from N(0, 1).
        runners: Runner -> adapter: a class, an object of one, a callable that returns either, or "file.py:Class" or
            "module:Class". A runner is torch, keras-tensorflow,
            keras-jax, keras-torch, linen, nnx, jax or numpy; "keras" stands for all three; "torch-old" is another
            torch. A `Runner` as the value gives it an environment or an interpreter of its own.
        reference: The adapter that runs in float64 as the oracle: a runner's name, a class, "file.py:Class", or a NumPy
            function of (inputs, weights).
        config: Settings, and sizes of the axes, for the adapters' `build`.
        inputs: Name -> axes or `Draw`. None is {"x": layout}. Float inputs get offsets along C.
        outputs: Name -> axes, or "" where the axes have no names. None is {"y": layout}. A size that `config` lacks
            comes from the reference's run.
        state: Like `weights`, for arrays that the layer itself changes; compared after the call as new_<name>.
        taps: Intermediate values in the order of their computation; see `tap`. As a mapping, each tap with its axes in
            the reference's order, such as {"stem": "N C H W"}: a port of another layout is compared in that order.
        cases: The data of the comparisons.
        budget: None for the reference's own analytic budget, or else the stochastic one; `Manual` for a tolerance.
        training: The settings of the trajectory check; None takes the defaults.
        dtypes: The dtypes of a run that names none; None is all: float32, bfloat16, float16.
        strict: Whether an error in half precision is a runner's own fault even where its framework explains it: for
            layers that are written to avoid the framework's faults, as this package's are.

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
    taps: Sequence[str] | Mapping[str, str] = ()
    cases: Sequence[Case] = STANDARD
    budget: Manual | None = None
    training: Training | None = None
    dtypes: Sequence[str] | None = None
    strict: bool = False

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
            check_results(**self.sources(case), outputs=self.outputs_of(case), taps=self.taps, where=self.name)

    def case(self, name: str) -> Case:
        return next(case for case in self.cases if case.name == name)

    def sources(self, case: Case) -> dict[str, dict[str, Source]]:
        """Return the sources of a case's "inputs", "weights" and "state", by name."""
        return {
            group: {**(getattr(self, group) or {}), **getattr(case, group)} for group in ("inputs", "weights", "state")
        }

    def outputs_of(self, case: Case) -> dict[str, str]:
        return {**(self.outputs or {}), **case.outputs}

    def axes(self, case: Case) -> dict[str, Axes]:
        """Return the axes of the inputs, outputs and taps whose axes have names."""
        taps = self.taps if isinstance(self.taps, Mapping) else {}
        sources = {**self.sources(case)["inputs"], **self.outputs_of(case), **taps}
        return {name: axes_of(source) for name, source in sources.items() if axes_of(source)}

    def digest(self) -> str:
        """Return a hash of the layer's tensors and cases: equal for equal specifications."""
        plain = {
            "name": self.name,
            "layout": self.layout,
            "config": {k: str(v) for k, v in sorted(self.config.items())},
            "weights": {name: axes_of(source) for name, source in self.weights.items()},
            "inputs": {name: axes_of(source) for name, source in (self.inputs or {}).items()},
            "cases": [[c.name, {k: str(v) for k, v in sorted(c.config.items())}] for c in self.cases],
        }
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


Names = Iterable[str]


def check_results(
    inputs: Names, weights: Names, state: Names, outputs: Names, taps: Collection[str], where: str
) -> None:
    """Raise SpecError for names that give two results one label: one result would replace the other."""
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
