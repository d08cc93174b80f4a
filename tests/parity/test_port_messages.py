"""What a porter is told: one cause in one place, names and orders that are wrong as such, inputs that do not fit."""

import dataclasses
import re
from collections import OrderedDict
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from eca_multi.parity import ParityError, SpecError, assert_match, assert_ported, port_weights
from eca_multi.parity.define.structures import leaves, rebuilt
from eca_multi.parity.models.alike import run_of
from eca_multi.parity.models.elsewhere import RaisedThere
from eca_multi.parity.models.torch import TorchModel
from eca_multi.parity.port import compare_models, raise_for_port

RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 4)).astype(np.float32)
IMAGES = RNG.normal(size=(2, 3, 5, 4)).astype(np.float32)


def linear():
    torch.manual_seed(0)
    layer = torch.nn.Linear(4, 3).eval()
    return layer, {"k": jnp.asarray(layer.weight.detach().numpy().T), "b": jnp.asarray(layer.bias.detach().numpy())}


def affine(p, x):
    return x @ p["k"] + p["b"]


def pointwise():
    torch.manual_seed(0)
    net = torch.nn.Conv2d(3, 2, 1, bias=False).eval()
    return net, (lambda p, x: x @ p, jnp.asarray(net.weight.detach().numpy()[:, :, 0, 0].T))


# --- one cause


def test_one_cause_is_said_once_where_it_begins_first():
    layer, held = linear()
    wrong = (lambda p, x: 2 * affine(p, x), held)
    with pytest.raises(ParityError, match="first divergence") as caught:
        assert_ported(layer, wrong, X, map={"k": "weight: o i -> i o", "b": "bias"})
    first, second = str(caught.value).splitlines()
    assert re.match(r"port float32: first divergence: ", first)
    assert re.match(r"port float32 inputs y: EXCEEDS_BUDGET, .* and 3 more tensors of the same cause \(dbias, ", second)


def test_two_causes_are_said_apart_and_one_of_two_dtypes_once():
    layer, held = linear()
    report = compare_models(layer, (lambda p, x: 2 * affine(p, x), held), X, dtypes=("float32", "bfloat16"))
    with pytest.raises(ParityError, match=r"^port float32, bfloat16: first divergence") as caught:
        raise_for_port(report)
    assert len(str(caught.value).splitlines()) == 2
    report.localisations[1] = replace(report.localisations[1], culprit="elsewhere")
    with pytest.raises(ParityError, match=r"^port float32: first(.|\n)*\nport bfloat16: first") as caught:
        raise_for_port(report)
    assert len(str(caught.value).splitlines()) == 4


# --- orders of axes


def test_orders_that_are_wrong_are_named_and_the_model_is_not_blamed():
    net, own = pointwise()
    assert_ported(net, own, IMAGES, layouts="N C H W -> N H W C")  # the control
    assert_ported(net, own, IMAGES, layouts={"x": "N C H W -> N H W C"})  # that of y is found
    wrong = {
        "N C H W -> N C H W": r"must give the orders of axes of the port\. Received: .* agree by x: NCHW -> NHWC",
        "N C L -> N L C": r"layouts must have the axes of an input or output: x of 4, y of 4\. Received: 'N C L",
    }
    for text, message in wrong.items():
        with pytest.raises(SpecError, match=message):
            assert_ported(net, own, IMAGES, layouts=text)
    both = {"x": "N C H W -> N H W C", "y": "N C H W -> N W H C"}
    with pytest.raises(SpecError, match=r"must give y the order .* makes \(2, 2, 5, 4\).* where the port returns"):
        assert_ported(net, own, IMAGES, layouts=both)
    with pytest.raises(SpecError, match=r"must name inputs and outputs: x, y\. Received: 'xy'\. Did you mean 'y'\?"):
        assert_ported(net, own, IMAGES, layouts={"xy": "N C H W -> N H W C"})
    with pytest.raises(TypeError, match=r"layouts must be a text or a dict of texts\. Received: int"):
        assert_ported(net, own, IMAGES, layouts=4)


def test_a_wrong_port_in_right_orders_is_still_blamed():
    net, (function, kernel) = pointwise()
    with pytest.raises(ParityError, match="port float32"):
        assert_ported(net, (function, 2 * kernel), IMAGES, layouts="N C H W -> N H W C")


# --- inputs


def test_images_of_integers_get_the_remedy():
    net, own = pointwise()
    whole = (30 * abs(IMAGES)).astype(np.uint8)
    with pytest.raises(SpecError, match=r"x \(2, 3, 5, 4\) of uint8.*if x holds an image, give it as \.astype"):
        assert_ported(net, own, whole)
    assert_ported(net, own, whole.astype("float32"))
    embedding = torch.nn.Embedding(3, 2)
    with pytest.raises(SpecError, match=r"It raised IndexError: index out of range in self$"):  # no word of images
        assert_ported(embedding, embedding, np.array([7]))


