"""The bench's part of docs/measured-parity.md."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

from benchmarks.porting.record import POLICIES, Record
from eca_multi.parity.define.dtypes import DTYPES

BEGIN, END = "<!-- porting faults: begin -->", "<!-- porting faults: end -->"

TEXT = """\
## Faults of porting

`python benchmarks/porting_faults.py` writes this section. It has {layers} layers as the frameworks ship them, each with
a right port in each framework that has the layer, and {faults} faults that people make when they port. A fault is
planted in one or more ports, {wrong} faulty ports in all; Keras's take turns on the three backends. The reference is
torch's layer in float64. Beside the faulty port runs torch's right one, as its user has it.

Right ports, {right} of them. A red cell is a tensor of a case with a verdict of disagreement. ROUNDING is the verdict
on a difference that the framework's own arithmetic explains; UNSUPPORTED is that on a computation which the framework
does not do on this machine. The tolerances look at all tensors of a port; they have no
such verdict.

{right_table}

Faulty ports. "Caught" has a red cell. "Declared" has none, and the run says that this data and dtype cannot decide.
"Silent" is green without a word: a miss. "Right stage" and "cause named" are shares of those caught. A tolerance has
lost a port whose right version it rejects too, since nobody can use it there.

{wrong_table}

A run of one port in one dtype takes {seconds} of the processor's time, in a process that is there
already, and without the search for a smaller case that fails.

{misses}

Made in {total} by
{command}
on {machine}. Runners of this run: {runners}.
"""


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def share(part: int, whole: int) -> str:
    return f"{part} of {whole}" + (f" ({100 * part / whole:.0f} %)" if whole else "")


def right_table(right: Sequence[Record]) -> str:
    def row(name: str, of: object) -> list[object]:
        return [name, *(of([r for r in right if r.dtype == dtype]) for dtype in DTYPES)]  # type: ignore[operator]

    return table(
        ("right ports", *DTYPES),
        [
            row("runs", len),
            row("cells", lambda some: sum(r.cells for r in some)),
            row("red cells", lambda some: sum(len(r.red) for r in some)),
            row("runs with a red cell", lambda some: sum(bool(r.red) for r in some)),
            row("ROUNDING", lambda some: sum(len(r.rounding) for r in some)),
            row("INCONCLUSIVE", lambda some: sum(len(r.open) for r in some)),
            row("UNSUPPORTED", lambda some: sum(len(r.refused) for r in some)),
            row("no result", lambda some: sum(len(r.errors) for r in some)),
            *(
                row(f"runs that {policy} rejects", lambda some, p=policy: sum(p in r.rejected for r in some))
                for policy in POLICIES
            ),
        ],
    )


def wrong_table(right: Sequence[Record], wrong: Sequence[Record]) -> str:
    lost = {(r.layer, r.runner, r.dtype, policy) for r in right for policy in r.rejected}

    def row(name: str, of: object) -> list[object]:
        return [name, *(of([r for r in wrong if r.dtype == dtype]) for dtype in DTYPES)]  # type: ignore[operator]

    def found(policy: str, some: Sequence[Record]) -> str:
        gone = [r for r in some if (r.layer, r.runner, r.dtype, policy) in lost]
        seen = sum(policy in r.rejected for r in some if r not in gone)
        return f"{seen}, {len(gone)} lost" if gone else str(seen)

    return table(
        ("faulty ports", *DTYPES),
        [
            row("runs", len),
            row("caught", lambda some: share(sum(r.caught for r in some), len(some))),
            row("declared", lambda some: sum(r.declared for r in some)),
            row("silent", lambda some: sum(_is_silent(r) for r in some)),
            row("no result", lambda some: sum(bool(r.errors or r.refused) and not r.caught for r in some)),
            row("right stage", lambda some: share(sum(r.localised for r in some), sum(r.caught for r in some))),
            row("cause named", lambda some: share(sum(r.named for r in some), sum(r.caught for r in some))),
            *(row(f"caught by {policy}", lambda some, p=policy: found(p, some)) for policy in POLICIES),
        ],
    )


def _is_silent(r: Record) -> bool:
    return not (r.caught or r.declared or r.errors or r.refused)


def misses(right: Sequence[Record], wrong: Sequence[Record]) -> str:
    """List what went wrong, one line each."""
    groups: dict[str, Counter[str]] = {
        "Right ports with a red cell": Counter(),
        "Faults without a word": Counter(),
        "Faults placed at another stage": Counter(),
        "Faults whose cause is not named": Counter(),
        "No result": Counter(),
    }
    for r in right:
        if r.red:
            tensors = ", ".join(dict.fromkeys(text.split()[1] for text in r.red))
            groups["Right ports with a red cell"][f"{r.layer}, {r.dtype}, {r.runner}: {tensors}"] += 1
    for r in wrong:
        name = f"{r.layer}: {r.fault}"
        if _is_silent(r):
            groups["Faults without a word"][f"{name} ({r.dtype})"] += 1
        if r.caught and not r.localised:
            groups["Faults placed at another stage"][f"{name}: {r.culprit or 'none'} for {r.stage} ({r.dtype})"] += 1
        if r.caught and not r.named:
            groups["Faults whose cause is not named"][f"{name} ({r.cause})"] += 1
    for r in (*right, *wrong):
        for error in (*r.errors, *r.refused)[:1]:
            groups["No result"][f"{r.layer}, {r.fault or 'right'}, {r.runner}, {r.dtype}: {error:.160}"] += 1
    parts = []
    for title, lines in groups.items():
        listed = "\n".join(f"- {line}" + (f", {n} runs" if n > 1 else "") for line, n in sorted(lines.items()))
        parts.append(f"{title}:{' none.' if not lines else ''}" + (f"\n\n{listed}" if lines else ""))
    return "\n\n".join(parts)


def write_section(records: Sequence[Record], total: str, command: str, machine: str) -> str:
    right, wrong = [r for r in records if not r.fault], [r for r in records if r.fault]
    times = [r.seconds for r in records if r.seconds]  # 0 where nobody measured them
    return TEXT.format(
        layers=len({r.layer for r in right}),
        faults=len({(r.layer, r.fault) for r in wrong}),
        wrong=len({(r.layer, r.fault, r.runner) for r in wrong}),
        right=len({(r.layer, r.runner) for r in right}),
        right_table=right_table(right),
        wrong_table=wrong_table(right, wrong),
        seconds=f"{median(times):.1f} s in the median and {max(times):.1f} s at most",
        misses=misses(right, wrong),
        runners=", ".join(dict.fromkeys(r.runner for r in records)),
        total=total,
        command=f"`{command}`",
        machine=machine,
    )


def put_into(page: Path, section: str) -> None:
    """Replace what stands between the markers of a page; a page without them gets both at its end."""
    text = page.read_text()
    if BEGIN not in text:
        text = f"{text.rstrip()}\n\n{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{section.strip()}\n{END}{rest.partition(END)[2]}")


def kept(page: Path) -> str:
    """Return the section of a page with its markers, or "": for the script that writes the rest of the page."""
    text = page.read_text() if page.exists() else ""
    return f"\n{text[text.index(BEGIN) : text.index(END) + len(END)]}\n" if BEGIN in text and END in text else ""
