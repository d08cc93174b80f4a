"""Proposed maps: right ones for the example networks, runs decide what shapes cannot, and doubts are said."""

from importlib import import_module

import numpy as np
import pytest

from eca_multi.parity import SpecError, propose_map
from eca_multi.parity.define.maps import WeightMap
from eca_multi.parity.models import model_of
from eca_multi.parity.proposals.names import weight
from eca_multi.parity.proposals.patterns import compact
from eca_multi.parity.proposals.ways import ways

torch = pytest.importorskip("torch")
nnx = pytest.importorskip("flax.nnx")


def native(entries, reference, port):
    """The port's weights by a map."""
    ours, theirs = model_of(reference), model_of(port)
    arrays = {name: array for name, array in ours.weights().items() if array.dtype.kind == "f"}
    held = theirs.weights()
    left = {name: None for name, array in held.items() if array.dtype.kind != "f"}
    shapes = [{name: array.shape for name, array in group.items()} for group in (arrays, held)]
    return WeightMap.of({**left, **entries}, *shapes, "the port").to_native(arrays)


@pytest.mark.parametrize(
    "name", ["tagger", "unet", *(pytest.param(n, marks=pytest.mark.slow) for n in ("vit", "encoder", "resnet18"))]
)
def test_the_map_of_a_network_is_proposed_from_names_shapes_and_order(name):
    network = import_module(f"examples.ports.{name}")
    reference, port = network.torch_model(), network.nnx_model()
    proposal = propose_map(reference, port)
    right = native(network.MAPS["nnx"], reference, port)
    for entries in (proposal, proposal.patterns):
        mine = native(entries, reference, port)
        wrong = [path for path in right if not np.array_equal(right[path], mine[path])]
        assert not wrong
    assert proposal.confirmed is None
    assert len(proposal.patterns) < 20
    assert "nothing" not in str(proposal)


class Square(nnx.Module):
    """Two square layers of equal shapes; by `turned` the first multiplies from the other side."""

    def __init__(self, turned=False, second=True):
        self.turned = turned
        self.one = nnx.Linear(6, 6, rngs=nnx.Rngs(0))
        self.two = nnx.Linear(6, 6, rngs=nnx.Rngs(1)) if second else None

    def __call__(self, x):
        x = x @ self.one.kernel.T + self.one.bias if self.turned else self.one(x)
        return self.two(nnx.tanh(x))


def pair_of_squares():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Tanh(), torch.nn.Linear(6, 6))


X = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)


@pytest.mark.parametrize(("turned", "first"), [(False, "0.weight: o i -> i o"), (True, "0.weight")])
def test_marked_weights_decide_what_the_shapes_of_squares_do_not(turned, first):
    proposal = propose_map(pair_of_squares(), Square(turned), X)
    assert proposal.confirmed
    assert proposal.open == ()
    assert proposal["one.kernel"] == first
    assert proposal["two.kernel"] == "2.weight: o i -> i o"


def test_marked_weights_decide_which_of_two_equal_layers_is_which():
    class Backwards(nnx.Module):
        def __init__(self):
            self.first = nnx.Linear(6, 6, rngs=nnx.Rngs(0))
            self.then = nnx.Linear(6, 6, rngs=nnx.Rngs(1))

        def __call__(self, x):
            return self.first(nnx.tanh(self.then(x)))

    assert propose_map(pair_of_squares(), Backwards())["first.bias"] == "0.bias"  # by the order alone, and wrong
    proposal = propose_map(pair_of_squares(), Backwards(), X)
    assert proposal.confirmed
    assert proposal["first.kernel"] == "2.weight: o i -> i o"
    assert (proposal["first.bias"], proposal["then.bias"]) == ("2.bias", "0.bias")


def test_without_a_run_doubts_are_said():
    proposal = propose_map(pair_of_squares(), Square(turned=True))
    assert proposal.confirmed is None
    assert any(line.startswith("one.kernel: 2 orders of axes fit") for line in proposal.open)
    assert "# Open: one.kernel: 2 orders" in str(proposal)
    assert any("names do not tell them apart; taken in the order of the models" in line for line in proposal.open)


