"""`assert_ported`: two models that exist, each with its weights; what differs is named by its path in the reference."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn
from flax import nnx

from eca_multi.parity import ParityError, SpecError, Verdict, assert_match, assert_ported
from eca_multi.parity.port import compare_sources
from tests.support.ports import INPUTS, MAP, NnxNet, port, reference

pytest_plugins = ["pytester"]
X = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)


def fails(*arguments, says="port float32", **options) -> str:
    with pytest.raises(ParityError, match=says) as caught:
        assert_ported(*arguments, **options)
    return str(caught.value)


def linear() -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(4, 3).eval()


def twin(layer: torch.nn.Linear) -> dict[str, jnp.ndarray]:
    return {"kernel": jnp.asarray(layer.weight.detach().numpy().T), "bias": jnp.asarray(layer.bias.detach().numpy())}


# --- what is right passes


def test_a_right_port_agrees_in_outputs_and_in_gradients_of_inputs_and_weights():
    report = assert_ported(reference(), port(), INPUTS, map=MAP)
    compared = {cell.tensor for cell in report.compared}
    assert {"logits", "features", "dx", "dconv2.weight", "dbn1.bias", "dfc.bias"} <= compared
    assert report.exit_code == 0
    assert report.spec["layout"] == "x: NCHW -> NHWC, features: NCHW -> NHWC"
    assert "port" in str(report)
    assert "within budget" in str(report)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_agrees_too(dtype):
    layer = linear()
    assert_ported(layer, (lambda p, x: x @ p["kernel"] + p["bias"], twin(layer)), X, dtypes=[dtype])


@pytest.mark.slow
def test_rounding_of_the_framework_is_told_from_a_fault_of_the_port():
    torch.manual_seed(0)
    layer = torch.nn.Linear(4, 3).eval()
    many = np.random.default_rng(3).normal(size=(20000, 4)).astype(np.float32)
    names = {"kernel": "weight: o i -> i o", "bias": "bias"}
    report = assert_ported(
        layer, (lambda p, x: x @ p["kernel"] + p["bias"], twin(layer)), many, map=names, dtypes=["bfloat16"]
    )
    rounding = [cell for cell in report.cells if cell.verdict is Verdict.ROUNDING]
    assert [cell.tensor for cell in rounding] == ["dbias"]
    assert "known: JAX's bias gradient in bfloat16" in rounding[0].blame

    def doubled(p, x):
        bias = p["bias"] * 2  # its gradient is doubled too, in every dtype
        return x @ p["kernel"] + bias - jax.lax.stop_gradient(p["bias"])

    assert "dbias" in fails(layer, (doubled, twin(layer)), many, map=names, dtypes=["bfloat16"], says="port bfloat16")


@pytest.mark.parametrize("kind", ["jax", "torch", "numpy", "linen", "nnx"])
def test_every_kind_of_model_is_compared(kind):
    layer = linear()
    held = twin(layer)
    module = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    module.kernel[...], module.bias[...] = held["kernel"], held["bias"]

    def affine(p, x):
        return x @ p["kernel"] + p["bias"]

    ports = {
        "jax": (affine, held),
        "torch": (affine, {name: torch.tensor(np.array(array)) for name, array in held.items()}),
        "numpy": (affine, {name: np.array(array) for name, array in held.items()}),
        "linen": (nn.Dense(3), {"params": held}),
        "nnx": module,
    }
    report = assert_ported(layer, ports[kind], X)
    assert {cell.tensor for cell in report.compared} == ({"y"} if kind == "numpy" else {"y", "dx"})


def test_inputs_and_outputs_may_be_nested():
    layer = linear()

    class Pair(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, batch, scale):
            y = self.layer(batch["a"]) * scale
            return {"y": y, "rest": (y + 1, [batch["b"]])}

    def own(p, batch, scale):
        y = (batch["a"] @ p["kernel"] + p["bias"]) * scale
        return {"y": y, "rest": (y + 1, [batch["b"]])}

    inputs = ({"a": X, "b": np.arange(4)}, np.float32([2.0]))
    report = assert_ported(Pair(), (own, twin(layer)), inputs)
    assert {cell.tensor for cell in report.compared} == {"y", "rest/0", "rest/1/0", "dx0/a", "dx1"}
    fails(Pair(), (lambda p, batch, scale: own(p, batch, 1.01 * scale), twin(layer)), inputs)


def test_layouts_can_be_given_and_wrong_ones_are_refused():
    net = torch.nn.Conv2d(2, 2, 1, bias=False).eval()
    kernel = {"k": jnp.asarray(net.weight.detach().numpy()[:, :, 0, 0].T)}
    square = np.random.default_rng(2).normal(size=(2, 2, 2, 2)).astype(np.float32)
    own = (lambda p, x: x @ p["k"], kernel)
    report = assert_ported(net, own, square, layouts="N C H W -> N H W C")
    assert report.spec["layout"] == assert_ported(net, own, square).spec["layout"]
    for layouts, text in (("N C H W -> N H W", "permutation"), ({"z": "A B -> B A"}, "z"), ({"x": "A B -> B A"}, "4")):
        with pytest.raises(SpecError, match=rf"layouts.*{text}"):
            assert_ported(net, own, square, layouts=layouts)


# --- what is wrong is named


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"fault": "eps"}, r"first divergence: bn1 \(BatchNorm2d; in the port norm, BatchNorm\).*eps is 0.001"),
        ({"flip": True}, r"first divergence: conv2 \(Conv2d; in the port conv, Conv\).*kernel is flipped"),
        ({"fault": "relu"}, r"the whole model.*look after bn1 and before conv2; the port has no twin of relu there"),
        ({"fault": "detached"}, r"backward pass between conv2 \(Conv2d.*and fc \(.*no twin of relu \(call 2\)"),
    ],
    ids=["eps", "flipped", "no relu", "detached"],
)
def test_the_first_submodule_that_goes_wrong_is_named_with_its_cause(wrong, says):
    assert re.search(says, fails(reference(), port(**wrong), INPUTS))


def test_weights_that_were_not_copied_are_named_where_there_is_a_map():
    text = fails(reference(), port(flip=True), INPUTS, map=MAP)
    assert "the port does not hold the reference's weights: conv.kernel (of conv2.weight). Copy them" in text
    assert "more tensors of the same cause (dbn1.bias, " in text


# --- bad input: one clear line each


def training() -> tuple[torch.nn.Module, NnxNet]:
    return reference().train(), port()


def other_dtype() -> tuple[torch.nn.Module, NnxNet]:
    return reference().bfloat16(), port()


def other_device() -> tuple[torch.nn.Module, NnxNet]:
    return reference().to("meta"), port()


def unknown() -> tuple[torch.nn.Module, object]:
    return reference(), object()


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        (training, r"same mode.*the reference in training mode, at bn1 \(BatchNorm2d\)"),
        (other_dtype, r"same dtype.*bfloat16.*float32"),
        (other_device, r"the reference must hold weights. Received: a model on the meta device"),
        (unknown, r"a model must be.*Received: object"),
    ],
)
def test_models_that_cannot_be_compared_are_refused_before_anything_runs(pair, says):
    with pytest.raises(SpecError, match=says):
        assert_ported(*pair(), INPUTS)


@pytest.mark.parametrize(
    ("own", "says"),
    [
        (lambda p, x: x.add_(1) @ p, r"the port must not write into its inputs. Received: another 'x'"),
        (lambda p, x: x @ p.T, r"the port must take the inputs \(x \(5, 4\)\). It raised RuntimeError"),
        (
            lambda p, x: (x @ p, x),
            r"must return the same outputs. Received: y from the reference, y0, y1 from the port",
        ),
    ],
    ids=["writes", "raises", "outputs"],
)
def test_a_port_that_misbehaves_is_told_so(own, says):
    layer = linear()
    layer.bias.data.zero_()
    weight = layer.weight.detach().T.contiguous()
    with pytest.raises(SpecError, match=says):
        assert_ported(layer, (own, weight), X)


def test_a_reference_that_draws_random_numbers_is_refused():
    net = torch.nn.Dropout(0.5).train()
    with pytest.raises(SpecError, match="the reference must compute the same at each call"):
        assert_ported(net, net, X)


# --- assert_match, the command line and the pytest plugin take the same models


def test_assert_match_compares_models_with_their_own_weights():
    layer = linear()
    held = twin(layer)
    own = (lambda p, x: x @ p["kernel"] + p["bias"], held)
    assert_match({"mine": layer, "other": own}, X)
    with pytest.raises(ParityError, match=r"other float32 inputs y: EXCEEDS"):
        assert_match({"mine": layer, "other": (lambda p, x: x @ p["kernel"], held)}, X)
    with pytest.raises(SpecError, match=r"reference must be one of the models: mine, other. Received: 'x'"):
        assert_match({"mine": layer, "other": own}, X, reference="x")


def test_assert_match_takes_nested_inputs_weights_and_outputs():
    def layer(inputs, weights):
        y = inputs["x"]["a"] * weights[0]["w"]
        return {"y": y, "more": (y + inputs["x"]["b"][0],)}

    inputs, weights = {"x": {"a": X, "b": [X + 1]}}, [{"w": X[0]}]
    assert_match({"torch": layer, "jax": layer}, inputs, weights)


@pytest.mark.slow
def test_the_command_line_runs_each_model_in_a_process_of_its_own(tmp_path):
    for name in ("ours", "theirs"):  # the same module name on both sides, which one process could not import
        (tmp_path / name).mkdir()
    (tmp_path / "ours" / "net.py").write_text("import torch\nmodel = torch.nn.Softplus(beta=2)\nprint('hello')\n")
    (tmp_path / "theirs" / "net.py").write_text(
        "import jax, jax.numpy as jnp\ndef make():\n"
        "    return (lambda p, x: jax.nn.softplus(2 * x) * p['half'], {'half': jnp.float32(0.5)})\n"
    )
    np.savez(tmp_path / "inputs.npz", X)
    files = [str(tmp_path / "ours" / "net.py:model"), str(tmp_path / "theirs" / "net.py:make")]
    report = compare_sources(*files, tmp_path / "inputs.npz")
    assert report.exit_code == 0
    wrong = tmp_path / "theirs" / "net.py"
    wrong.write_text(wrong.read_text().replace("0.5", "0.51"))
    assert compare_sources(*files, tmp_path / "inputs.npz").exit_code == 1
    with pytest.raises(SpecError, match=r"net.py has no model or function that makes one 'missing'. It has: model"):
        compare_sources(f"{files[0][:-6]}:missing", files[1], tmp_path / "inputs.npz")
    with pytest.raises(SpecError, match=r"inputs must be an .npz file"):
        compare_sources(*files, tmp_path / "ours" / "net.py")


def test_the_pytest_plugin_has_assert_ported(pytester):
    pytester.makepyfile(
        """
        import numpy as np, torch

        def test_right(assert_ported):
            assert_ported(torch.nn.Softplus(), torch.nn.Softplus(), np.ones((2, 3), np.float32))

        def test_wrong(assert_ported):
            assert_ported(torch.nn.Softplus(), torch.nn.Softplus(beta=2), np.ones((2, 3), np.float32))
        """
    )
    result = pytester.runpytest("--parity-report=reports")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*first divergence: the whole model (Softplus*", "*parity of Softplus (torch) -> *"])
    assert len(list(pytester.path.glob("reports/*.json"))) == 2
