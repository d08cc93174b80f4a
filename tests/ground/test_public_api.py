"""Public names: the same words in every framework, all listed, each with an example that runs."""

import ast
import doctest
import inspect
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "eca_multi": "__version__ eca_kernel_size",
    "eca_multi.torch": (
        "ECA ECAState LazyECA base_state eca eca_parameters eca_state eca_step freeze_except_eca from_canonical "
        "infer_plan insert_eca installed_eca load_base_state load_eca_state plan_eca prune_plan record_gates "
        "remove_eca to_canonical"
    ),
    "eca_multi.keras": (
        "ECA ECAState GateRecorder base_state eca eca_parameters eca_state eca_step freeze_except_eca from_canonical "
        "infer_plan insert_eca installed_eca load_base_state load_eca_state plan_eca prune_plan record_gates "
        "remove_eca to_canonical"
    ),
    "eca_multi.jax": "ECAState eca eca_step",
    "eca_multi.flax.linen": (
        "ECA base_state eca_parameters eca_state freeze_except_eca from_canonical infer_plan insert_eca "
        "installed_eca load_base_state load_eca_state plan_eca prune_plan record_gates "
        "remove_eca to_canonical"
    ),
    "eca_multi.flax.nnx": (
        "ECA ECAParam base_state eca_parameters eca_state freeze_except_eca from_canonical infer_plan insert_eca "
        "installed_eca load_base_state load_eca_state plan_eca prune_plan record_gates "
        "remove_eca to_canonical"
    ),
}
# Modules that are imported by their own name: what of them is for users.
MODULES = {
    "eca_multi.surgery.entry": ["ECAEntry", "Skipped"],
    "eca_multi.surgery.plan": ["ECAPlan"],
    "eca_multi.reference": ["backward", "forward"],
    "eca_multi.checkpoints": ["ConversionReport", "convert", "load_file", "read_checkpoint", "save_file"],
}


def marks(module):
    return [pytest.mark.keras] if module.endswith("keras") else []


def modules(names):
    return [pytest.param(name, marks=marks(name)) for name in names]


def exported(source):
    """The names that an `__init__.py` defines or passes on as `from x import Y as Y`, without private ones."""
    names = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom):
            names |= {alias.asname for alias in node.names if alias.name == alias.asname}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return {name for name in names if not name.startswith("_") or name == "__version__"}


