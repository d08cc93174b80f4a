"""What shows that a network looks at no later position, or at one frame at a time; and which ECAs would break that.

ECA's mean over all positions carries later positions into earlier ones, and one frame into another. The identity start
hides that from every check of outputs, and training brings it in. So surgery looks for evidence, and refuses.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .axes import axis_at, default_layout, place_of
from .entry import ECAEntry
from .errors import CausalityError
from .plan_text import listed

HOW = ("causal", "frames")
_BROKEN = {
    "causal": "would carry later positions into earlier ones along {axis}",
    "frames": "would carry one frame into another along {axis}",
}
_SHOWN = {
    "causal": "causal along {axis}: no position may see later ones",
    "frames": "frames along {axis} are apart: none may see another",
}
INSIST = "keep_causality=False inserts them all the same"


@dataclass(frozen=True)
class Evidence:
    """What shows how sites stand to the positions along an axis.

    Args:
        how: "causal": no position sees later ones. "frames": no position sees another.
        place: Which of the spatial axes of the sites' outputs, from 0, whatever the layout; None if the positions lie
            along no single axis.
        rank: Of the sites' outputs.
        sites: Their paths.
        source: Where this is known from, in words: "Conv1D(padding='causal') at stem", "in a run, ...".

    Example:
        >>> from eca_multi.surgery.causality import Evidence
        >>> Evidence("causal", 0, 3, ("net.0.relu",), "Chomp1d at net.0.chomp").how
        'causal'
    """

    how: str
    place: int | None
    rank: int
    sites: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class Found:
    """What a probe found: evidence, whether it could tell at all, and why the runs failed if they did."""

    evidence: tuple[Evidence, ...] = ()
    could_tell: bool = False
    failed: str = ""


def grouped(found: Iterable[tuple[str, str, int | None, int]], source: str) -> tuple[Evidence, ...]:
    """Return the evidence of one source from its (path, how, place, rank), in the order of the paths."""
    sites: dict[tuple[str, int | None, int], list[str]] = {}
    for path, how, place, rank in found:
        sites.setdefault((how, place, rank), []).append(path)
    return tuple(Evidence(*key, tuple(dict.fromkeys(paths)), source) for key, paths in sites.items())


def breaks(entry: ECAEntry, evidence: Evidence) -> bool:
    """Whether the ECA of an entry, once it is trained, breaks what the evidence shows of its site.

    Example:
        >>> from eca_multi.surgery.causality import Evidence, breaks
        >>> from eca_multi.surgery.entry import ECAEntry
        >>> shown = Evidence("causal", 0, 3, ("bn",), "Chomp1d at chomp")
        >>> breaks(ECAEntry("bn"), shown), breaks(ECAEntry("bn", causal_axis=2), shown)
        (True, False)
    """
    if entry.path not in evidence.sites:
        return False
    if evidence.place is None:
        return True
    if entry.pool_axes is not None and evidence.place not in _pooled(entry, evidence.rank):
        return False
    runs_along = entry.causal_axis is not None and place_of(entry.causal_axis, entry.layout, evidence.rank)
    return evidence.how == "frames" or entry.causal_axis is None or runs_along != evidence.place


def check_causality(framework: str, model: str, entries: Sequence[ECAEntry], evidence: Iterable[Evidence]) -> None:
    """Refuse ECAs that break what the evidence shows.

    Raises:
        CausalityError: With the sites, the evidence and the remedy.
    """
    broken = [(shown, [entry for entry in entries if breaks(entry, shown)]) for shown in evidence]
    broken = [(shown, sites) for shown, sites in broken if sites]
    if not broken:
        return
    received = [f"{_broken(framework, shown, [e.path for e in sites])} ({shown.source})" for shown, sites in broken]
    raise CausalityError(
        f"{model} must stay causal, and its frames apart. Received: {'; '.join(received)}. "
        f"{remedy(framework, entries, [shown for shown, _ in broken])}; {INSIST}."
    )


def combined(probed: Found, said: Sequence[Evidence]) -> tuple[Evidence, ...]:
    """Return the evidence of a probe and what the network's modules say; where the probe could tell, it decides.

    Args:
        probed: What `causal_probe.probe` found; `Found()` where nothing was run.
        said: Evidence from modules. Where the probe found the same, its words name the modules too.
    """
    if not probed.could_tell:
        once = {(one.how, one.place, one.rank, one.sites): one for one in reversed(said)}
        return tuple(reversed(once.values()))
    evidence = []
    for shown in probed.evidence:
        same = [one.source for one in said if (one.how, one.place) == (shown.how, shown.place)]
        words = [word for source in (*same, shown.source) for word in source.split("; ")]
        evidence.append(replace(shown, source="; ".join(dict.fromkeys(words))))
    return tuple(evidence)


def not_probed(found: Found) -> tuple[str, ...]:
    """Return the note of a plan whose probe failed; () if it ran, or if there was nothing to run."""
    note = "whether the network looks at later positions was not probed, for on changed inputs it raises {}"
    return (note.format(found.failed),) if found.failed else ()


def remedy(framework: str, entries: Sequence[ECAEntry], evidence: Sequence[Evidence]) -> str:
    """Return the options under which no ECA breaks what the evidence shows, in the framework's default layout."""
    by_site = {entry.path: _options(framework, entry, evidence) for entry in entries}
    needed: dict[tuple[tuple[str, Any], ...], list[str]] = {}
    for path, options in by_site.items():
        if options is not None:
            needed.setdefault(options, []).append(path)
    hopeless = needed.pop((), [])
    texts = []
    for options, paths in needed.items():
        if len(paths) == len(by_site):
            texts.append(f"Pass {', '.join(f'{name}={value!r}' for name, value in options)}")
        else:
            texts.append(f"Pass overrides={{pattern: {dict(options)!r}}} for {listed(paths)}")
    if hopeless:
        texts.append(f"Leave {listed(hopeless)} out with exclude")
    return "; ".join(texts)


