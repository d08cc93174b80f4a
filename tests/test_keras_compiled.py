"""Keras on each backend's quick path gives what its plain operations give: `jit_compile`, and torch's own backward pass.

What torch's backward pass computes is tested beside it, in test_torch_fused.py; here is where Keras takes it.
"""

import keras
import numpy as np
import pytest
from keras import layers, ops
from oracle import oracle

from eca_multi.keras import ECA, eca, functional
from eca_multi.parity.budget import SAFETY

pytestmark = pytest.mark.keras
BACKEND = keras.backend.backend()
on_torch = pytest.mark.skipif(BACKEND != "torch", reason="eca_multi.torch is for Keras on torch")


# --- jit_compile --------------------------------------------------------------------------------------------------

BATCH, SIZE, CHANNELS, CLASSES, STEPS = 16, 12, 16, 3, 4  # maps that are large enough for torch's own code
TERMS = BATCH * SIZE * SIZE  # of the longest sum: the gradient of a convolution's kernel


def network(jit_compile, attention=ECA):
    """A small network, the same weights each time."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(CHANNELS, 3, padding="same", activation="tanh")(inputs)
    x = attention(5)(x)
    x = ECA(3, padding="circular", shared=False)(layers.Conv2D(CHANNELS, 3, padding="same")(x))
    model = keras.Model(inputs, layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(x)))
    model.compile(keras.optimizers.SGD(0.3), "mean_squared_error", jit_compile=jit_compile)
    return model


def losses(model, weights, rng=None):
    """Train from `weights`; with `rng`, each step starts by moving them by sqrt(n) roundings, as engines_keras.noise."""
    data = np.random.default_rng(1)
    model.set_weights(weights)
    found = []
    for _ in range(STEPS):
        for weight in model.trainable_weights if rng else ():
            value = ops.convert_to_numpy(weight).astype(np.float64)
            weight.assign(value * (1 + TERMS**0.5 * 2.0**-24 * rng.choice([-1.0, 1.0], value.shape)))
        x, target = data.normal(size=(BATCH, SIZE, SIZE, 3)), data.normal(size=(BATCH, CLASSES))
        model.reset_metrics()
        found.append(float(model.train_on_batch(x, target)))
    return np.array(found)


class Detached(ECA):
    """The control: no gradient passes through the gate."""

    def call(self, inputs, mask=None):
        _, gate = eca(ops.stop_gradient(inputs), ops.stop_gradient(self.kernel.value), return_gate=True)
        return inputs * gate[:, None, None, :]


@pytest.mark.slow_on("torch")  # half a minute of torch.compile
def test_training_compiled_is_training_not_compiled(rng):
    plain, compiled, wrong = network(False), network(True), network(True, Detached)
    assert (plain.jit_compile, compiled.jit_compile) == (False, True)
    weights = plain.get_weights()
    expected = losses(plain, weights)
    spread = max(np.abs(losses(plain, weights, rng) - expected).max() for _ in range(8))
    allowed = SAFETY["stochastic"] * spread
    assert 0 < allowed < 1e-4 * expected.max()
    assert np.abs(losses(compiled, weights) - expected).max() <= allowed
    assert np.abs(losses(wrong, weights) - expected).max() > 10 * allowed


# --- torch's own backward pass ------------------------------------------------------------------------------------

LARGE = (4, 16, 17, 32)  # more than eca_multi.torch._fused.SMALL


def tensors(rng, shape=LARGE, dtype="float32", kernel=(3, 1, 1)):
    import torch

    x, weight = (torch.from_numpy(rng.normal(size=size)) for size in (shape, kernel))
    return x.to(getattr(torch, dtype)).requires_grad_(), weight.to(torch.float32).requires_grad_()


def is_fused(y):
    return y.grad_fn is not None and y.grad_fn.name() == "FusedECABackward"


@on_torch
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("axis", [1, 2, -1])
def test_torch_backward_is_taken_where_a_large_map_has_a_gradient(dtype, axis, rng):
    x, weight = tensors(rng, dtype=dtype)
    assert is_fused(eca(x, weight.detach()))
    x = x.detach().movedim(-1, axis)
    assert is_fused(eca(x, weight, channel_axis=axis, padding="circular", gate="2sigmoid", return_gate=True)[0])


@on_torch
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_the_layer_takes_it_in_a_model(policy, data_format, rng):
    shape = LARGE if data_format == "channels_last" else (4, 32, 16, 17)
    inputs = keras.Input(shape[1:])
    model = keras.Model(inputs, ECA(dtype=policy, data_format=data_format)(inputs))
    y = model(tensors(rng, shape)[0].detach())
    assert keras.backend.standardize_dtype(y.dtype) == model.layers[1].compute_dtype
    assert is_fused(y)


@on_torch
@pytest.mark.parametrize(
    ("change", "options"),
    [
        pytest.param(lambda x: x[:, :8, :8], {}, id="small"),
        pytest.param(lambda x: x.double(), {}, id="float64"),
        pytest.param(lambda x: x.to("meta"), {}, id="meta"),
        pytest.param(lambda x: x[:, :, ::2], {}, id="strided"),
        pytest.param(lambda x: x, {"gate": ops.tanh}, id="a gate of one's own"),
        pytest.param(lambda x: x, {"mask": np.ones(LARGE[:3], bool)}, id="a mask"),
    ],
)
def test_torch_backward_is_not_taken(change, options, rng):
    x, weight = tensors(rng)
    with keras.device("meta" if change(x).is_meta else "cpu"):
        assert not is_fused(eca(change(x), weight, **options))


@on_torch
def test_symbolic_compiled_and_exported_code_sees_operations(rng):
    import torch

    x, weight = tensors(rng)
    symbolic = keras.KerasTensor((None, 16, 17, 32))
    assert eca(symbolic, weight).shape == keras.ops.shape(symbolic)
    layer = ECA(3)
    layer.build(LARGE)
    graph = torch.export.export(layer, (x.detach(),)).graph
    assert all("autograd" not in str(node.target) for node in graph.nodes)


ARGUMENTS = {
    "zeros": {},
    "circular": {"padding": "circular", "gate": "hard_sigmoid"},
    "per channel": {"shared": False, "gate": "2sigmoid"},
}


def beyond_budget(rng, layer, shape, dtype):
    """Which of y, dx and dw are off by more than the parity run allows."""
    import torch

    layer.build(shape)
    axis = layer.channel_axis
    x, dy = (torch.from_numpy(rng.normal(size=shape)).to(getattr(torch, dtype)) for _ in range(2))
    x.requires_grad_()
    y = layer(x)
    assert is_fused(y)
    y.backward(dy)
    kernel, dw = (t.detach()[:, 0].T.double().numpy() for t in (layer.kernel.value, layer.kernel.value.grad))
    if layer.shared:
        kernel, dw = kernel[0], dw[0]
    found = {name: t.detach().double().movedim(axis, 1).numpy() for name, t in {"y": y, "dx": x.grad}.items()}
    arrays = {"x": x, "cotangent": dy}
    arrays = {name: t.detach().double().movedim(axis, 1).numpy() for name, t in arrays.items()} | {"weight": kernel}
    expected = oracle(arrays, {"padding": layer.padding, "gate": layer.gate}, dtype)
    errors = {name: np.abs(array - expected[name][0]) for name, array in {**found, "dw": dw}.items()}
    return {name for name, error in errors.items() if not (error <= expected[name][1]).all()}


@on_torch
@pytest.mark.parametrize("options", ARGUMENTS.values(), ids=ARGUMENTS)
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("shape", [LARGE, (3, 300, 70)], ids=["2-D", "1-D"])
def test_torch_backward_is_within_the_error_budget(options, policy, shape, rng):
    assert beyond_budget(rng, ECA(5, dtype=policy, **options), shape, policy.removeprefix("mixed_")) == set()
    first = ECA(5, dtype=policy, data_format="channels_first", **options)
    assert beyond_budget(rng, first, (*shape[:1], shape[-1], *shape[1:-1]), policy.removeprefix("mixed_")) == set()


@on_torch
def test_the_budget_refuses_a_kernel_in_the_wrong_order(rng, monkeypatch):
    """The control: the taps the other way round."""
    fused = functional.fused_eca
    monkeypatch.setattr(functional, "fused_eca", lambda x, w, *options: fused(x, w.flip(0), *options))
    assert beyond_budget(rng, ECA(5), LARGE, "float32") == {"y", "dx", "dw"}
