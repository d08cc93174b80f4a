"""From the candidates that a framework found to a plan: what is asked for, what is taken, and what is said of the rest.

Each framework finds candidates in its own way; which of them are taken is decided here, once, and so are the messages.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as changed
from typing import Any

from eca_multi import __version__
from eca_multi._errors import GATES, check_init, check_odd
from eca_multi._kernel import eca_kernel_size

from .plan import ChannelInferenceError, ECAEntry, ECAPlan, NoSiteError, PlanMismatchError, Skipped, VerifyError

WHERE = ("residual", "block", "conv_norm", "conv", "norm", "se", "slot")
HAS_ECA = "already has ECA"
Pattern = str | Sequence[str] | Callable[[str, Any], bool]
Where = str | Sequence[str] | Callable[[str, Any], bool]


@dataclass(frozen=True)
class Candidate:
    """A place where ECA could stand.

    Args:
        path, action, module_type, tensor, channels, layout, into, aliases, calls, keeps_output, notes: As in
            `ECAEntry`; channels None where they are not known.
        module: The framework's object, given to callables; compared with nothing.
        reason: Why it cannot be taken; "" where it can.
    """

    path: str
    module: Any = field(default=None, compare=False, repr=False)
    action: str = "after"
    module_type: str = ""
    tensor: str = ""
    channels: int | None = None
    layout: str = "channels_first"
    into: str = ""
    aliases: tuple[str, ...] = ()
    calls: int | None = None
    keeps_output: bool = True
    notes: tuple[str, ...] = ()
    reason: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        return (self.path, *self.aliases)


@dataclass(frozen=True)
class Request:
    """What the caller of `plan_eca` asked for, checked.

    Raises:
        TypeError, ValueError: If an argument is invalid.
    """

    where: Where = "residual"
    include: Pattern | None = None
    exclude: Pattern | None = None
    min_channels: int = 0
    kernel_size: int | None = None
    gamma: float = 2
    beta: float = 1
    gate: str = "2sigmoid"
    init: str = "identity"
    overrides: Mapping[str, Mapping[str, Any]] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.where, str) and self.where not in WHERE:
            near = difflib.get_close_matches(self.where, WHERE, 1)
            hint = f" Did you mean {near[0]!r}?" if near else " A list names exact paths."
            raise ValueError(
                f"where must be one of {', '.join(map(repr, WHERE))}, a list of paths or a callable. "
                f"Received: where={self.where!r}.{hint}"
            )
        if not isinstance(self.where, str) and not callable(self.where) and not _is_texts(self.where):
            raise TypeError(
                f"where must be one of {', '.join(map(repr, WHERE))}, a list of paths or a callable. "
                f"Received: {self.where!r}. A list names exact paths."
            )
        for name, pattern in (("include", self.include), ("exclude", self.exclude)):
            _check_pattern(name, pattern)
        if self.kernel_size is not None:
            check_odd("kernel_size", self.kernel_size)
        eca_kernel_size(1, gamma=self.gamma, beta=self.beta)
        if self.gate not in GATES:
            raise (ValueError if isinstance(self.gate, str) else TypeError)(
                f"gate must be {' or '.join(map(repr, GATES))}, so that a plan can name it. "
                f"Received: gate={self.gate!r}. For a gate of your own, build the ECA layer yourself."
            )
        check_init(self.init, self.gate)
        for pattern, options in dict(self.overrides or {}).items():
            _check_pattern("overrides", pattern)
            if set(options) != {"kernel_size"}:
                raise ValueError(
                    f"overrides must map a pattern to {{'kernel_size': k}}. "
                    f"Received: {dict(options)!r} for {pattern!r}. The other options hold for the whole network."
                )
            check_odd("kernel_size", options["kernel_size"])

    @property
    def kind(self) -> str:
        """What a framework has to look for: one of WHERE, or "any" for a list of paths or a callable."""
        return self.where if isinstance(self.where, str) else "any"

    @property
    def options(self) -> dict[str, Any]:
        """What the plan records of it."""
        where = self.where if isinstance(self.where, str) else "callable" if callable(self.where) else "paths"
        return {"where": where, "gate": self.gate, "init": self.init, "gamma": self.gamma, "beta": self.beta}

    def plan(
        self,
        framework: str,
        model: str,
        candidates: Iterable[Candidate],
        *,
        model_parameters: int = 0,
        notes: Sequence[str] = (),
        offers: Callable[[], Mapping[str, int]] = dict,
        remedy: str = "Pass example_inputs, or kernel_size.",
    ) -> ECAPlan:
        """Choose among the candidates.

        Args:
            framework, model, model_parameters, notes: For the plan.
            candidates: All that the framework found for `kind`, in the network's order.
            offers: How many sites each other `where` would find; called for an error alone.
            remedy: What to do about unknown channels.

        Raises:
            NoSiteError: If nothing is left, or a pattern or a path matches nothing.
            ChannelInferenceError: If the channels of a chosen site are unknown and no kernel size is given for it.
        """
        candidates = list(candidates)
        asked = self._asked(candidates)
        included = [c for c in asked if self.include is None or matches(self.include, c)]
        self._check_used(asked)
        entries, skipped = [], []
        for candidate in candidates if self.kind != "any" else asked:
            reason = self._reason(candidate, included)
            if reason:
                skipped.append(Skipped(candidate.path, reason))
            else:
                entries.append(self._entry(candidate, remedy))
        if not entries and not any(one.reason == HAS_ECA for one in skipped):
            raise self._nothing(model, skipped, offers())
        return ECAPlan(
            framework,
            model,
            **self.options,
            entries=tuple(entries),
            skipped=tuple(skipped),
            model_parameters=model_parameters,
            notes=(*notes, *self._warnings(entries)),
            package=__version__,
        )

    def _asked(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        if isinstance(self.where, str):
            return list(candidates)
        if callable(self.where):
            return [c for c in candidates if any(self.where(name, c.module) for name in c.names)]
        known = {name: c for c in candidates for name in c.names}
        missing = [path for path in self.where if path not in known]
        if missing:
            raise NoSiteError(unmatched("where", missing, list(known)))
        wanted = {known[path].path for path in self.where}
        return [c for c in candidates if c.path in wanted]

    def _reason(self, candidate: Candidate, included: Sequence[Candidate]) -> str:
        if candidate not in included:
            return "not in include"
        if self.exclude is not None and matches(self.exclude, candidate):
            return "in exclude"
        if candidate.reason:
            return candidate.reason
        if candidate.channels is not None and candidate.channels < self.min_channels:
            return f"{candidate.channels} channels, fewer than min_channels={self.min_channels}"
        return ""

    def _entry(self, candidate: Candidate, remedy: str) -> ECAEntry:
        given = [o["kernel_size"] for p, o in (self.overrides or {}).items() if matches(p, candidate)]
        k = given[0] if given else self.kernel_size
        channels = candidate.channels
        if k is None and channels is not None:
            k = eca_kernel_size(channels, gamma=self.gamma, beta=self.beta)
        if k is None:
            raise ChannelInferenceError(
                f"The number of channels at {candidate.path!r} ({candidate.module_type}) must be known to choose "
                f"the kernel size. Received: a module that does not say it. {remedy}"
            )
        notes = list(candidate.notes)
        if channels is not None and k >= 2 * channels:
            notes.append("the kernel is wider than the channels it sees")
        return ECAEntry(
            path=candidate.path,
            action=candidate.action,
            module_type=candidate.module_type,
            tensor=candidate.tensor,
            channels=channels or 0,
            layout=candidate.layout,
            kernel_size=k,
            parameters=k,
            into=candidate.into,
            aliases=candidate.aliases,
            calls=candidate.calls,
            keeps_output=candidate.keeps_output and self.init == "identity",
            notes=tuple(notes),
        )

    def _check_used(self, asked: Sequence[Candidate]) -> None:
        """A pattern that matches nothing is a mistake of its author's: a misspelt name, or another network."""
        patterns: list[tuple[str, Pattern | None]] = [("include", self.include), ("exclude", self.exclude)]
        patterns += [("overrides", pattern) for pattern in self.overrides or {}]
        paths = [name for c in asked for name in c.names]
        for name, pattern in patterns:
            unused = [p for p in _parts(pattern) if not any(matches(p, c) for c in asked)]
            if unused:
                raise NoSiteError(unmatched(name, unused, paths))

    def _warnings(self, entries: Sequence[ECAEntry]) -> list[str]:
        if not entries or self.init == "identity":
            return []
        return [
            f"outputs will change: a gate of {self.gate!r} with random kernels is not 1 (init='identity' with "
            "gate='2sigmoid' keeps them)"
        ]

    def _nothing(self, model: str, skipped: Sequence[Skipped], offers: Mapping[str, int]) -> NoSiteError:
        other = [f"where={name!r} ({n} sites)" for name, n in offers.items() if n and name != self.where]
        remedy = f"Try {', '.join(other)}." if other else "Name the modules in a list: where=['path', ...]."
        reasons = "; ".join(f"{one.path}: {one.reason}" for one in skipped[:3])
        more = f" and {len(skipped) - 3} more" if len(skipped) > 3 else ""
        received = f"{len(skipped)} candidates, none taken ({reasons}{more})" if skipped else "no candidate"
        where = repr(self.where) if isinstance(self.where, str) else self.options["where"]
        return NoSiteError(f"{model} must have a site for where={where}. Received: {received}. {remedy}")


