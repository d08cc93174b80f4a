"""In all four packages, checkpoints.py and pretrained.py have the same functions in the same order."""

import ast
from pathlib import Path

import pytest

import eca_multi

ROOT = Path(eca_multi.__file__).parent
PACKAGES = ("torch", "keras", "flax/linen", "flax/nnx")
FUNCTIONS = {
    "checkpoints.py": ["read_checkpoint", "open_tensors", "write_checkpoint"],
    "pretrained.py": ["from_pretrained"],
}
# Options that one framework alone has.
OWN = {"key", "device", "data_format", "model_name", "param_dtype", "rngs"}


def functions_of(source: str) -> list[ast.FunctionDef]:
    return [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name[0] != "_"]


def names_of(source: str) -> list[str]:
    """The public names in their order, constants left out: functions, and another name of one."""
    names = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            names += [target.id for target in node.targets if isinstance(target, ast.Name) and target.id.islower()]
    return [name for name in names if name[0] != "_"]


def terms_of(function: ast.FunctionDef) -> list[str]:
    """The parameters with their defaults, without those of one framework."""
    arguments = function.args
    count = len(arguments.args) - len(arguments.defaults)
    plain = list(zip(arguments.args, [None] * count + arguments.defaults, strict=True))
    pairs = [*plain, *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    return [f"{a.arg}={default and ast.unparse(default)}" for a, default in pairs if a.arg not in OWN]


def differences(sources: dict[str, str], names: list[str]) -> list[str]:
    first = {function.name: terms_of(function) for function in functions_of(next(iter(sources.values())))}
    found = []
    for package, source in sources.items():
        terms = {function.name: terms_of(function) for function in functions_of(source)}
        if names_of(source) != names:
            found.append(f"{package}: {names_of(source)}, expected {names}")
        elif any(terms[name] != first[name] for name in terms):
            found.append(f"{package}: other parameters than {next(iter(sources))}")
    return found


@pytest.mark.parametrize("file", FUNCTIONS)
def test_the_four_packages_are_twins(file):
    sources = {package: ROOT.joinpath(package, file).read_text() for package in PACKAGES}
    assert differences(sources, FUNCTIONS[file]) == []


@pytest.mark.parametrize(
    "other", ["def b(x): ...\ndef a(x=1): ...", "def a(x=1): ...", "def a(x=2): ...\ndef b(x): ...", "def a(): ..."]
)
def test_a_twin_that_differs_is_found(other):
    sources = {"one": "def a(x=1): ...\ndef b(x, key=None): ...\ndef _c(): ...", "other": other}
    assert differences({"one": sources["one"]}, ["a", "b"]) == []
    assert len(differences(sources, ["a", "b"])) == 1
