"""What a user asks of surgery: every option once, with its name, default, check and message."""

import difflib
import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from eca_multi._errors import GATES, check_init, check_odd
from eca_multi._kernel import eca_kernel_size
from eca_multi._pooling import check_pooling_types

from .axes import Axes, check_axes
from .errors import PlanMismatchError, UnsupportedModelError
from .patterns import Pattern, check_callable, check_pattern, is_list_of_texts
from .plan import ECAPlan

KINDS = ("residual", "block", "conv_norm", "conv", "norm", "se", "slot")
BESIDE_A_PLAN = ("framework", "plan", "keep_causality", "example_inputs", "verify")  # what a plan does not settle
_OVERRIDES = (
    "overrides must map a pattern to {'kernel_size': k, 'channel_axis': 1 or -1, 'pool_axes': axes, "
    "'causal_axis': axis}, or to some of these"
)
_OPTIONS = {"kernel_size", "channel_axis", "pool_axes", "causal_axis"}
Where = str | Sequence[str] | Callable[[str, Any], bool]
Overrides = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class Request:
    """What the caller of `plan_eca` or `insert_eca` asks for, checked.

    Behind `framework` the fields are the options of these functions, which document the options: the same names, order
    and defaults.

    Raises:
        TypeError, ValueError: If an option is invalid.
    """

    framework: str
    where: Where = "residual"
    include: Pattern | None = None
    exclude: Pattern | None = None
    min_channels: int = 0
    kernel_size: int | None = None
    gamma: float = 2
    beta: float = 1
    gate: str = "2sigmoid"
    init: str = "identity"
    pool_axes: int | Sequence[int] | None = None
    causal_axis: int | None = None
    keep_causality: bool = True
    example_inputs: Any = None
    overrides: Overrides | None = None
    plan: ECAPlan | None = None
    verify: bool | None = None

    def __post_init__(self) -> None:
        self._check_plan()  # first, for a plan excuses no other option
        self._check_where()
        check_pattern("include", self.include)
        check_pattern("exclude", self.exclude)
        _check_min_channels(self.min_channels)
        if self.kernel_size is not None:
            check_odd("kernel_size", self.kernel_size)
        eca_kernel_size(1, gamma=self.gamma, beta=self.beta)
        check_plan_gate(self.gate)
        check_init(self.init, self.gate)
        check_axes(self.framework, self.axes)
        check_flag("keep_causality", self.keep_causality, "False inserts ECAs that break causality all the same.")
        _check_overrides(self.framework, self.overrides)
        if isinstance(self.example_inputs, Iterator):
            raise TypeError(
                "example_inputs must be an input, a tuple or a dict of inputs. "
                f"Received: {type(self.example_inputs).__name__}. Take one batch from it, next(batches)."
            )
        if self.verify is not None:
            check_flag("verify", self.verify, "Leave it out to verify where there are example_inputs.")
        if self.verify and self.example_inputs is None:
            raise ValueError("verify=True must come with example_inputs. Received: example_inputs=None. Pass an input.")

    def _check_where(self) -> None:
        where, kinds = self.where, [kind for kind in KINDS if kind != "slot" or self.framework == "torch"]
        if callable(where):
            check_callable("where", where)
            return
        if is_list_of_texts(where) or (isinstance(where, str) and where in kinds):
            return
        hint = "A list names exact paths."
        if where == "slot":
            hint = "It fills the empty attention slots of timm's networks, which are torch's; use 'residual' or 'se'."
        elif isinstance(where, str) and (near := difflib.get_close_matches(where, kinds, 1)):
            hint = f"Did you mean {near[0]!r}?"
        raise (ValueError if isinstance(where, str) else TypeError)(
            f"where must be one of {', '.join(map(repr, kinds))}, a list of paths or a callable. "
            f"Received: where={where!r}. {hint}"
        )

    def _check_plan(self) -> None:
        if self.plan is None:
            return
        if not isinstance(self.plan, ECAPlan):
            raise TypeError(
                f"plan must be an ECAPlan. Received: {type(self.plan).__name__}. Make it with plan_eca or ECAPlan.load."
            )
        if self.plan.framework != self.framework:
            raise PlanMismatchError(
                f"plan must be for {self.framework}. Received: a plan for {self.plan.framework}. Plan this model anew "
                "with plan_eca, or give the plan to that framework's insert_eca."
            )
        options = (field for field in fields(self) if field.name not in BESIDE_A_PLAN)
        changed = [field.name for field in options if getattr(self, field.name) != field.default]
        if changed:
            raise ValueError(
                "plan must stand alone: it says already what is inserted. "
                f"Received: plan and {', '.join(changed)}. Pass these to plan_eca."
            )

    @property
    def axes(self) -> Axes:
        """The pooled axes and the causal one, as a layer stores them."""
        return Axes(*check_pooling_types(self.pool_axes, self.causal_axis))

    @property
    def kind(self) -> str:
        """What a framework has to look for: one of KINDS, or "any" for a list of paths or a callable."""
        return self.where if isinstance(self.where, str) else "any"

    @property
    def recorded_where(self) -> str:
        """The word by which a plan records `where`."""
        return self.where if isinstance(self.where, str) else "callable" if callable(self.where) else "paths"

    def is_verified(self, *, abstract: bool = False) -> bool:
        """Whether to run the network before and after; `abstract`: shapes stand for values in it or in its inputs."""
        if self.verify and abstract:
            raise UnsupportedModelError(
                "verify=True must run the network. Received: shapes in place of values. Pass verify=False."
            )
        return self.verify is not False and self.example_inputs is not None and not abstract


def check_plan_gate(gate: Any) -> None:
    """Check a gate that a plan records: one of the names."""
    if not isinstance(gate, str) or gate not in GATES:
        raise (ValueError if isinstance(gate, str) else TypeError)(
            f"gate must be {' or '.join(map(repr, GATES))}, so that a plan can name it. Received: gate={gate!r}. "
            "For a gate of your own, build the ECA layer yourself."
        )


def check_flag(name: str, value: Any, remedy: str = "Pass one of the two.") -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False. Received: {name}={value!r}. {remedy}")


def _check_min_channels(value: Any) -> None:
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_integer or value < 0:
        raise (ValueError if is_integer else TypeError)(
            f"min_channels must be an integer >= 0. Received: min_channels={value!r}. Pass 0 to take every site."
        )


def _check_overrides(framework: str, overrides: Any) -> None:
    if overrides is None:
        return
    if not isinstance(overrides, Mapping):
        raise TypeError(
            f"{_OVERRIDES}. Received: {overrides!r}. Pass a dict, for example {{'layer4.*': {{'kernel_size': 7}}}}."
        )
    for pattern, options in overrides.items():
        check_pattern("overrides", pattern)
        if not isinstance(options, Mapping) or not options or not set(options) <= _OPTIONS:
            raise (ValueError if isinstance(options, Mapping) else TypeError)(
                f"{_OVERRIDES}. Received: {options!r} for {pattern!r}. The other options hold for the whole network."
            )
        if "kernel_size" in options:
            check_odd("kernel_size", options["kernel_size"])
        check_axes(framework, Axes(*check_pooling_types(options.get("pool_axes"), options.get("causal_axis"))))
        axis = options.get("channel_axis", 1)
        is_integer = isinstance(axis, int) and not isinstance(axis, bool)
        if not is_integer or axis not in (1, -1):
            raise (ValueError if is_integer else TypeError)(
                f"channel_axis must be 1 or -1, the last axis, in overrides. Received: {axis!r} for {pattern!r}. "
                "Name the axis behind the batch or the last one; ECA has no other in surgery."
            )