def listed(module):
    """What a package's source exports: known before it is imported, so that each name is a test of its own."""
    path = ROOT.joinpath(*module.split("."), "__init__.py")
    return sorted(exported(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("module", modules(PACKAGES))
def test_all_is_sorted_and_complete_both_ways(module):
    package = import_module(module)
    assert sorted(package.__all__) == listed(module)  # in the file ruff keeps them in order, 18 before 101
    assert len(set(package.__all__)) == len(package.__all__)
    assert all(hasattr(package, name) for name in package.__all__)


@pytest.mark.parametrize("module", modules(PACKAGES))
def test_the_layers_names_are_the_table_of_the_design(module):
    """Names beyond these may come with other parts of the package; these are the layer's."""
    assert set(PACKAGES[module].split()) <= set(import_module(module).__all__)


def test_a_name_that_is_not_listed_is_found():
    source = "from .a import b as b\nfrom .a import hidden\nimport os as _os\n_private = 1\nC = 2\ndef d(): pass\n"
    assert exported(source) == {"b", "C", "d"}


# --- signatures --------------------------------------------------------------------------------------------------

LAYER = {
    "channels": inspect.Parameter.empty,
    "kernel_size": None,
    "gamma": 2,
    "beta": 1,
    "padding": "zeros",
    "gate": "sigmoid",
    "shared": True,
    "init": "uniform",
    "channel_axis": -1,
    "pool_axes": None,
    "causal_axis": None,
}
FUNCTION = {
    "x": inspect.Parameter.empty,
    "weight": inspect.Parameter.empty,
    "padding": "zeros",
    "gate": "sigmoid",
    "channel_axis": -1,
    "pool_axes": None,
    "causal_axis": None,
    "mask": None,
    "residual": None,
    "return_gate": False,
}
NO_DEFAULT = inspect.Parameter.empty
MESH_AXES = {"axis_name": None, "channel_axis_name": None}  # shard_map, which the other frameworks do not have
# What differs, and why. None takes a name away, a string renames it, a pair is another name with its default, `more`
# comes at the end.
LAYERS = {
    # channels first; the parameter's placement as in every torch layer
    ("eca_multi.torch", "ECA"): ({"channel_axis": 1}, {"device": None, "dtype": None}),
    # infers the channels
    ("eca_multi.torch", "LazyECA"): ({"channels": None, "channel_axis": 1}, {"device": None, "dtype": None}),
    # infers the channels; Keras's words for the channel axis and for what a kernel can have
    ("eca_multi.keras", "ECA"): (
        {"channels": None, "channel_axis": ("data_format", None)},
        {
            "kernel_initializer": None,
            "kernel_regularizer": None,
            "kernel_constraint": None,
            "kwargs": NO_DEFAULT,
        },
    ),
    # infers the channels; a linen module has a method named init
    ("eca_multi.flax.linen", "ECA"): (
        {"channels": None, "init": "kernel_init"},
        {"dtype": None, "param_dtype": "float32", **MESH_AXES},
    ),
    ("eca_multi.flax.nnx", "ECA"): (
        {},
        {"dtype": None, "param_dtype": "float32", **MESH_AXES, "rngs": NO_DEFAULT},
    ),
}
FUNCTIONS = {
    "eca_multi.torch": ({"channel_axis": 1}, {}),
    "eca_multi.keras": ({}, {}),
    "eca_multi.jax": ({}, MESH_AXES),
}


def varied(shared, changes, more):
    """The shared parameters with a framework's changes, in order, as (name, default)."""
    result = []
    for name, default in shared.items():
        if name not in changes:
            result.append((name, default))
        elif name == "init":
            result.append((changes[name], default))
        elif isinstance(changes[name], tuple):
            result.append(changes[name])
        elif changes[name] is not None:
            result.append((name, changes[name]))
    return result + list(more.items())


def signature(function):
    """The parameters in order, without those that every module or linen module has; a metaclass may hide a class's."""
    function = function.__init__ if inspect.isclass(function) else function
    found = inspect.signature(function).parameters.values()
    return [p for p in found if p.name not in ("self", "parent", "name")]


def parameters(function):
    """Names and defaults in order, a dtype by its name."""
    found = signature(function)
    return [(p.name, p.default.__name__ if p.name == "param_dtype" else p.default) for p in found]


@pytest.mark.parametrize(
    ("module", "name"),
    [pytest.param(*key, marks=marks(key[0])) for key in LAYERS],
    ids=["-".join(key) for key in LAYERS],
)
def test_layers_have_the_same_parameters(module, name):
    layer = getattr(import_module(module), name)
    assert parameters(layer) == varied(LAYER, *LAYERS[module, name])


@pytest.mark.parametrize("module", modules(FUNCTIONS))
def test_functions_have_the_same_parameters(module):
    function = import_module(module).eca
    assert parameters(function) == varied(FUNCTION, *FUNCTIONS[module])
    kinds = [p.kind for p in signature(function)]
    assert set(kinds[:2]) == {inspect.Parameter.POSITIONAL_OR_KEYWORD}
    assert set(kinds[2:]) == {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize(
    ("module", "name"),
    [pytest.param(*key, marks=marks(key[0])) for key in LAYERS if key[0] != "eca_multi.flax.linen"],
)
def test_options_are_keyword_only(module, name):
    """All behind kernel_size; linen's are fields of a dataclass, which has none."""
    found = signature(getattr(import_module(module), name))
    positional = {p.name for p in found if p.kind == inspect.Parameter.POSITIONAL_OR_KEYWORD}
    assert positional == {"channels", "kernel_size"} & {p.name for p in found} != set()


def test_another_default_is_seen():
    def eca(x, weight, *, padding="circular", gate="sigmoid", channel_axis=-1, mask=None, return_gate=False): ...

    assert parameters(eca) != varied(FUNCTION, {}, {})


@pytest.mark.parametrize("module", modules(name for name in PACKAGES if "canonical" in PACKAGES[name]))
def test_conversions_have_the_same_parameters(module):
    package = import_module(module)
    assert parameters(package.to_canonical) == [("layer_or_params", NO_DEFAULT)]
    assert parameters(package.from_canonical) == [
        ("layer_or_params", NO_DEFAULT),
        ("weights", NO_DEFAULT),
        ("names", None),
    ]


# --- examples ----------------------------------------------------------------------------------------------------


DEEP = ("eca_resnet101", "eca_resnet152", "ecaresnet101d", "ecaresnet200d", "ecaresnet269d")


def slow_where_long(module, name):
    """A network takes seconds to build, in Keras on JAX any one does."""
    network = name.startswith(("eca_resnet", "ecares", "from_pretrained"))
    quick = ("eca_resnet18",) if not module.endswith("torch") else ("eca_resnet18", "from_pretrained")
    return [pytest.mark.slow] if network and (name not in quick or module.endswith("keras")) else []


PUBLIC = [
    pytest.param(module, name, marks=[*marks(module), *slow_where_long(module, name)], id=f"{module}.{name}")
    for module, names in {**{package: listed(package) for package in PACKAGES}, **MODULES}.items()
    for name in names
    if name != "__version__" and not name.startswith(DEEP)  # one text for all: below
]


def run_examples(text, name):
    """Return (failed, attempted, what was said) of the examples in a docstring, run with no names given."""
    said = []
    test = doctest.DocTestParser().get_doctest(text, {"__name__": "__main__"}, name, None, None)
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append)
    return result.failed, result.attempted, "".join(said)


@pytest.mark.parametrize(("module", "name"), PUBLIC)
def test_every_public_name_has_an_example_that_runs(module, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # an example may write a file
    text = inspect.getdoc(getattr(import_module(module), name)) or ""
    failed, attempted, said = run_examples(text, name)
    assert "Example:" in text
    assert attempted > 0
    assert failed == 0, said
    assert f"from {module} import" in text, "an example starts with its import"


@pytest.mark.parametrize("module", modules(name for name in PACKAGES if "eca_resnet18" in listed(name)))
def test_the_examples_of_deep_networks_are_those_of_the_others(module):
    package = import_module(module)

    def example(name):
        text = inspect.getdoc(getattr(package, name)).partition("Example:")[2].partition("Source:")[0]
        return text.replace(name, "network")

    deep = [name for name in package.__all__ if name.startswith(DEEP)]
    assert len(deep) >= 5
    assert {example(name) for name in deep} == {example("ecaresnet50t")}


def test_an_example_that_is_wrong_is_found():
    assert run_examples(">>> 1 + 1\n3\n", "wrong")[:2] == (1, 1)
    assert run_examples(">>> undefined\n", "undefined")[:2] == (1, 1)
    assert run_examples("No example.\n", "none")[:2] == (0, 0)
