"""The same file of two frameworks defines the same public names in the same order, read from the source."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "eca_multi"
FRAMEWORKS = ("torch", "keras", "flax/linen", "flax/nnx")
# What one framework has beside the names of all, and why.
OWN_NAMES = {
    # modules for a state dict: the kernel's is `conv.weight`, a network's are those of the original code
    "torch": {"ChannelKernel", "ECAResNet", "ECAMobileNetV2"},
    # the setting that stands for a channel axis in Keras
    "keras": {"check_data_format"},
    # a type of variable, so that a filter finds the kernels
    "flax/nnx": {"ECAParam"},
}


def defined(source):
    """The public names that a module defines, in order."""
    names = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
    return [name for name in names if not name.startswith("_")]


@pytest.mark.parametrize("file", ["layers.py", "weights.py", "networks.py"])
def test_the_names_of_a_file_and_their_order_are_the_same_in_every_framework(file):
    orders = {}
    for framework in FRAMEWORKS:
        names = defined((PACKAGE / framework / file).read_text(encoding="utf-8"))
        orders[framework] = [name for name in names if name not in OWN_NAMES.get(framework, ())]
    assert len(orders["torch"]) > 0
    assert orders == dict.fromkeys(FRAMEWORKS, orders["torch"])


def test_every_name_of_one_framework_is_there():
    for framework, names in OWN_NAMES.items():
        sources = [path.read_text(encoding="utf-8") for path in (PACKAGE / framework).glob("*.py")]
        assert names <= {name for source in sources for name in defined(source)}


def test_another_order_is_seen():
    source = "import os\nHolder = int\n_STEMS = ()\n\n\ndef to(): ...\n\n\nclass From: ...\n"
    assert defined(source) == ["Holder", "to", "From"]
    assert defined(source) != defined("class From: ...\n\n\ndef to(): ...\n\n\nHolder = int\n")
