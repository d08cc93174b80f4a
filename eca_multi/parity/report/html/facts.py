"""What was run, on what, and why: the cases, the runners with their versions, the machine and the error model."""

from .formats import NONE, plain
from .markup import Markup, element, join
from .read import Row, mapping, number, ranking, rows, sequence, text
from .tables import cross, row, table


def cases(report: Row) -> Markup | None:
    """What each case is there to show."""
    listed = rows(report, "cases")
    body = [row(text(case, "name"), text(case, "why") or NONE) for case in listed]
    return table("Cases", ("Case", "Why"), body, class_="prose") if listed else None


def runners(report: Row) -> Markup | None:
    """How each runner ended, and what it stood on."""
    listed = rows(report, "runners")
    required = {str(name) for name in sequence(report, "required")}
    body = []
    for runner in listed:
        name, state = text(runner, "name"), text(runner, "state") or "ran"
        mark = cross() if state not in ("ran", "" if name in required else "unavailable") else None
        versions = mapping(runner, "versions")
        stands_on = ", ".join(f"{package}\u00a0{versions[package]}" for package in sorted(versions)) or NONE
        needed = element("span", " required", class_="note") if name in required else None
        detail = text(runner, "detail")
        body.append(row(join(name, needed), element("td", mark, state), stands_on, _detail(detail)))
    head = ("Runner", "State", "Versions", "Detail")
    return table("Runners", head, body, class_="prose") if listed else None


def environment(report: Row) -> Markup | None:
    """The machine, the specification and the error model."""
    spec, machine = mapping(report, "spec"), mapping(report, "environment")
    safety = number(spec, "c")
    names = sorted(machine, key=ranking(("python", "numpy", "platform", "processor")))
    known = {
        "Specification": " from ".join(part for part in (text(spec, "name"), text(spec, "source")) if part),
        "Specification hash": text(spec, "hash"),
        "Layout": text(spec, "layout"),
        "Reference": text(spec, "reference"),
        "Budget": ", ".join(part for part in (text(spec, "budget"), f"c = {plain(safety)}" if safety else "") if part),
        **{"NumPy" if name == "numpy" else str(name).capitalize(): text(machine, name) for name in names},
        "Written by": text(report, "tool"),
    }
    pairs = [join(element("dt", name), element("dd", value)) for name, value in known.items() if value]
    return element("dl", *pairs) if pairs else None


def _detail(detail: str) -> Markup:
    if "\n" not in detail.strip():
        return element("td", detail or NONE)
    return element("td", element("pre", detail.strip(), class_="reason"))