def test_a_port_that_computes_something_else_is_not_confirmed():
    reference = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.ReLU(), torch.nn.Linear(6, 6))
    proposal = propose_map(reference, Square(), X)
    assert proposal.confirmed is False
    assert any("no text gives the same outputs" in line for line in proposal.open)
    assert "do not return the same by this map" in str(proposal)


def test_what_makes_no_difference_stays_open():
    """A kernel that no output depends on cannot be decided by a run."""

    class Idle(torch.nn.Sequential):
        def forward(self, x):
            return self[2](self[1](self[0](x)))

    reference = Idle(*pair_of_squares())
    reference.register_module("idle", torch.nn.Linear(6, 6, bias=False))
    port = Square()
    port.idle = nnx.Linear(6, 6, use_bias=False, rngs=nnx.Rngs(2))
    proposal = propose_map(reference, port, X)
    assert any(line.startswith("idle.kernel: 2 texts give the same outputs") for line in proposal.open)


def test_what_fits_nothing_is_said():
    reference = pair_of_squares()
    reference.register_parameter("extra", torch.nn.Parameter(torch.zeros(7)))
    proposal = propose_map(reference, Square())
    assert "nothing of the port fits extra (7,) of the reference" in proposal.open


def test_models_without_common_shapes_are_refused():
    reference = torch.nn.Linear(3, 5, bias=False)
    port = (lambda p, x: x @ p["w"], {"w": np.ones((4, 4), np.float32)})
    with pytest.raises(
        SpecError, match=r"weights of common shapes\. Received: weight \(5, 3\) in .* w \(4, 4\) in the port"
    ):
        propose_map(reference, port)


# --- names, ways, patterns -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kind", "words", "numbers"),
    [
        ("layer1.0.bn1.running_mean", "mean", ("block", "norm"), (1, 0, 1)),
        ("batch_stats/BatchNorm_0/var", "variance", ("norm", "norm"), (0,)),
        ("conv2d_3/kernel", "weight", ("conv",), (3,)),
        ("lstm.weight_hh_l0", "weight", ("lstm", "recurrent"), (0,)),
        ("cell.if_.kernel", "weight", ("cell", "entering", "f"), ()),
    ],
)
def test_what_a_name_says(path, kind, words, numbers):
    read = weight(path, ())
    assert (read.kind, read.numbers) == (kind, numbers)
    assert set(read.words) == set(words)


@pytest.mark.parametrize(
    ("source", "target", "turned", "first"),
    [
        ((8, 8, 3, 3), (3, 3, 8, 8), "from", "o i h w -> h w i o"),
        ((3, 3, 8, 8), (8, 8, 3, 3), "to", "h w i o -> o i h w"),
        ((8, 1, 3, 3), (3, 3, 8, 1), "from", "o 1 h w -> h w o 1"),
        ((8, 8), (4, 2, 8), "from", "o (i1 i2) -> i1 i2 o"),
        ((10, 8), (10, 8), "", ""),
        ((64, 3, 8, 8), (8, 8, 3, 64), "from", "o i h w -> h w i o"),
    ],
)
def test_the_usual_way_comes_first(source, target, turned, first):
    assert ways(source, target, turned)[0].text == first


def test_shapes_that_do_not_fit_have_no_way():
    assert ways((3, 4), (5, 4)) == ()
    assert ways((2, 6), (3, 4)) == ()


def test_a_pattern_names_exactly_what_it_stands_for():
    entries = {f"b{i}.w{j}": f"block.{i + 1}.{j}" for i in range(3) for j in (1, 2)}
    assert compact(entries) == {"b{i}.w{j}": "block.{i+1}.{j}"}
    uneven = {**entries, "b0.w3": "other"}
    assert compact(uneven) == {"b{i}.w1": "block.{i+1}.1", "b{i}.w2": "block.{i+1}.2", "b0.w3": "other"}
