"""The fuzzer's seeds: a right file of each format; and the readers of each."""

import argparse
import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np

TINY = "tiny_basic"
PLAIN, PACKED = (8, 150 << 20), (100, 300 << 20)  # memory: so many times the file and so much more


def make_seeds(folder: Path) -> None:
    """Write a right file of each format: small ones, and full networks of those that identify them."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    import torch

    import eca_multi.keras.networks as keras_networks
    from eca_multi.checkpoints import save_file
    from eca_multi.checkpoints.take import take
    from eca_multi.flax.linen import checkpoints as linen
    from eca_multi.flax.nnx import checkpoints as nnx
    from eca_multi.keras import checkpoints as keras
    from eca_multi.surgery.causality import Evidence
    from eca_multi.surgery.entry import ECAEntry, Skipped
    from eca_multi.surgery.plan import ECAPlan
    from eca_multi.torch.checkpoints import write_checkpoint
    from tests.support.checkpoint_factory import random_weights
    from tests.support.report_fixture import make

    add_tiny()
    setattr(keras_networks, TINY, keras_networks._builder(TINY))
    tiny = random_weights(TINY, num_classes=2)
    full = {
        name: array.astype(np.float16)
        for name, array in random_weights("eca_mobilenet_v2", num_classes=2, features_only=True).items()
    }

    def path(form: str, name: str) -> Path:
        (folder / form).mkdir(exist_ok=True)
        return folder / form / name

    few = {"conv1.weight": torch.ones(4, 3, 3, 3), "bn1.weight": torch.ones(4), "n": torch.zeros(2, dtype=torch.int64)}
    optimizer = {"state": {0: {"momentum_buffer": torch.ones(4)}}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}
    trained = {"state_dict": few, "epoch": 3, "args": argparse.Namespace(lr=0.1), "best": np.float64(70.25)}
    for form, zipped in (("torch-zip", True), ("torch-legacy", False)):
        save = {"_use_new_zipfile_serialization": zipped}
        torch.save({**trained, "optimizer": optimizer}, path(form, "few.pth"), **save)
        for name, weights in (("tiny", tiny), ("full", full)):
            state = {f"module.{key}": torch.from_numpy(array) for key, array in weights.items()}
            torch.save({"state_dict": state, "epoch": 3}, path(form, f"{name}.pth"), **save)
    save_file({"a": np.ones((2, 3), np.float32), "b": np.ones(3, np.float16)}, path("canonical", "few.safetensors"))
    for name, weights in (("tiny", tiny), ("full", full)):
        checkpoint = take(weights)
        write_checkpoint(checkpoint, path("safetensors", f"{name}.safetensors"), {"epoch": "3"})
        linen.write_checkpoint(checkpoint, path("linen", f"{name}.msgpack"), {"epoch": "3"})
        nnx.write_checkpoint(checkpoint, path("nnx", f"{name}.msgpack"), {"epoch": "3"})
    checkpoint = take(tiny)
    keras.write_checkpoint(checkpoint, path("keras", "tiny.keras"), {"epoch": "3"})
    keras.write_checkpoint(checkpoint, path("keras-h5", "tiny.weights.h5"), {"epoch": "3"})
    linen.write_checkpoint(checkpoint, path("orbax", "tiny"), {"epoch": "3"})
    pretrained = path("config", "tiny")
    pretrained.mkdir()
    save_file(tiny, pretrained / "model.safetensors")
    config = {"architecture": TINY, "pretrained_cfg": {"input_size": [3, 64, 64], "crop_pct": 0.9, "mean": [0.5] * 3}}
    (pretrained / "config.json").write_text(json.dumps(config))
    entry = ECAEntry("layer1.0.bn2", channels=64, kernel_size=3, parameters=3, aliases=("a",), notes=("b",), calls=1)
    sites = (entry, ECAEntry("tcn.0.bn", channels=8, pool_axes=(2, 3), causal_axis=2), ECAEntry("tcn.1.bn", channels=8))
    shown = (
        Evidence("causal", 0, 4, ("tcn.0.bn", "tcn.1.bn"), "in a run"),
        Evidence("frames", 1, 4, ("tcn.1.bn",), "r"),
    )
    plan = ECAPlan("torch", "Net", entries=sites, skipped=(Skipped("x", "y"),), notes=("z",), evidence=shown)
    plan.save(path("plan", "a.json"))
    report = make()
    report["results"] = report["results"][:: max(len(report["results"]) // 30, 1)]
    # One picture of each kind: matplotlib would take half of the fuzzer's time.
    for result in [result for result in report["results"] if "profile" in result][1:]:
        del result["profile"]
    report["localisations"] = report["localisations"][:1]
    report["trajectories"] = [t for t in report["trajectories"] if t["dtype"] == "float32"]
    path("report", "a.json").write_text(json.dumps(report))
    write_bundle_seed(path("bundle", "a"))


def write_bundle_seed(folder: Path) -> None:
    from eca_multi.parity.define.job import Job
    from eca_multi.parity.define.tensor import Kind, Quantity, Tensor
    from eca_multi.parity.explain.bundle import write_bundle
    from eca_multi.parity.explain.rerun import Rerun

    runner = SimpleNamespace(name="numpy", adapter="mine.py:Scale", python="", env={"A": "1"})
    spec = SimpleNamespace(name="Scale", layout="N C", taps=("gate",), budget=None)
    by = SimpleNamespace(kind="stochastic", c=4.0, budget=lambda value, error: error)
    x, y = np.ones((2, 3), np.float32), Quantity(Kind.OUTPUT, "y")
    job = Job("a", "float32", {"C": 3}, {"x": ("N", "C"), "y": ("N", "C")}, ("y",), inputs={"x": x}, weights={"w": x})
    rerun = Rerun(job, {y: Tensor(x, "float32")}, {y: (x, x)})
    write_bundle(folder, spec, runner, runner, by, "y exceeds", rerun)


def add_tiny() -> None:
    """Let a network of 20 kB be found, so that what comes behind the identification is reached by small files."""
    from eca_multi.networks import NETWORKS, ResNet

    NETWORKS[TINY] = ResNet(TINY, (1, 2), "basic", widths=((8, 64), (8, 24), (8, 24)), kernels=(3, 5))


def read_generic(path: Path) -> object:
    from eca_multi.checkpoints import read_checkpoint

    return read_checkpoint(path)


def read_own(module: str) -> Callable[[Path], object]:
    """The reader of one framework, whatever the file looks like."""

    def read(path: Path) -> object:
        from importlib import import_module

        return import_module(f"eca_multi.{module}.checkpoints").read_checkpoint(path)

    return read


def read_canonical(path: Path) -> object:
    from eca_multi.checkpoints import load_file

    return load_file(path)


def read_compared(path: Path) -> object:
    from eca_multi.parity import compare

    return compare(path, path)


def read_config(path: Path) -> object:
    from eca_multi.checkpoints.find_files import Hub
    from eca_multi.checkpoints.find_pretrained import find_pretrained

    return find_pretrained(path, Hub())


def read_plan(path: Path) -> object:
    from eca_multi.surgery.plan import ECAPlan

    return str(ECAPlan.load(path))


def read_report(path: Path) -> object:
    from rich.console import Console

    from eca_multi.parity.report.html import to_html
    from eca_multi.parity.report.json import read_report
    from eca_multi.parity.report.junit import to_junit
    from eca_multi.parity.report.terminal import print_summary

    content = read_report(path)
    print_summary(content, Console(file=io.StringIO(), emoji=False))
    return to_html(content), to_junit(content)


def read_bundle(path: Path) -> object:
    from eca_multi.parity.explain.bundle import read_bundle

    return read_bundle(path)


@dataclass(frozen=True)
class Form:
    """A format: its readers, and what its files hold."""

    readers: tuple[Callable[[Path], object], ...]
    kind: str = "bytes"
    share: int = 10  # of all inputs
    bound: tuple[int, int] = PLAIN


FORMS = {
    "torch-zip": Form((read_generic, read_own("torch")), "zip"),
    "torch-legacy": Form((read_own("torch"), read_generic), "pickle"),
    "safetensors": Form((read_generic, read_own("torch"), read_compared), "header"),
    "canonical": Form((read_canonical,), "header", 5),
    "keras": Form((read_generic, read_own("keras")), "zip"),
    "keras-h5": Form((read_generic, read_own("keras")), "hdf5"),
    "linen": Form((read_generic, read_own("flax.linen"))),
    "nnx": Form((read_generic, read_own("flax.nnx")), share=5),
    "orbax": Form((read_own("flax.linen"), read_generic), "folder", 2, PACKED),
    "config": Form((read_config,), "folder", 5),
    "plan": Form((read_plan,), "json", 5),
    "report": Form((read_report,), "json", 3),
    "bundle": Form((read_bundle,), "folder", 5),
}
