"""Empty batches, in every framework: functions, layers, gradients, transforms, networks."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
import torch

from eca_multi.parity.define.dtypes import DTYPES
from eca_multi.parity.define.tensor import Tensor
from eca_multi.parity.judge.compare import Verdict, judge
from tests.support.oracle import case_job, judged
from tests.support.oracle import run as run_job

GRADIENTS = ("dx", "dw", "dx@ones", "dw@ones")


@pytest.mark.only("torch", "keras", "jax")
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gradients_of_an_empty_batch(framework, dtype):
    job = case_job("empty-batch", dtype)
    outputs = run_job(framework.kind, job)
    for name, (values, allowed) in judged(job, ("y", *GRADIENTS)).items():
        assert outputs[name].values.shape == values.shape
        assert judge(outputs[name], values, allowed, dtype).verdict is Verdict.BITWISE
    assert (outputs["dw"].values == 0).all()
    wrong = Tensor(outputs["dw"].values + 1, dtype)  # the control: its budget is next to nothing
    assert judge(wrong, *judged(job)["dw"], dtype).verdict is Verdict.EXCEEDS_BUDGET


@pytest.mark.only("torch", "keras", "jax")
@pytest.mark.parametrize(
    "options", [{}, {"padding": "circular"}, {"gate": "hard_sigmoid"}, {"per channel": True}], ids=str
)
@pytest.mark.parametrize("mask", [False, True], ids=["", "masked"])
def test_the_gates_of_an_empty_batch(framework, options, mask):
    options = dict(options)
    weight = np.ones((1 if not options.pop("per channel", False) else 6, 1, 3), np.float32)
    weight = weight if framework.kind == "torch" else np.moveaxis(weight, 0, -1).swapaxes(0, 1)
    x, masks = np.ones((0, 6, 5, 4), np.float32), np.ones((0, 5, 4), bool)
    options |= {"channel_axis": 1, "return_gate": True, "mask": framework.tensor(masks) if mask else None}
    y, g = framework.package.eca(framework.tensor(x), framework.tensor(weight), **options)
    assert (tuple(y.shape), tuple(g.shape)) == ((0, 6, 5, 4), (0, 6))


def empty_in_torch():
    from eca_multi.torch import ECA, eca

    x, w, mask = torch.zeros(0, 6, 5, 4), torch.ones(1, 1, 3), torch.zeros(0, 5, 4, dtype=torch.bool)
    yield torch.func.vmap(lambda x: eca(x, w))(x[None].expand(3, *x.shape)), (3, 0, 6, 5, 4)
    yield torch.func.vmap(lambda x: eca(x, w))(torch.zeros(0, 2, 6, 5, 4)), (0, 2, 6, 5, 4)
    yield torch.func.grad(lambda w: eca(x, w, mask=mask).sum())(w), (1, 1, 3)
    yield torch.compile(eca, backend="aot_eager", fullgraph=True)(x, w, mask=mask), x.shape
    yield torch.jit.script(ECA(6))(x), x.shape


def empty_in_jax():
    from eca_multi.jax import eca

    x, w, mask = jnp.zeros((0, 5, 4, 6)), jnp.ones(3), jnp.zeros((0, 5, 4), bool)
    yield jax.vmap(lambda x: eca(x, w))(jnp.zeros((3, *x.shape))), (3, *x.shape)
    yield jax.vmap(lambda x: eca(x, w))(jnp.zeros((0, 2, 5, 4, 6))), (0, 2, 5, 4, 6)
    yield jax.jit(jax.grad(lambda w: eca(x, w, mask=mask).sum()))(w), (3,)


@pytest.mark.parametrize("route", [empty_in_torch, empty_in_jax])
def test_an_empty_batch_under_transforms(route):
    for result, shape in route():
        assert tuple(result.shape) == tuple(shape)


@pytest.mark.keras
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's graphs")
@pytest.mark.parametrize("masked", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_graph_of_tensorflow_takes_an_empty_batch(masked):
    """It ended the process: TensorFlow's graph optimiser divides by a size of 0 in the gradient of a reshape."""
    import tensorflow as tf

    from eca_multi.keras import eca

    @tf.function
    def gradient(x, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            y = eca(x, w, mask=tf.zeros((0, 5, 4), "bool") if masked else None)
        return tape.gradient(y, w)

    assert (gradient(tf.zeros((0, 5, 4, 6)), tf.ones((3, 1, 1))).numpy() == 0).all()


@pytest.mark.keras
def test_a_model_of_keras_takes_an_empty_batch_where_its_convolution_does():
    from eca_multi.keras import ECA

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # It returns its input's shape. Should TensorFlow learn it, docs/frameworks.md is to say so.
        assert tf.nn.convolution(tf.zeros((0, 9, 9, 3)), tf.zeros((3, 3, 3, 8))).shape == (0, 9, 9, 3)
    convolution = keras.layers.Dense(8) if keras.backend.backend() == "tensorflow" else keras.layers.Conv2D(8, 3)
    model = keras.Sequential([keras.Input((9, 9, 3)), convolution, ECA(), keras.layers.GlobalAveragePooling2D()])
    assert tuple(model(np.zeros((0, 9, 9, 3), np.float32)).shape) == (0, 8)


def network_of_torch():
    from eca_multi.torch import eca_resnet18

    with torch.no_grad():
        return eca_resnet18().eval()(torch.zeros(0, 3, 32, 32))


def network_of_nnx():
    from flax import nnx

    from eca_multi.flax.nnx import eca_resnet18

    return nnx.eval_shape(lambda x: eca_resnet18(rngs=nnx.Rngs(0))(x), jnp.zeros((0, 32, 32, 3)))


def network_of_linen():
    from eca_multi.flax.linen import eca_resnet18

    return jax.eval_shape(eca_resnet18().init_with_output, jax.random.key(0), jnp.zeros((0, 32, 32, 3)))[0]


@pytest.mark.parametrize("network", [network_of_torch, network_of_nnx, network_of_linen])
def test_a_network_takes_an_empty_batch(network):
    assert network().shape == (0, 1000)


def test_a_network_into_which_eca_was_inserted_takes_an_empty_batch():
    from eca_multi.torch import insert_eca

    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3)).eval()
    insert_eca(model, "conv", gate="sigmoid", init="uniform")
    y = model(torch.zeros(0, 3, 12, 12))
    y.sum().backward()
    assert y.shape == (0, 8, 8, 8)
    assert all((p.grad == 0).all() for p in model.parameters())
