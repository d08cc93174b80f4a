"""Bad input to surgery that needs a network of its own: one clear line, and nothing changed, in every framework."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

from eca_multi.surgery.errors import PlanMismatchError, UnsupportedModelError, VerifyError
from eca_multi.surgery.plan import ECAPlan
from tests.support.bad_nets import failing, half_abstract, with_nan
from tests.support.looking import look
from tests.support.surgery_twins import TWINS


def over(*names):
    """Run a test on these frameworks, with the name in the test's id."""
    keras = [pytest.mark.keras, pytest.mark.slow_on("jax")]
    twins = [pytest.param(t, id=t.name, marks=keras * (t.name == "keras")) for t in TWINS if t.name in names]
    return pytest.mark.parametrize("twin", twins)


each = over("torch", "keras", "linen", "nnx")


def refused(twin, net, error, pattern, verbs=("insert_eca",), **options):
    """Check that the call raises one line with this text and leaves model, hooks, flags, state and process alone."""
    before = look(twin.name, net)
    given = {"example_inputs": twin.x()} | options
    where = () if "plan" in given else (["conv"],)
    for verb in verbs:
        with pytest.raises(error, match=pattern) as caught:
            getattr(twin.package, verb)(*twin.arguments(net), *where, **given)
        assert "\n" not in str(caught.value)
        assert look(twin.name, net) == before


BOTH = ("plan_eca", "insert_eca")


@each
def test_the_look_shows_an_insertion(twin):
    """The control of `refused`: where the insertion changes the model itself, the look is another."""
    net = twin.net()
    before = look(twin.name, net)
    new = twin.insert(net)
    after = look(twin.name, new)
    assert (after["modules"], after["numbers"]) != (before["modules"], before["numbers"])
    assert (look(twin.name, net) == before) is (twin.name in ("keras", "linen"))


@each
def test_a_network_with_nan_is_not_verified(twin):
    net = with_nan(twin, twin.net())
    refused(twin, net, VerifyError, r"must return numbers on example_inputs.*Received: NaN .*or pass verify=False")
    assert twin.package.installed_eca(twin.arguments(twin.insert(net))[0]).paths == ("conv",)  # without verifying


@each
def test_a_network_that_raises(twin):
    verbs = ("insert_eca",) if twin.name == "keras" else BOTH  # a plan of a Keras graph runs nothing
    refused(twin, failing(twin, True), UnsupportedModelError, r"must run on example_inputs.*KeyError: .*mine", verbs)


@each
def test_a_network_that_raises_with_eca(twin):
    # Keras's raises in its second run: the probe of causality would be that.
    options = {"keep_causality": False} if twin.name == "keras" else {}
    text = r"The network with ECA must run\. Received: KeyError: .*mine"
    refused(twin, failing(twin, False), VerifyError, text, **options)


@each
def test_inputs_of_other_channels(twin):
    x = twin.x()[:, :2] if twin.name == "torch" else twin.x()[..., :2]
    error = PlanMismatchError if twin.name == "linen" else UnsupportedModelError
    refused(
        twin, twin.net(), error, r"must (run on example_inputs|be those of the module)\b.*Received: ", example_inputs=x
    )


@each
def test_inputs_that_are_a_generator(twin):
    pattern = r"example_inputs must be an input, a tuple or a dict of inputs. Received: generator. Take one batch"
    refused(twin, twin.net(), TypeError, pattern, BOTH, example_inputs=(x for x in [twin.x()]))


@over("torch", "linen", "nnx")  # Keras builds a model as a whole
def test_a_network_half_without_values(twin):
    pattern = r"must hold .*Received: 2 of 5 (on the meta device|as shapes), .*stem.(bias|weight) the first.* [Ll]oad"
    refused(twin, half_abstract(twin), UnsupportedModelError, pattern, BOTH)


@each
def test_a_plan_that_names_a_site_twice(twin):
    plan = twin.plan(twin.net())
    refused(
        twin,
        twin.net(),
        PlanMismatchError,
        "conv: stands in the plan twice",
        plan=replace(plan, entries=plan.entries * 2),
    )


@each
def test_a_plan_of_another_framework(twin):
    other = TWINS[TWINS.index(twin) - 1]
    plan = other.plan(other.net())
    pattern = f"plan must be for {twin.name}. Received: a plan for {other.name}. Plan this model anew"
    refused(twin, twin.net(), PlanMismatchError, pattern, plan=plan)


@each
@pytest.mark.parametrize("option", ["where", "include", "exclude"])
def test_a_callable_of_one_argument(twin, option):
    call = {"where": "conv", "example_inputs": twin.x(), option: lambda path: True}
    for verb in BOTH:
        with pytest.raises(
            TypeError, match=rf"{option} must be a callable of a path and a module. Received: {option}="
        ):
            getattr(twin.package, verb)(*twin.arguments(twin.net()), **call)
    call[option] = lambda path, module: (path == "stem") is (option == "exclude")  # the control
    twin.package.plan_eca(*twin.arguments(twin.net()), **call)


