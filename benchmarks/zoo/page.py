"""The page: which networks were examined, what was found, and the figures in its head."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]
# The steps of an examination, and what a network that passes them is called.
STEPS = {
    "equal": "bit-equal", "train": "trainable", "undo": "undone", "names": "names kept", "intersect": "transferred",
    "reload": "reloaded", "rebuilt": "rebuilt", "export": "exported", "class": "class kept",
    "pickle": "pickled",
}  # fmt: skip
EVERY = ("plan", "insert", "acts", *STEPS)  # those in front have no figure of their own
PAGE = """\
# ECA in networks of other packages

`make zoo` writes this page, every number of it. It puts ECA into networks that nobody here wrote, with random weights,
small inputs, and statistics and scales of norms off their start. A Keras network counts once for each backend.
{examined}

{head}

- **adds**: residual adds, counted without the package's finder by the operations that run: two tensors of one shape of
  rank 3 or more, both made from the input, of which one went through a convolution that the other did not. The count is
  generous: merges of pyramids, parallel branches that are later folded, and partial sums are no residual branches, but
  count. Those of Keras networks are counted on TensorFlow.
- **with a site**: one side of the add comes from an ECA's product, without a convolution, a matrix product or another
  add in between. **With a reason**: the plan names the add, or the place, and says why not.
- **bit-equal**: the same bits in evaluation right after insertion. **Trainable**: a gradient at every kernel in
  training mode. **Undone**: names, values, classes, hooks and outputs after `remove_eca` are those from before.
- **names kept**: each old name is there, in its order, and new ones are ECA's. **Transferred**: a loader that first
  drops what the model does not name moves every item, in both directions.
- **reloaded**: saved with kernels off the identity, and read in another process that has inserted no ECA. Linen has no
  file of a network: its code, the plan's file and the variables' bytes are read. **Rebuilt**: a new network, the plan
  from its file and the weights from theirs.
- **exported**: by `torch.export`, as SavedModel, by `jax.export`. **Class kept**: Keras alone. **Pickled**: the linen
  module alone.
- A network without a residual branch is refused, and the steps run with ECA at up to eight convolutions or norms.
- **own**: the plain network fails in the same step, which is the control. **-**: the step was not run.

{wrong}

{own}

{reasons}

## All networks

{rows}
{broken}

{versions}

