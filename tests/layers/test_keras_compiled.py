"""Keras's quick ways give what its plain operations give: `jit_compile`, and on torch the torch layer's backward pass.

What torch's backward pass computes is tested beside it, in test_torch_fused.py; here is where Keras takes it.
"""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers, ops

from eca_multi.keras import ECA, eca, functional
from eca_multi.parity.budget.safety import SAFETY
from tests.support.oracle import oracle

pytestmark = pytest.mark.keras
BACKEND = keras.backend.backend()
on_torch = pytest.mark.skipif(BACKEND != "torch", reason="eca_multi.torch is for Keras on torch")


# --- jit_compile --------------------------------------------------------------------------------------------------

BATCH, SIZE, CHANNELS, CLASSES, STEPS = 16, 12, 16, 3, 4  # maps that are large enough for torch's own code
TERMS = BATCH * SIZE * SIZE  # of the longest sum: the gradient of a convolution's kernel


def network(jit_compile, **options):
    """A small network, the same weights each time. `options` are for one of its two ECA."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(CHANNELS, 3, padding="same", activation="tanh")(inputs)
    x = ECA(5, **options)(x)
    x = ECA(3, padding="circular", shared=False)(layers.Conv2D(CHANNELS, 3, padding="same")(x))
    model = keras.Model(inputs, layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(x)))
    model.compile(keras.optimizers.SGD(0.3), "mean_squared_error", jit_compile=jit_compile)
    return model


def train(model, weights, rng=None):
    """Train from `weights`; with `rng`, each step first moves them by sqrt(n) roundings, as engines_keras.noise."""
    data = np.random.default_rng(1)
    model.set_weights(weights)
    losses = []
    for _ in range(STEPS):
        for weight in model.trainable_weights if rng else ():
            value = ops.convert_to_numpy(weight).astype(np.float64)
            weight.assign(value * (1 + TERMS**0.5 * 2.0**-24 * rng.choice([-1.0, 1.0], value.shape)))
        x, target = data.normal(1, size=(BATCH, SIZE, SIZE, 3)), data.normal(size=(BATCH, CLASSES))
        model.reset_metrics()
        losses.append(float(model.train_on_batch(x, target)))
    return [np.array(losses), *model.get_weights()]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # dynamo's own
@pytest.mark.slow_on("jax", "torch")  # ten seconds of compiling each operation, half a minute of torch.compile
def test_training_compiled_is_training_not_compiled(rng):
    plain, compiled, wrong = network(False), network(True), network(True, trainable=False)
    assert (plain.jit_compile, compiled.jit_compile) == (False, True)
    weights = plain.get_weights()
    expected, found = train(plain, weights), train(compiled, weights)
    noisy = [train(plain, weights, rng) for _ in range(8)]

    def excess(found):
        """The largest error over its budget, which is one number for the losses and for each weight."""
        spreads = [max(np.abs(run[i] - right).max() for run in noisy) for i, right in enumerate(expected)]
        errors = [np.abs(array - right).max() for array, right in zip(found, expected, strict=True)]
        return max(e / (SAFETY["stochastic"] * spread) for e, spread in zip(errors, spreads, strict=True))

    assert excess(found) <= 1
    assert excess(train(wrong, weights)) > 10


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_so_it_is_on_a_backend_that_compiles_slowly(backend):
    """The tests left out by default run on one backend alone: in processes of their own on the others."""
    name = f"{__file__}::{test_training_compiled_is_training_not_compiled.__name__}"
    command = [sys.executable, "-m", "pytest", "--slow", "-p", "no:cacheprovider", name]
    env = {**os.environ, "KERAS_BACKEND": backend}
    done = subprocess.run(command, timeout=240, text=True, capture_output=True, env=env, check=False)
    assert "1 passed" in done.stdout, done.stdout + done.stderr


# --- torch's own backward pass ------------------------------------------------------------------------------------

LARGE = (4, 16, 17, 32)  # more than eca_multi.torch._fast.choose.SMALL


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
def test_it_is_taken_without_a_gradient_too(rng, monkeypatch):
    taken = []
    monkeypatch.setattr(functional, "fused_eca", lambda x, *options: taken.append(x) or (x, None))
    x, weight = (t.detach() for t in tensors(rng))
    eca(x, weight)
    eca(x[:, :8, :8], weight)
    assert taken == [x]


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