@each
def test_a_flag_that_is_no_bool(twin):
    own = {"torch": ["inplace"], "nnx": ["inplace"], "keras": ["keep_class"], "linen": []}[twin.name]
    for option in ("verify", *own):
        pattern = rf"{option} must be True or False\. Received: {option}='yes'"
        refused(twin, twin.net(), TypeError, pattern, **{option: "yes"})


@each
def test_a_state_that_is_no_state(twin):
    net = twin.insert(twin.net())
    before = look(twin.name, net)
    for wrong in (3, None, [1]):
        with pytest.raises(TypeError, match=r"(state|variables) must be .*Received: (int|NoneType|list)\."):
            twin.load_base_state(net, wrong)
    assert look(twin.name, net) == before


@over("torch", "nnx")  # elsewhere insertion makes a new model and leaves alone what the old one shares
def test_a_block_in_two_wrappers(twin):
    """A gate goes in once, whichever wrapper asks; either takes it out, and nothing of it is left."""
    net = twin.net()
    wrap, more = (nn.Sequential, nn.ReLU()) if twin.name == "torch" else (nnx.Sequential, nnx.relu)
    before, path = look(twin.name, net), "0.conv" if twin.name == "torch" else "layers.0.conv"
    one, other = wrap(net), wrap(net, more)
    for model in (one, other):
        twin.package.insert_eca(model, [path], example_inputs=twin.x())
        assert twin.package.installed_eca(model).paths == (path,)
        assert len(twin.package.installed_eca(other).entries) == 1
    twin.package.remove_eca(other)
    assert look(twin.name, net)["numbers"] == before["numbers"]
    assert not twin.package.installed_eca(one).entries


# --- torch alone ------------------------------------------------------------------------------------------------------


def torch_net():
    return TWINS[0].net()


def rounds_differently(graph, inputs):
    """A backend of torch.compile: as a compiler that fuses, it rounds another program differently."""
    factor = 1 + 1e-4 * len(graph.graph.nodes)
    return lambda *args: tuple(y * factor for y in graph(*args))


@pytest.mark.slow
@pytest.mark.parametrize("inside", [True, False], ids=["inside", "in place"])
def test_what_is_compiled_is_verified_operation_by_operation(inside):
    """Compiled code fuses, and so rounds, differently beside an ECA."""
    eca, x, net = TWINS[0].package, TWINS[0].x(), torch_net().eval()
    model = nn.Sequential(torch.compile(net, backend=rounds_differently)) if inside else net
    if not inside:
        net.compile(backend=rounds_differently)
    with torch.no_grad():
        before = model(x)
        eca.insert_eca(
            model, lambda path, module: path.endswith("conv") and not path.endswith("own.conv"), example_inputs=x
        )
        after = model(x)
        assert 0 < (after / before - 1).abs().max() < 0.01  # the control: compiled, the outputs differ
        for kernel in eca.eca_parameters(model):
            kernel.fill_(3)
        assert (model(x) / after - 1).abs().max() > 0.01  # the compiled program has the gate


def test_a_network_on_meta_takes_inputs_on_meta_alone():
    net, eca = torch_net().to("meta"), TWINS[0].package
    refused(TWINS[0], net, UnsupportedModelError, r"Received: 5 of 5 on the meta device.*leave example_inputs out")
    eca.insert_eca(net, ["conv"], example_inputs=TWINS[0].x().to("meta"))
    assert next(iter(eca.eca_parameters(net))).is_meta


# --- plans of other versions ------------------------------------------------------------------------------------------


def test_a_saved_plan_of_another_version_that_cannot_be_read():
    data = json.loads(TWINS[0].plan(torch_net()).to_json())
    with pytest.raises(ValueError, match=r"'hue', written by eca_multi 9\.9\. Use that version, or plan anew"):
        ECAPlan.from_json(json.dumps({**data, "package": "9.9", "hue": 1}))
    with pytest.raises(ValueError, match=r"'hue'\. Make it with ECAPlan\.save"):
        ECAPlan.from_json(json.dumps({**data, "hue": 1}))
    with pytest.raises(ValueError, match=r"Received: no entries"):
        ECAPlan.from_json(json.dumps({name: value for name, value in data.items() if name != "entries"}))
    assert ECAPlan.from_json(json.dumps({**data, "package": "9.9"})).paths == ("conv",)  # the control


def test_the_nets_run():
    """The control of the rows above: the plain networks return numbers."""
    with torch.no_grad():
        assert np.isfinite(torch_net()(TWINS[0].x()).numpy()).all()
