"""Every public verb of surgery stands in the file of the same name in all four frameworks, with the same options."""

import inspect
from dataclasses import MISSING, fields
from importlib import import_module
from pathlib import Path

import pytest

import eca_multi
from eca_multi.surgery.request import Request

FILE_OF = {
    "plan_eca": "plan",
    "insert_eca": "insert",
    "remove_eca": "remove",
    "infer_plan": "infer",  # the plan that a checkpoint tells
    "installed_eca": "infer",  # the plan that a live network tells
    "base_state": "states",
    "eca_parameters": "states",
    "eca_state": "states",
    "freeze_except_eca": "states",
    "load_base_state": "states",
    "load_eca_state": "states",
}
FILES = {"__init__", *FILE_OF.values(), "verify", "_find", "_wrap"}
FRAMEWORKS = {
    "torch": "eca_multi.torch",
    "keras": "eca_multi.keras",
    "linen": "eca_multi.flax.linen",
    "nnx": "eca_multi.flax.nnx",
}
NETWORK = ("model", "module", "variables")
# torch and nnx change in place, Flax calls other methods than __call__, a class of Keras may become a plain one
OF_ONE_FRAMEWORK = ("inplace", "method", "keep_class")
each = pytest.mark.parametrize(
    "package", [pytest.param(name, marks=[pytest.mark.keras] * (name == "keras")) for name in FRAMEWORKS]
)


def verb(package, name):
    return getattr(import_module(FRAMEWORKS[package]), name)


@each
@pytest.mark.parametrize("name", FILE_OF)
def test_each_verb_stands_in_its_file(package, name):
    assert verb(package, name).__module__ == f"{FRAMEWORKS[package]}.surgery.{FILE_OF[name]}"


@pytest.mark.parametrize("package", FRAMEWORKS)
def test_each_folder_has_the_same_files(package):
    folder = Path(eca_multi.__file__).parents[1] / Path(*FRAMEWORKS[package].split(".")) / "surgery"
    assert {path.stem for path in folder.iterdir() if path.stem != "__pycache__"} == FILES


def options(function):
    """The names and defaults of a verb's options, in order."""
    found = inspect.signature(function).parameters.values()
    return [(p.name, p.default) for p in found if p.name not in (*NETWORK, *OF_ONE_FRAMEWORK)]


def requested(first, last):
    """The names and defaults of the fields of a Request, from the first to the last."""
    pairs = [(f.name, f.default) for f in fields(Request) if f.default is not MISSING]
    names = [name for name, _ in pairs]
    return pairs[names.index(first) : names.index(last) + 1]


@each
def test_the_options_are_the_fields_of_a_request(package):
    assert options(verb(package, "plan_eca")) == requested("where", "overrides")
    assert options(verb(package, "insert_eca")) == requested("where", "verify")
    has_inplace = "inplace" in inspect.signature(verb(package, "insert_eca")).parameters
    assert has_inplace == (package in ("torch", "nnx"))  # an option with one legal value is none


def test_another_default_is_seen():
    """The control: one default that differs, one option that is missing, another order."""

    def plan_eca(model, where="block", *, include=None): ...

    assert options(plan_eca) == [("where", "block"), ("include", None)]
    assert requested("where", "include") == [("where", "residual"), ("include", None)]
    assert requested("include", "exclude") == [("include", None), ("exclude", None)]