def test_a_wrong_number_of_inputs_is_said_with_what_the_call_takes():
    layer, held = linear()
    with pytest.raises(SpecError, match=r"inputs \(x0 \(5, 4\), x1 \(5, 4\)\)\. .*TypeError.* arguments are \(input\)"):
        assert_ported(layer, (affine, held), (X, X))
    with pytest.raises(SpecError, match=r"the reference .*TypeError.*'y'\. Its arguments are \(input\)"):
        assert_ported(layer, (affine, held), {"y": X})


def test_what_another_process_raised_is_one_line():
    class Far(TorchModel):
        def run(self, *arguments, **options):
            raise RaisedThere("the port", "TypeError", "takes 2 but 3 were given", "Traceback\n  of many\n  lines")

    with pytest.raises(SpecError, match=r"takes 2 but 3 were given\. Its arguments are \(input\)") as caught:
        run_of("the port", Far(torch.nn.ReLU()), (X, X), "float32")
    assert "\n" not in str(caught.value)


# --- weights


def test_port_weights_and_assert_ported_speak_of_a_reference_and_a_port(tmp_path):
    layer, held = linear()
    port, right = (affine, held), {"k": "weight: o i -> i o", "b": "bias"}
    wrong = [
        ({"k": right["k"]}, r"weight map of the port must name every .*Map it to a weight or state of the reference"),
        ({**right, "bb": "bias"}, r"names 'bb', which the port does not have: k, b\. Did you mean 'b'\?"),
        ({**right, "k": "wieght: o i -> i o"}, r"must lead to weight, bias\. .* Did you mean 'weight'\?"),
        ({"weight": "k: i o -> o i", "bias": "b"}, r"names of the port for keys, and texts about the reference"),
    ]
    for entries, message in wrong:
        with pytest.raises(SpecError, match=message):
            port_weights(entries, layer.state_dict(), port)
        with pytest.raises(SpecError, match=message):
            assert_ported(layer, port, X, map=entries)
    with pytest.raises(
        SpecError, match=r"file must be in a folder that exists\. Received: .*none\. Make the folder\.$"
    ):
        port_weights(right, layer.state_dict(), port, tmp_path / "none" / "port.safetensors")
    assert not [*tmp_path.iterdir()]


class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = torch.nn.Embedding(7, 4), torch.nn.Linear(4, 7, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids):
        return self.head(torch.tanh(self.table(ids)))


def test_a_tied_weight_may_be_kept_once_or_twice():
    torch.manual_seed(0)
    tied, ids = Tied().eval(), np.arange(6).reshape(2, 3)
    table = jnp.asarray(tied.table.weight.detach().numpy())
    once = (lambda p, ids: jnp.tanh(p["t"][ids]) @ p["t"].T, {"t": table})
    twice = (lambda p, ids: jnp.tanh(p["t"][ids]) @ p["h"], {"t": table, "h": table.T})
    told = {"t": "table.weight", "h": "table.weight: v e -> e v, tied"}
    assert "dtable.weight" in {cell.tensor for cell in assert_ported(tied, twice, ids, map=told).compared}
    assert_ported(tied, once, ids, map={"t": "table.weight"})  # and not the other name of it, head.weight
    assert_ported(tied, tied, ids, map={"table.weight": "table.weight"})
    np.testing.assert_array_equal(port_weights(told, tied.state_dict(), twice)["h"], table.T)

    def halved(p, ids):
        return jnp.tanh(p["t"][ids]) @ (2 * p["h"])

    with pytest.raises(ParityError, match=r"does not hold the reference's weights: h (.|\n)*dtable\.weight: EXCEEDS"):
        assert_ported(tied, (halved, {"t": table, "h": table.T / 2}), ids, map=told)
    wrong = [
        (
            {**told, "h": "head.weight: v e -> e v"},
            r"'head\.weight' of the reference must be written as 'table",
        ),
        ({**told, "h": "table.weight: v e -> e v"}, r"must use 'table\.weight' once\. Received: 2 times, in t, h\."),
    ]
    for entries, message in wrong:
        with pytest.raises(SpecError, match=message):
            assert_ported(tied, twice, ids, map=entries)
    with pytest.raises(SpecError, match=r"'head\.weight' of the port must be left out of the map\."):
        assert_ported(tied, tied, ids, map={"table.weight": "table.weight", "head.weight": "table.weight: tied"})


# --- what transformers returns: a dict in the order of its fields, and a dataclass


