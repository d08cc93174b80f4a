"""Examine the networks, one process for each package, and write the page.

python -m benchmarks.zoo                      all that docs/measured/zoo.jsonl does not hold yet
python -m benchmarks.zoo --only timm:rexnet   those whose name holds a text
python -m benchmarks.zoo --again              all of them anew
python -m benchmarks.zoo --framework keras --backend jax    Keras networks on JAX alone
python -m benchmarks.zoo --sample             the 30 of CI; fails where one of them does
python -m benchmarks.zoo --page-only --records a.jsonl b.jsonl
                                              none: take over records of other runs, and write the page
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from itertools import groupby
from pathlib import Path
from queue import Queue
from typing import Any

from benchmarks.zoo.batch import records
from benchmarks.zoo.page import called, faults, write_page
from benchmarks.zoo.sample import SAMPLE

ROOT = Path(__file__).parents[2]
FRAMEWORKS = ("torch", "keras", "flax")
BACKENDS = ("tensorflow", "jax", "torch")  # of Keras
Key = tuple[str, str, str]  # framework, backend of Keras or "", name


def main() -> int:
    options = _options()
    if options.page_only:
        _take_over(options.out, options.records)
        _write_page(options)
        return 0
    known = {} if options.again or options.sample else _read(options.out)
    chosen = [
        key for key in _networks(options.framework, options.backend) if all(part in key[2] for part in options.only)
    ]
    if options.sample:
        chosen = [key for key in chosen if key[2] in SAMPLE and key[1] in ("", "tensorflow")]
    todo = [key for key in chosen if key not in known or (options.only and options.again)]
    print(f"zoo: {len(todo)} networks to examine, {len(chosen) - len(todo)} known", flush=True)
    found = []
    for record in _examined(todo, options):
        found.append(record)
        print(f"[{len(found)}/{len(todo)}] {_line(record)}", flush=True)
        if not options.sample:
            _keep(options.out, record)
    if not options.sample:
        _write_page(options)
    return int(bool(options.sample and any(faults(record) for record in found)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=__doc__.splitlines()[0])
    parser.add_argument("--framework", nargs="+", choices=FRAMEWORKS, default=FRAMEWORKS)
    parser.add_argument("--backend", nargs="+", choices=BACKENDS, default=BACKENDS, help="of Keras networks")
    parser.add_argument("--only", nargs="+", default=[], help="texts that the name holds")
    parser.add_argument("--again", action="store_true", help="do not pass over what is known")
    parser.add_argument("--sample", action="store_true", help="the 30 networks of CI")
    parser.add_argument("--without", default="-", help="steps to leave out, with commas between: export,reload")
    parser.add_argument("--jobs", type=int, default=2, help="packages at a time, each in a process of its own")
    parser.add_argument("--limit", type=float, default=240, help="seconds for one network")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/measured/zoo.jsonl")
    parser.add_argument("--page", type=Path, default=ROOT / "docs/zoo.md")
    parser.add_argument("--page-only", action="store_true", help="examine none, write the page from --out")
    parser.add_argument("--records", nargs="+", type=Path, default=[], help="with --page-only: files to add to --out")
    options = parser.parse_args()
    if options.records and not options.page_only:
        parser.error("--records goes with --page-only")
    return options


def _networks(frameworks: Sequence[str], backends: Sequence[str]) -> Iterator[Key]:
    for framework in frameworks:
        for backend in backends if framework == "keras" else ("",):
            for name in import_module(f"benchmarks.zoo.{framework}_networks").NETWORKS:
                yield framework, backend, name


def _examined(todo: Sequence[Key], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the records as they come, of several packages at a time."""
    found: Queue[dict[str, Any] | None] = Queue()

    def examine(framework: str, backend: str, names: Sequence[str]) -> None:
        try:
            for record in records(framework, names, options.limit, ROOT, options.without, backend):
                found.put(record)
        finally:
            found.put(None)

    packages = groupby(todo, lambda key: (key[0], key[1], key[2].split(":")[0]))
    with ThreadPoolExecutor(options.jobs) as pool:
        runs = [pool.submit(examine, *key[:2], [name for *_, name in group]) for key, group in packages]
        for _ in runs:
            yield from iter(found.get, None)
        for run in runs:
            run.result()


def _line(record: dict[str, Any]) -> str:
    if "broken" in record:
        return f"{called(record)}: not run: {record['broken']}"
    wrong = faults(record)
    adds = f"{record.get('gated', 0)} of {record.get('adds', 0)} adds" if "adds" in record else ""
    return f"{called(record)}: {adds} {record['seconds']} s {'; '.join(wrong) or 'right'}"


def _read(*paths: Path) -> dict[Key, dict[str, Any]]:
    """Return the last record of each network."""
    lines = [line for path in paths if path.exists() for line in path.read_text(encoding="utf-8").splitlines()]
    found = [json.loads(line) for line in lines]
    return {(record["framework"], record.get("backend", ""), record["name"]): record for record in found}


def _take_over(out: Path, files: Sequence[Path]) -> None:
    """Write the last record of each network, of `out` and then of the files, in the order of the lists."""
    missing = [str(file) for file in files if not file.exists()]
    if missing:
        raise SystemExit(f"no such file: {', '.join(missing)}")
    found = _read(out, *files)
    kept = [found[key] for key in _networks(FRAMEWORKS, BACKENDS) if key in found]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(map(_as_line, kept)), encoding="utf-8")
    print(f"zoo: {len(kept)} records in {out}, {len(found) - len(kept)} of networks that no list names left out")


def _write_page(options: argparse.Namespace) -> None:
    write_page(list(_read(options.out).values()), options.page, len(list(_networks(FRAMEWORKS, BACKENDS))))


def _as_line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def _keep(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(_as_line(record))


if __name__ == "__main__":
    sys.exit(main())
