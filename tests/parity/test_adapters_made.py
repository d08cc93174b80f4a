"""Adapters that a function, functools.partial, a notebook or a helper file has made."""

import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from threading import Lock

import numpy as np
import pytest

from eca_multi import parity
from eca_multi.parity import Case, NumpyAdapter, Spec, SpecError
from eca_multi.parity.define.job import Job
from eca_multi.parity.define.loading import VALUE, label_of, load_object, source_of
from eca_multi.parity.execute.worker import make_engine
from tests.support.scale import Scale

X = np.array([[1.0, -2.0]], np.float32)
LOCK, LARGE = Lock(), np.random.default_rng(0).normal(size=40_000)


def doubled(x):
    return 2 * x


def factory(factor):
    class Made(NumpyAdapter):
        def build(self, config):
            return lambda inputs, weights: factor * doubled(inputs["x"])

    return Made


class Times(NumpyAdapter):
    def __init__(self, factor=1):
        self.factor = factor

    def build(self, config):
        return lambda inputs, weights: 2 * self.factor * inputs["x"]


def returns_a_class():
    return factory(3)


MADE = {
    "a class of a function": factory(3),
    "a function that returns a class": returns_a_class,
    "a lambda that returns one": lambda: factory(3),
    "a partial of a class": partial(Times, 3),
    "a partial of a function": partial(factory, 3),
    "an object": Times(3),
    "an object of a local class": factory(3)(),
}


@pytest.mark.parametrize("made", MADE.values(), ids=MADE)
def test_an_adapter_arrives_in_a_worker_however_it_was_made(made):
    engine = make_engine("runner", source_of(made, "runner 'numpy'"))
    [result] = engine.evaluate(Job("only", "float32", {}, {}, ("y",), inputs={"x": X})).values()
    np.testing.assert_array_equal(result.values, 6 * X)


def test_a_reference_may_be_a_lambda():
    engine = make_engine("reference", source_of(lambda inputs, weights: 6 * doubled(inputs["x"]), "reference"))
    solved = engine.exact(Job("only", "float32", {}, {}, ("y",), inputs={"x": X}))
    np.testing.assert_array_equal(*solved.values(), 12 * X)


def test_a_class_at_the_top_level_is_named_by_its_place():
    assert source_of(Times, "x").endswith("test_adapters_made.py:Times")
    hidden = type("Times", (Times,), {"__module__": __name__, "__qualname__": "Times"})  # another class of that name
    assert source_of(hidden, "x").startswith(f"{VALUE}Times:")
    assert label_of(source_of(hidden, "x")) == label_of(source_of(Times, "x")) == "Times"


def test_what_cannot_be_sent_is_one_line():
    class Locked(NumpyAdapter):
        def build(self, config):
            return lambda inputs, weights: LOCK

    class Large(NumpyAdapter):
        def build(self, config):
            return lambda inputs, weights: LARGE.sum()

    with pytest.raises(SpecError, match=r"runner 'a' must .* Received: .*Locked, which raised TypeError.*assert_match"):
        source_of(Locked, "runner 'a'")
    with pytest.raises(SpecError, match=r"must hold little data.* Received: .*Large, of \d+ KiB, and 96 are the most"):
        source_of(Large, "runner 'a'")
    with pytest.raises(SpecError, match=r"must be an adapter, or \"file\.py:Class\".* Received: 3\."):
        source_of(3, "runner 'a'")
    with pytest.raises(SpecError, match=r"'test_.*' must be an adapter, or a callable without arguments that returns"):
        make_engine("runner", source_of(lambda: 3, "runner 'a'"))


def test_another_python_cannot_read_it(monkeypatch):
    source = source_of(factory(3), "runner 'a'")
    monkeypatch.setattr("sys.version_info", (3, 99, 0))
    with pytest.raises(SpecError, match=r"Made must load in a worker.*another version of Python wrote it; a file can"):
        load_object(source)


def test_a_file_of_a_package_imports_its_neighbours(tmp_path):
    folder = tmp_path / "apackage" / "part"
    folder.mkdir(parents=True)
    for file, text in {
        folder.parent / "__init__.py": "",
        folder / "__init__.py": "",
        folder / "near.py": "FACTOR = 6",
        folder / "mine.py": "from .near import FACTOR\nfrom ..part.near import FACTOR as SAME\n",
        tmp_path / "alone.py": "from .near import FACTOR",  # in no package
    }.items():
        file.write_text(text)
    assert load_object(f"{folder / 'mine.py'}:FACTOR") == 6
    with pytest.raises(SpecError, match=r"must import. It raised ImportError"):
        load_object(f"{tmp_path / 'alone.py'}:FACTOR")


NOTEBOOK = """
from eca_multi.parity import Case, NumpyAdapter, Spec, run

def relu(x):
    return x * (x > 0)

class Mine(NumpyAdapter):
    def build(self, config):
        return lambda inputs, weights: relu(inputs["x"]) * weights["s"]

class Wrong(Mine):
    def build(self, config):
        return lambda inputs, weights: relu(-inputs["x"]) * weights["s"]

spec = Spec("Relu", "N C", {"s": "C"}, {"numpy-mine": Mine, "numpy-wrong": Wrong},
            lambda inputs, weights: relu(inputs["x"]) * weights["s"], cases=(Case("only"),))
report = run(spec, dtypes=["float32"], checks=["forward"])
print(*[(cell.runner, cell.verdict.green) for cell in report.cells])
"""


@pytest.mark.slow
def test_classes_of_a_notebook_are_compared():
    """Standard input has no file either."""
    done = subprocess.run([sys.executable, "-"], input=NOTEBOOK, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "('numpy-mine', True) ('numpy-wrong', False)", done.stderr


@pytest.mark.slow
def test_no_bundle_names_what_no_file_has(tmp_path):
    spec = Spec("Off", "N C", {"s": "C"}, {"numpy": factory(3)}, Scale, cases=(Case("only"),), dtypes=["float32"])
    report = parity.run(spec, checks=["forward"], bundles=tmp_path)
    assert not list(tmp_path.iterdir())
    [found] = report.localisations
    assert re.search(r"no bundle was written, since no file has .*Made at its top level to name", found.line)
    named = parity.run(replace(spec, runners={"numpy": Times}), checks=["forward"], bundles=tmp_path)
    assert named.replay.endswith(" --trust")  # the code is not this package's
