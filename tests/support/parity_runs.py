"""Short runs of the harness on the layer of `scale.py`: by the API, by the command line, and what they left."""

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
    """What the command said, without the frame around it."""
    return " ".join(done.output.replace("│", " ").split())


def here(name: str) -> str:
    return f"{SCALE_FILE}:{name}"


def quick(spec: Spec, **options):
    """One case in float32, in milliseconds beside the start of the workers."""
    return parity.run(spec, **{"dtypes": ["float32"], "cases": ["offsets"], "checks": ["forward"], **options})


def verdicts(report) -> dict[str, Verdict]:
    return {cell.tensor: cell.verdict for cell in report.cells}


def exceeding(bundle) -> set[str]:
    """The tensors that fail by the files of a bundle alone."""
    folder = Path(bundle)
    about, truth, results = (
        json.loads((folder / "bundle.json").read_text()),
        load_file(folder / "reference.safetensors"),
        load_file(folder / "results.safetensors"),
    )
    return {n for n in results if n in truth and (abs(results[n] - truth[n]) > about["c"] * truth[f"{n}@error"]).any()}