def matches(pattern: Pattern, candidate: Candidate) -> bool:
    """A str is a regular expression for the whole path, a list holds exact paths or dotted suffixes."""
    if callable(pattern):
        return any(pattern(name, candidate.module) for name in candidate.names)
    if isinstance(pattern, str):
        return any(re.fullmatch(pattern, name) for name in candidate.names)
    return any(
        name == wanted or name.endswith((f".{wanted}", f"/{wanted}")) for wanted in pattern for name in candidate.names
    )


def replay(plan: ECAPlan, framework: str, found: Mapping[str, Candidate]) -> list[ECAEntry]:
    """Return the entries of a plan that are still to be carried out on a model.

    Args:
        plan: Made for another instance of the same architecture.
        framework: Of the model.
        found: What the model has at each path that the plan names, as the framework finds it now; a path that is not
            there is left out. A candidate whose `reason` is HAS_ECA is done already.

    Raises:
        PlanMismatchError: With every difference.
    """
    differences = []
    if plan.framework != framework:
        differences.append(f"framework is {framework}, the plan's {plan.framework}")
    for entry in plan.entries:
        now = found.get(entry.path)
        differences += [
            f"{entry.path}: {text}" for text in (["is not there"] if now is None else _differences(entry, now))
        ]
    if differences:
        raise PlanMismatchError(
            f"plan must fit the model. Received: {len(differences)} differences: {'; '.join(differences)}. "
            "Plan this model anew with plan_eca."
        )
    return [entry for entry in plan.entries if found[entry.path].reason != HAS_ECA]


