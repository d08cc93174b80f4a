"""From the candidates that a framework found to a plan: which sites are taken, and why the others are not."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from eca_multi import __version__
from eca_multi._kernel import eca_kernel_size
from eca_multi._pooling import check_pooling_types

from .axes import Axes, axes_at
from .candidate import HAS_ECA, Candidate
from .entry import ECAEntry, Skipped
from .errors import ChannelInferenceError, NoSiteError
from .patterns import check_matches, matches, unmatched
from .plan import ECAPlan
from .plan_text import by_reason
from .reasons import UNKNOWN_CHANNELS
from .request import Request

WILL_CHANGE = (
    "outputs will change: a gate of {!r} with random kernels is not 1 (init='identity' with gate='2sigmoid' keeps them)"
)


def choose(
    request: Request,
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
        candidates: All that the framework found for `request.kind`, in the network's order.
        model, model_parameters, notes: For the plan.
        offers: How many sites each other `where` would find; called only for the message of an error.
        remedy: What to do about unknown channels.

    Raises:
        NoSiteError: If no site is taken, or a pattern or a path matches nothing.
        ChannelInferenceError: If the channels of a site are unknown and no kernel size is given for that site, where
            the user named the site, or where no other site is taken.
    """
    candidates = list(candidates)
    asked = _asked_for(request, candidates)
    included = [c for c in asked if request.include is None or matches(request.include, c)]
    check_matches("include", request.include, asked)
    check_matches("exclude", request.exclude, asked)
    for pattern in request.overrides or {}:
        check_matches("overrides", pattern, asked)
    entries: list[ECAEntry] = []
    skipped: list[Skipped] = []
    unknown: ChannelInferenceError | None = None
    for candidate in candidates if request.kind != "any" else asked:
        options = _overrides(request, candidate)
        resolved = _with_axis(candidate, options.get("channel_axis"))
        reason = _reason_against(request, resolved, candidate in included)
        if not reason:
            try:
                entries.append(_entry(request, resolved, options, remedy))
                continue
            except ChannelInferenceError as error:
                if request.kind == "any":
                    raise
                unknown, reason = unknown or error, UNKNOWN_CHANNELS
        skipped.append(Skipped(candidate.path, reason, candidate.what, candidate.line))
    if unknown is not None and not entries:
        raise unknown
    if not entries and not any(skip.reason == HAS_ECA for skip in skipped):
        raise _no_site(request, model, skipped, offers())
    return ECAPlan(
        request.framework,
        model,
        where=request.recorded_where,
        gate=request.gate,
        init=request.init,
        keep_causality=request.keep_causality,
        gamma=request.gamma,
        beta=request.beta,
        entries=tuple(entries),
        skipped=tuple(skipped),
        model_parameters=model_parameters,
        notes=(*notes, WILL_CHANGE.format(request.gate)) if entries and request.init != "identity" else tuple(notes),
        package=__version__,
    )


def _asked_for(request: Request, candidates: Sequence[Candidate]) -> list[Candidate]:
    where = request.where
    if isinstance(where, str):
        return list(candidates)
    if callable(where):
        return [c for c in candidates if any(where(name, c.module) for name in c.names)]
    by_name = {name: c for c in candidates for name in c.names}
    missing = [path for path in where if path not in by_name]
    if missing:
        raise unmatched("where", missing, list(by_name))
    wanted = {by_name[path].path for path in where}
    return [c for c in candidates if c.path in wanted]


def _overrides(request: Request, candidate: Candidate) -> dict[str, Any]:
    """Return the options that a user gave for this site; of two patterns that match, the first counts."""
    options: dict[str, Any] = {}
    for pattern, values in (request.overrides or {}).items():
        if matches(pattern, candidate):
            options = {**values, **options}
    return options


def _with_axis(candidate: Candidate, axis: int | None) -> Candidate:
    """Return the site with its channels at the axis that a user gave."""
    if axis is None:
        return candidate
    channels = candidate.shape[axis] if candidate.shape else candidate.channels
    layout = "channels_first" if axis == 1 else "channels_last"
    return replace(candidate, channels=channels, layout=layout, axis_reason="")


def _reason_against(request: Request, candidate: Candidate, is_included: bool) -> str:
    if candidate.what == "add":
        return candidate.reason
    if not is_included:
        return "not in include"
    if request.exclude is not None and matches(request.exclude, candidate):
        return "in exclude"
    if candidate.reason or candidate.axis_reason:
        return candidate.reason or candidate.axis_reason
    if candidate.channels is not None and candidate.channels < request.min_channels:
        return f"{candidate.channels} channels, fewer than min_channels={request.min_channels}"
    return ""


def _entry(request: Request, candidate: Candidate, options: Mapping[str, Any], remedy: str) -> ECAEntry:
    channels = candidate.channels
    k = options.get("kernel_size", request.kernel_size)
    if k is None and channels is not None:
        k = eca_kernel_size(channels, gamma=request.gamma, beta=request.beta)
    if k is None:
        raise ChannelInferenceError(
            f"The number of channels at {candidate.path!r} ({candidate.module_type}) must be known to choose "
            f"the kernel size. Received: a module that does not say it. {remedy}"
        )
    notes = list(candidate.notes)
    if channels is not None and k >= 2 * channels:
        notes.append("the kernel is wider than the channels it sees")
    keeps_output = candidate.keeps_output and request.init == "identity"
    axes = _axes(request, candidate, options)._asdict()
    return candidate.entry(kernel_size=k, parameters=k, keeps_output=keeps_output, notes=tuple(notes), **axes)


def _axes(request: Request, candidate: Candidate, options: Mapping[str, Any]) -> Axes:
    """Return the axes of a site's ECA; those in `overrides` count in the default layout too, and may be None."""
    given = {name: options.get(name, getattr(request, name)) for name in Axes._fields}
    asked = Axes(*check_pooling_types(**given))
    return axes_at(request.framework, asked, candidate.path, candidate.layout, candidate.shape)


def _no_site(request: Request, model: str, skipped: Sequence[Skipped], offers: Mapping[str, int]) -> NoSiteError:
    others = [f"where={kind!r} ({count} sites)" for kind, count in offers.items() if count and kind != request.where]
    remedy = f"Try {', '.join(others)}." if others else "Name the modules in a list: where=['path', ...]."
    texts = [f"{paths}: {reason}" for paths, reason in by_reason(skipped)]
    more = f"; and {len(texts) - 3} more reasons" if len(texts) > 3 else ""
    received = "no candidate"
    if skipped:
        received = f"{len(skipped)} candidate{'s'[: len(skipped) > 1]}, none taken ({'; '.join(texts[:3])}{more})"
    elif request.kind in ("residual", "block"):
        received = "no candidate, for nothing in the network adds two tensors that depend on its input"
    where = repr(request.where) if isinstance(request.where, str) else request.recorded_where
    error = NoSiteError(f"{model} must have a site for where={where}. Received: {received}. {remedy}")
    error.skipped = tuple(skipped)
    return error