def texts(
    framework: str, entries: Sequence[ECAEntry], evidence: Iterable[Evidence], keep_causality: bool
) -> tuple[str, ...]:
    """Return what a printed plan says of the evidence."""
    lines = []
    for shown in evidence:
        lines.append(
            f"{listed(shown.sites)}: {_SHOWN[shown.how].format(axis=_axis(framework, shown))} ({shown.source})"
        )
        broken = [entry.path for entry in entries if breaks(entry, shown)]
        if broken and keep_causality:
            refused = f"{_broken(framework, shown, broken)}, which insert_eca refuses"
            lines.append(f"{refused}. {remedy(framework, entries, [shown])}; {INSIST}")
    return tuple(lines)


def _broken(framework: str, shown: Evidence, paths: Sequence[str]) -> str:
    return f"ECA at {listed(paths)} {_BROKEN[shown.how].format(axis=_axis(framework, shown))}"


def _axis(framework: str, shown: Evidence) -> str:
    if shown.place is None:
        return "an order that no single axis there holds"
    layout = default_layout(framework)
    words = {"channels_first": "(N, C, *S)", "channels_last": "(N, *S, C)"}[layout]
    return f"axis {axis_at(shown.place, layout)} of {words}"


def _pooled(entry: ECAEntry, rank: int) -> set[int]:
    if entry.pool_axes is None:
        return set(range(rank - 2))
    return {place_of(axis, entry.layout, rank) for axis in entry.pool_axes}


def _options(framework: str, entry: ECAEntry, evidence: Sequence[Evidence]) -> tuple[tuple[str, Any], ...] | None:
    """Return the options that one site needs; () where none help, None where the site breaks nothing."""
    of_site = [shown for shown in evidence if entry.path in shown.sites]
    if not any(breaks(entry, shown) for shown in of_site):
        return None
    if any(shown.place is None for shown in of_site):
        return ()
    rank, layout = of_site[0].rank, default_layout(framework)
    frames = {shown.place for shown in of_site if shown.how == "frames"}
    causal = sorted({shown.place for shown in of_site if shown.place is not None} - frames)
    pooled = sorted(_pooled(entry, rank) - frames - set(causal[1:]))
    if not pooled:
        return ()
    options: dict[str, Any] = {}
    if len(pooled) < rank - 2:
        options["pool_axes"] = tuple(axis_at(place, layout) for place in pooled)
    if causal and causal[0] in pooled:
        options["causal_axis"] = axis_at(causal[0], layout)
    return tuple(options.items())