def _differences(entry: ECAEntry, now: Candidate) -> list[str]:
    result = []
    if entry.module_type and now.module_type and entry.module_type != now.module_type:
        result.append(f"is a {now.module_type}, the plan's a {entry.module_type}")
    if entry.channels and now.channels is not None and entry.channels != now.channels:
        result.append(f"has {now.channels} channels, the plan's {entry.channels}")
    if now.reason not in ("", HAS_ECA):
        result.append(now.reason)
    return result


def check_verified(plan: ECAPlan, same: bool | None, calls: Mapping[str, tuple[int, int]]) -> None:
    """Judge a run before and after insertion.

    Args:
        plan: What was inserted.
        same: Whether all outputs were bit-equal.
        calls: For each entry's path, how often its base and its ECA were called.

    Raises:
        VerifyError: If outputs were promised equal and are not, or an ECA was not called as often as its base.
    """
    wrong = [f"{path}: base called {base} times, its ECA {own}" for path, (base, own) in calls.items() if base != own]
    wrong += [f"{path}: never called" for path, (base, own) in calls.items() if base == own == 0]
    if plan.keeps_output and same is False:
        wrong.append("outputs differ from those before, which an identity start keeps bit-equal")
    if wrong:
        raise VerifyError(
            f"The network with ECA must do what the plan says. Received: {'; '.join(wrong)}. The model was put back; "
            "leave these sites out with exclude."
        )


def with_calls(plan: ECAPlan, calls: Mapping[str, int]) -> ECAPlan:
    """Return the plan with call counts."""
    return changed(plan, entries=tuple(changed(e, calls=calls.get(e.path, e.calls)) for e in plan.entries))


def _check_pattern(name: str, pattern: Any) -> None:
    if pattern is None or callable(pattern):
        return
    if isinstance(pattern, str):
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"{name} must be a valid regular expression. Received: {name}={pattern!r} ({error}). "
                "A list holds exact paths or suffixes instead."
            ) from None
    elif not _is_texts(pattern):
        raise TypeError(
            f"{name} must be a regular expression, a list of paths or suffixes, or a callable (path, module). "
            f"Received: {name}={pattern!r}. Pass a str, for example 'layer4.*'."
        )


def _is_texts(value: Any) -> bool:
    return isinstance(value, list | tuple | set | frozenset) and all(isinstance(one, str) for one in value)


def _parts(pattern: Pattern | None) -> list[Pattern]:
    if pattern is None:
        return []
    return [pattern] if isinstance(pattern, str) or callable(pattern) else [[one] for one in pattern]


def unmatched(name: str, patterns: Sequence[Pattern], paths: Sequence[str]) -> str:
    words = [p if isinstance(p, str) else "the callable" if callable(p) else p[0] for p in patterns]
    near = list(dict.fromkeys(n for word in words for n in difflib.get_close_matches(word, paths, 3, 0.5)))
    near = near or list(paths[:3])
    hint = f"Near: {', '.join(near)}." if near else "The model has no candidate at all."
    return f"{name} must match a site of the model. Received: {', '.join(map(repr, words))}, which matches none. {hint}"
