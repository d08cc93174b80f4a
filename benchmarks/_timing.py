"""Timing side by side: the candidates take turns in every round, so what else the machine does meets all of them."""

import random
import resource
import statistics
import time
from collections.abc import Callable, Iterable

Run = Callable[[], object]


def interleave(
    runs: dict[str, Run], rounds: int = 9, least: float = 0.02, faults: dict[str, list[float]] | None = None
) -> dict[str, list[float]]:
    """Seconds per call of each candidate, one number per round; a round repeats a short call for `least` seconds.

    `faults` receives the page faults per call, likewise: fresh memory costs one for each page.
    The order is drawn anew in each round: a candidate that leaves the caches warm does not always help the same one.
    """
    repeats = {name: _repeats(run, least) for name, run in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    order = list(runs)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            run, count = runs[name], repeats[name]
            before = page_faults()
            start = time.perf_counter()
            for _ in range(count):
                run()
            seconds[name].append((time.perf_counter() - start) / count)
            if faults is not None:
                faults.setdefault(name, []).append((page_faults() - before) / count)
    return seconds


def page_faults() -> int:
    """Those of this process so far, which no disk took part in."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def _repeats(run: Run, least: float) -> int:
    run()  # the first call compiles, allocates and touches
    start = time.perf_counter()
    run()
    return max(1, round(least / max(time.perf_counter() - start, 1e-7)))


def ratio(of: Iterable[float], to: Iterable[float]) -> tuple[float, float, float]:
    """Median and quartiles of the ratios within a round."""
    ratios = [a / b for a, b in zip(of, to, strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
    return median, low, high
