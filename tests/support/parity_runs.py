"""Short runs of the harness on the layer of scale.py, by the API and by the command line."""

import json
from pathlib import Path

from safetensors.numpy import load_file
from typer.testing import CliRunner

from eca_multi import parity
from eca_multi.cli.main import app
from eca_multi.parity import Spec, Verdict
from tests.support import scale

SCALE_FILE = Path(scale.__file__)
MUTANTS = SCALE_FILE.with_name("mutants.py")


QUICK = ("--dtype", "float32", "--case", "offsets", "--check", "forward")


def cli(*args, columns=200):
    return CliRunner().invoke(app, ["parity", *map(str, args)], env={"COLUMNS": str(columns)})


def text_of(done) -> str:
    """Return the command's output without the frame that rich draws."""
    return " ".join(done.output.replace("│", " ").split())


def here(name: str) -> str:
    return f"{SCALE_FILE}:{name}"


def quick(spec: Spec, **options):
    """Run one case in float32; nearly all of the time is the start of the workers."""
    return parity.run(spec, **{"dtypes": ["float32"], "cases": ["offsets"], "checks": ["forward"], **options})


def verdicts(report) -> dict[str, Verdict]:
    return {cell.tensor: cell.verdict for cell in report.cells}


def exceeding(bundle) -> set[str]:
    """Return the names of the tensors that fail, judged by the files of a bundle alone."""
    folder = Path(bundle)
    about, truth, results = (
        json.loads((folder / "bundle.json").read_text()),
        load_file(folder / "reference.safetensors"),
        load_file(folder / "results.safetensors"),
    )
    return {n for n in results if n in truth and (abs(results[n] - truth[n]) > about["c"] * truth[f"{n}@error"]).any()}