{commits}
"""


def faults(record: Record) -> list[str]:
    """What is wrong in this network, in words; nothing where the plain network fails in the same way."""
    wrong = [f"{step}: {record[step]['note']}" for step in EVERY if _state(record, step) == "no"]
    left = _adds(record) - record.get("gated", 0) - record.get("reasoned", 0)
    if "recount" in record:
        wrong.append(f"{record['adds']} adds before, {record['recount']} after insertion")
    return wrong + ([f"{left} of {_adds(record)} adds without a site or a reason"] if left > 0 else [])


def called(record: Record) -> str:
    """The network's name, with Keras's backend."""
    return record["name"] + (f" on {record['backend']}" if "backend" in record else "")


def write_page(records: Sequence[Record], path: Path, listed: int) -> None:
    """Write the page from all records; `listed` networks stand in the lists."""
    ran = [record for record in records if "broken" not in record]
    broken = [record for record in records if "broken" in record]
    path.write_text(
        PAGE.format(
            head=_head(ran),
            examined=_examined(len(records), listed),
            wrong=_list("What is wrong", [(called(r), "; ".join(faults(r))) for r in ran if faults(r)]),
            own=_list("The network's own", [(called(r), f"{step}: {r[step]['own']}") for r in ran for step in EVERY
                                            if _state(r, step) == "own"]),
            reasons=_reasons(ran),
            rows=_rows(ran),
            versions=_versions(records),
            commits=_commits(records),
            broken=_list("Not run by their package", [(called(r), r["broken"]) for r in broken]),
        ).rstrip() + "\n",
        encoding="utf-8",
    )  # fmt: skip


def _adds(record: Record) -> int:
    return record.get("adds", 0)


def _state(record: Record, step: str) -> str:
    if step not in record:
        return "-"
    if record[step]["ok"]:
        return "yes"
    return "own" if "own" in record[step] else "no"


def _head(records: Sequence[Record]) -> str:
    names = list(dict.fromkeys(_column(record) for record in records))
    lines = ["| | " + " | ".join([*names, "all"]) + " |", "|---|" + "---|" * (len(names) + 1)]
    groups = [[r for r in records if _column(r) == name] for name in names] + [list(records)]
    counts = {
        "networks": lambda group: str(len(group)),
        "adds": lambda group: str(sum(map(_adds, group))),
        "with a site": lambda group: _share(sum(r.get("gated", 0) for r in group), sum(map(_adds, group))),
        "with a reason": lambda group: _share(sum(r.get("reasoned", 0) for r in group), sum(map(_adds, group))),
    }
    lines += [f"| {name} | " + " | ".join(count(group) for group in groups) + " |" for name, count in counts.items()]
    for step, word in STEPS.items():
        lines.append(f"| {word} | " + " | ".join(_passed(group, step) for group in groups) + " |")
    return "\n".join(lines)


def _column(record: Record) -> str:
    return "-".join([record["framework"], *([record["backend"]] if "backend" in record else [])])


def _share(part: int, whole: int) -> str:
    return f"{part} ({100 * part / whole:.1f} %)" if whole else "0"


def _passed(group: Sequence[Record], step: str) -> str:
    states = Counter(_state(record, step) for record in group)
    own = f", own {states['own']}" if states["own"] else ""
    ran = states["yes"] + states["no"]
    return f"{states['yes']} of {ran}{own}" if ran or own else "-"


def _rows(records: Sequence[Record]) -> str:
    head = ["network", "adds", "with a site", "with a reason", "ECAs", *STEPS.values()]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for r in records:
        where = "" if r.get("where", "residual") == "residual" else f" ({r['where']})"
        counts = [r.get(key, "-") for key in ("adds", "gated", "reasoned")]
        cells = [called(r), *counts, f"{r.get('sites', 0)}{where}"]
        lines.append(f"| {' | '.join(map(str, cells + [_state(r, step) for step in STEPS]))} |")
    return "\n".join(lines)


def _reasons(records: Sequence[Record]) -> str:
    """Each reason with the networks and the number of adds that have it."""
    found: dict[str, Counter[str]] = {}
    for record in records:
        for item in record.get("left", []):
            if item["reason"]:
                found.setdefault(item["reason"], Counter())[record["name"]] += 1
    ordered = sorted(found.items(), key=lambda pair: -pair[1].total())
    lines = [
        (f"{networks.total()}: {reason}", ", ".join(f"{name} {n}" for name, n in networks.items()))
        for reason, networks in ordered
    ]
    return _list("Adds with a reason", lines)


def _versions(records: Sequence[Record]) -> str:
    found = {f"{r['name'].split(':')[0]} {r['version']}" for r in records if r.get("version")}
    return f"Packages: {', '.join(sorted(found))}." if found else ""


def _commits(records: Sequence[Record]) -> str:
    """How many records each commit of this repository has made."""
    found = Counter(record.get("commit") or "unknown" for record in records)
    named = ", ".join(f"{commit} ({count})" for commit, count in found.most_common())
    return f"Commits of the records, + where files differed from the commit: {named}."


def _examined(count: int, listed: int) -> str:
    if count == listed:
        return f"All {listed} networks in its lists were examined."
    return f"{count} of the {listed} networks in its lists were examined; the next `make zoo` goes on with the others."


def _list(title: str, items: Sequence[tuple[str, str]]) -> str:
    if not items:
        return f"## {title}\n\nNothing."
    lines = [f"- {name}: {_plain(text)}" for name, text in items]
    return f"## {title}\n\n" + "\n".join(lines)


def _plain(text: str) -> str:
    """A text of a package may hold what Markdown reads as markup."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[")
