"""From the candidates that a framework found to a plan: which sites are taken, and why the others are not."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from eca_multi import __version__
from eca_multi._kernel import eca_kernel_size

from .candidate import HAS_ECA, Candidate
from .entry import ECAEntry, Skipped
from .errors import ChannelInferenceError, NoSiteError
from .patterns import check_matches, matches, unmatched
from .plan import ECAPlan
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
        ChannelInferenceError: If the channels of a chosen site are unknown and no kernel size is given for that site.
    """
    candidates = list(candidates)
    asked = _asked_for(request, candidates)
    included = [c for c in asked if request.include is None or matches(request.include, c)]
    check_matches("include", request.include, asked)
    check_matches("exclude", request.exclude, asked)
    for pattern in request.overrides or {}:
        check_matches("overrides", pattern, asked)
    entries, skipped = [], []
    for candidate in candidates if request.kind != "any" else asked:
        reason = _reason_against(request, candidate, included)
        if reason:
            skipped.append(Skipped(candidate.path, reason))
        else:
            entries.append(_entry(request, candidate, remedy))
    if not entries and not any(skip.reason == HAS_ECA for skip in skipped):
        raise _no_site(request, model, skipped, offers())
    return ECAPlan(
        request.framework,
        model,
        where=request.recorded_where,
        gate=request.gate,
        init=request.init,
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


def _reason_against(request: Request, candidate: Candidate, included: Sequence[Candidate]) -> str:
    if candidate not in included:
        return "not in include"
    if request.exclude is not None and matches(request.exclude, candidate):
        return "in exclude"
    if candidate.reason:
        return candidate.reason
    if candidate.channels is not None and candidate.channels < request.min_channels:
        return f"{candidate.channels} channels, fewer than min_channels={request.min_channels}"
    return ""


def _entry(request: Request, candidate: Candidate, remedy: str) -> ECAEntry:
    channels = candidate.channels
    overrides = (o["kernel_size"] for p, o in (request.overrides or {}).items() if matches(p, candidate))
    k = next(overrides, request.kernel_size)
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
    return candidate.entry(kernel_size=k, parameters=k, keeps_output=keeps_output, notes=tuple(notes))


def _no_site(request: Request, model: str, skipped: Sequence[Skipped], offers: Mapping[str, int]) -> NoSiteError:
    others = [f"where={kind!r} ({count} sites)" for kind, count in offers.items() if count and kind != request.where]
    remedy = f"Try {', '.join(others)}." if others else "Name the modules in a list: where=['path', ...]."
    reasons = "; ".join(f"{skip.path}: {skip.reason}" for skip in skipped[:3])
    more = f" and {len(skipped) - 3} more" if len(skipped) > 3 else ""
    received = f"{len(skipped)} candidates, none taken ({reasons}{more})" if skipped else "no candidate"
    where = repr(request.where) if isinstance(request.where, str) else request.recorded_where
    return NoSiteError(f"{model} must have a site for where={where}. Received: {received}. {remedy}")
