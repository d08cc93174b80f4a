"""Private names of the frameworks stand in one file each; a test names the one that a new version has lost."""

import ast
import functools
import importlib
from pathlib import Path

import pytest

import eca_multi

PACKAGE = Path(eca_multi.__file__).parent
FRAMEWORKS = ("torch", "keras", "jax", "flax")
OF_PYTHON = {"_replace", "_asdict", "_fields"}  # public members of named tuples


def tables():
    """Each private name that a `_private.py` lists, with its reason; read from the source, to import no framework."""
    for package in FRAMEWORKS:
        path = PACKAGE / package / "_private.py"
        marks = [pytest.mark.keras] if package == "keras" else []
        for node in ast.parse(path.read_text(encoding="utf-8")).body if path.exists() else ():
            if isinstance(node, ast.Assign) and node.targets[0].id.endswith("NAMES"):
                for name, reason in ast.literal_eval(node.value).items():
                    yield pytest.param(name, reason, id=name, marks=marks)


@functools.cache
def keras_instances():
    """Of the classes that take arguments, and of one that has no name."""
    import keras

    inputs = keras.Input((4,))
    layer = keras.layers.Dense(3)
    model = keras.Model(inputs, layer(inputs))
    model.compile("sgd")
    node = layer._inbound_nodes[0]
    return {
        "keras.Model()": model,
        "keras.Variable()": layer.kernel,
        "keras.src.ops.node.Node()": node,
        "keras.layers.Lambda()": keras.layers.Lambda(abs),
    }


def resolve(name):
    """Return what a dotted name stands for; "Class()" is an instance. The error names the part that is gone."""
    if name.startswith("keras."):
        for prefix, value in keras_instances().items():
            if name.startswith(prefix):
                return functools.reduce(getattr, name.removeprefix(f"{prefix}.").split("."), value)
    parts, depth = name.split("."), 0
    for depth in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:depth]))
        except ImportError:
            continue
        break
    else:
        raise AttributeError(f"{name}: there is no module {parts[0]}")
    for part in parts[depth:]:
        value = getattr(value, part.removesuffix("()"))
        value = value() if part.endswith("()") else value
    return value


@pytest.mark.parametrize(("name", "reason"), list(tables()))
def test_the_installed_version_has_the_name(name, reason):
    resolve(name)
    assert len(reason.split()) >= 8, "say the reason and the public way that was tried"


@pytest.mark.parametrize(
    "name",
    [
        "flax.nnx.Module()._pytree__gone",
        "torch.utils._gone.tree_leaves",
        pytest.param("keras.Model()._gone", marks=pytest.mark.keras),
        pytest.param("keras.src.ops.node.Node().arguments.name_gone", marks=pytest.mark.keras),
    ],
)
def test_a_name_that_is_lost_is_named(name):
    with pytest.raises(AttributeError, match="_gone"):
        resolve(name)


# --- and stand nowhere else -------------------------------------------------------------------------------------------


def is_private(name):
    return name.startswith("_") and not name.startswith("__") and name not in {*OF_PYTHON, "_"}


@functools.cache
def our_names():
    """Every private name that our own classes define: methods, fields, and attributes of `self`."""
    names = set()
    for path in PACKAGE.rglob("*.py"):
        if path.name == "_private.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                names |= {inner.name for inner in node.body if isinstance(inner, ast.FunctionDef | ast.ClassDef)}
                names |= {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                is_own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
                names |= {node.attr} if is_own else set()
    return names


def foreign_private_names(source):
    """The private names in a source that belong to another package, with their lines."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in our_names():
            found.append((node.lineno, node.attr))
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and not node.module.startswith("eca_multi"):
            names = [*node.module.split("."), *(alias.name for alias in node.names)]
            found += [(node.lineno, name) for name in names if is_private(name) or name == "src"]
        elif isinstance(node, ast.Import):
            parts = [part for alias in node.names for part in alias.name.split(".")]
            found += [(node.lineno, name) for name in parts if is_private(name) or name == "src"]
    return found


@pytest.mark.parametrize("package", FRAMEWORKS)
def test_private_names_stand_in_one_file(package):
    files = [path for path in sorted((PACKAGE / package).rglob("*.py")) if path.name != "_private.py"]
    found = {
        str(path.relative_to(PACKAGE)): names
        for path in files
        if (names := foreign_private_names(path.read_text(encoding="utf-8")))
    }
    assert found == {}


def test_a_private_name_elsewhere_is_found():
    source = (
        "import torch._dynamo\nfrom torch.nn.modules.conv import _ConvNd\nfrom keras.src import ops\n"
        "module._modules\nself._gone = module._buffers\n__all__ = torch.__version__\n"
    )
    expected = ["_dynamo", "_ConvNd", "src", "_modules", "_gone", "_buffers"]
    assert sorted(name for _, name in foreign_private_names(source)) == sorted(expected)