@dataclasses.dataclass
class Output(OrderedDict):
    """A class of the kind of transformers.utils.ModelOutput; None is left out."""

    last: object = None
    pooled: object = None
    states: object = None

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if (value := getattr(self, field.name)) is not None:
                self[field.name] = value


class Encoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inner = torch.nn.Linear(4, 4)

    def forward(self, x, factor=1):
        y = factor * self.inner(x)
        return Output(last=y, states=(x, y))


class Wrapped(Encoder):
    """A model around the encoder, so that the output of a submodule is rebuilt when gradients are recorded."""

    def __init__(self, factor=1):
        super().__init__()
        self.encoder, self.factor = Encoder(), factor

    def forward(self, x):
        out = self.encoder(x, self.factor)
        return Output(last=out.last, pooled=out["last"].tanh().mean(0), states=out.states)


def test_outputs_of_the_kind_of_transformers_are_compared():
    output = Output(last=1, states=(2, 3))
    assert leaves("y", output) == {"last": 1, "states/0": 2, "states/1": 3}
    changed = rebuilt("y", output, {"states/1": 4})
    assert (type(changed), changed.states, changed["states"], changed.pooled) == (Output, (2, 4), (2, 4), None)
    report = assert_ported(Wrapped(), Wrapped(), X)
    assert {cell.tensor for cell in report.compared} == {"last", "pooled", "states/0", "states/1", "dx"}
    with pytest.raises(ParityError, match=r"first divergence: encoder \(Encoder"):
        assert_ported(Wrapped(), Wrapped(1.01), X)


# --- a layer that draws its weights by QR when it is built


def test_a_layer_may_draw_its_weights_by_orthogonal_when_it_is_built():
    def built(x, w):
        layer = torch.nn.Linear(4, 4)
        torch.nn.init.orthogonal_(layer.weight)
        return torch.func.functional_call(layer, w, (x,))

    weights = {"weight": RNG.normal(size=(4, 4)), "bias": RNG.normal(size=4)}
    assert_match({"torch": built}, X, weights)
    with pytest.raises(RuntimeError, match="draws random numbers in the call"):  # the control: no initialisation
        assert_match({"torch": lambda x, w: x + torch.empty(4).normal_()}, X, weights)


# --- what tells nothing, and what is left out


def test_a_reference_without_a_finite_value_is_no_agreement():
    layer, held = linear()
    nowhere = np.where(np.arange(4) == 2, np.nan, X).astype(np.float32)
    with pytest.raises(SpecError, match=r"must have a finite value in each output.* none in y"):
        assert_ported(layer, (affine, {**held, "b": held["b"] + 100}), nowhere)


def test_values_that_are_not_finite_are_counted():
    layer, held = linear()
    here = X.copy()
    here[0, 2] = np.nan
    with pytest.warns(UserWarning, match="3 of 15 values of y.* they tell nothing of the port"):
        assert_ported(layer, (affine, held), here)
    with pytest.raises(ParityError, match="first divergence"):
        assert_ported(layer, (affine, {**held, "b": held["b"] + 100}), here)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"map": "weight"}, "map must be a dict.* Received: 'weight'"),
        ({"dtypes": "float16"}, "dtypes must be a tuple of one at least. Received: 'float16'"),
        ({"map": {"k": "weight: o i -> i o", "b": None}}, "none to 'bias'. If the port lacks it, compare without map="),
    ],
)
def test_options_that_do_not_fit(options, message):
    layer, held = linear()
    with pytest.raises(SpecError, match=message):
        assert_ported(layer, (affine, held), X, **options)


def test_a_checkpoint_with_the_state_inside():
    layer, held = linear()
    with pytest.raises(SpecError, match=r"Received: a dict under 'state_dict'. Give state\['state_dict'\]"):
        port_weights({"k": "weight: o i -> i o", "b": "bias"}, {"state_dict": layer.state_dict()}, (affine, held))


class Padded(torch.nn.Module):
    """The convolution pads in the reference; in the port a layer before it does: there its input is larger."""

    def __init__(self, apart, act):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 4, 1)
        self.act = act
        self.pad = torch.nn.ZeroPad2d(1) if apart else None
        self.conv = torch.nn.Conv2d(4, 4, 3, padding=0 if apart else 1)

    def forward(self, x):
        x = self.act(self.stem(x))
        return self.conv(x if self.pad is None else self.pad(x))


def test_what_cannot_be_run_alone_is_not_blamed_alone():
    ours, theirs = Padded(False, torch.tanh).eval(), Padded(True, torch.sigmoid).eval()
    theirs.load_state_dict(ours.state_dict())
    with pytest.raises(ParityError, match=r"conv .*, or the code before it and after stem: .*It cannot be run alone"):
        assert_ported(ours, theirs, IMAGES)
