"""Public reports of ports that did not match, each with the answer that its author needed.

The code is our own; the sizes are those of the reports, as far as this machine allows. Each report that was rounding
must be green, with a control beside it that is not; each report of a fault must be red and name the fault.
"""

from typing import Any

import jax.numpy as jnp
import keras
import numpy as np
import pytest
import torch
from flax import linen
from jax import lax

from eca_multi import parity
from eca_multi.parity import ParityError
from tests.support.public_reports import SPEC


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy()


def _linear(inputs: Any, weights: Any) -> Any:
    return inputs @ weights["kernel"] + weights["bias"]


def _dense(features: int) -> Any:
    return lambda x, weights: linen.Dense(features).apply({"params": weights}, x)


def _drawn(rng: np.random.Generator, size: int, features: int) -> dict[str, np.ndarray]:
    """Draw a dense layer's weights as torch.nn.Linear does."""
    bound = size**-0.5
    return {
        "kernel": rng.uniform(-bound, bound, (size, features)).astype(np.float32),
        "bias": rng.uniform(-bound, bound, features).astype(np.float32),
    }


class TestRounding:
    """The reports whose ports were right: their authors expected equal bits."""

    def test_flax_963_a_dense_layer_of_2048_ones(self):
        weights = _drawn(np.random.default_rng(0), 2048, 10)
        x = np.ones((1, 2048), np.float32)
        parity.assert_match({"torch": _linear, "linen": _dense(10)}, x, weights)

        def wrong(x, weights):  # what a fault of 1e-5 in one weight would be
            return _dense(10)(x, {**weights, "kernel": weights["kernel"].at[0, 0].add(1e-5)})

        with pytest.raises(ParityError, match="linen float32 inputs dx: EXCEEDS_BUDGET"):
            parity.assert_match({"torch": _linear, "linen": wrong}, x, weights)

    def test_flax_3128_a_dense_layer_of_768_to_512(self):
        rng = np.random.default_rng(0)
        weights, x = _drawn(rng, 768, 512), rng.normal(size=(2, 768)).astype(np.float32)
        parity.assert_match({"torch": _linear, "linen": _dense(512)}, x, weights)

    def test_flax_3128_on_a_gpu_whose_products_round_their_inputs_to_tf32(self):
        """The report's difference of 1e-3 is that of an accelerator: 10 bits of the inputs are left."""
        rng = np.random.default_rng(0)
        weights, x = _drawn(rng, 768, 512), rng.normal(size=(2, 768)).astype(np.float32)

        def tf32(x, weights):
            x, kernel = (lax.reduce_precision(array, 8, 10) for array in (x, weights["kernel"]))
            return x @ kernel + weights["bias"]

        with pytest.raises(ParityError, match="linen float32 inputs y: EXCEEDS_BUDGET"):
            parity.assert_match({"torch": _linear, "linen": tf32}, x, weights, gradients=False)

    @pytest.mark.slow
    def test_keras_20804_a_large_dilated_convolution(self):
        """The report sums 67 million outputs and compares the sums; here the channels are 32 in place of 1024."""
        rng = np.random.default_rng(0)
        x = rng.random((1, 48, 48, 32), np.float32)
        kernel = rng.uniform(-0.03, 0.03, (4, 7, 32, 32)).astype(np.float32)

        def of_torch(x, kernel):
            # Keras's "same" for 4 rows that lie 3 apart and 7 columns that lie 2 apart pads 9 rows and 12 columns.
            padded = torch.nn.functional.pad(x.permute(0, 3, 1, 2), (6, 6, 4, 5))
            return torch.nn.functional.conv2d(padded, kernel.permute(3, 2, 0, 1), dilation=(3, 2)).permute(0, 2, 3, 1)

        def of_keras(x, kernel):
            return keras.ops.conv(x, kernel, padding="same", dilation_rate=(3, 2), data_format="channels_last")

        def of_jax(x, kernel):
            layout = ("NHWC", "HWIO", "NHWC")
            return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", rhs_dilation=(3, 2), dimension_numbers=layout)

        functions = {"torch": of_torch, f"keras-{keras.backend.backend()}": of_keras, "jax": of_jax}
        parity.assert_match(functions, x, kernel, gradients=False)

        def shifted(x, kernel):
            return of_jax(jnp.roll(x, 1, 1), kernel)

        with pytest.raises(ParityError, match="jax float32 inputs y: EXCEEDS_BUDGET"):
            parity.assert_match({"torch": of_torch, "jax": shifted}, x, kernel, gradients=False)

    @pytest.mark.slow
    def test_keras_22697_a_loss_over_convolutional_and_recurrent_paths(self):
        """The report finds a difference of 1 between two losses of some millions: relative to them it is rounding."""
        rng = np.random.default_rng(0)
        x = (30 * rng.normal(size=(4, 12, 8))).astype(np.float32)
        weights = {
            "conv": rng.normal(size=(8, 8, 3)).astype(np.float32),
            "inner": (0.3 * rng.normal(size=(8, 8))).astype(np.float32),
            "outer": rng.normal(size=(8, 8)).astype(np.float32),
        }

        def of_torch(x, w):
            spatial = torch.nn.functional.conv1d(x.transpose(1, 2), w["conv"], padding=1).transpose(1, 2)
            h, states = torch.zeros_like(x[:, 0]), []
            for t in range(x.shape[1]):
                h = torch.tanh(x[:, t] @ w["outer"] + h @ w["inner"])
                states.append(h)
            return ((spatial + spatial * torch.stack(states, 1)) ** 2).sum()

        def of_jax(x, w):
            layout = ("NWC", "OIW", "NWC")
            spatial = lax.conv_general_dilated(x, w["conv"], (1,), [(1, 1)], dimension_numbers=layout)

            def step(h, now):
                h = jnp.tanh(now @ w["outer"] + h @ w["inner"])
                return h, h

            states = lax.scan(step, jnp.zeros_like(x[:, 0]), x.swapaxes(0, 1))[1].swapaxes(0, 1)
            return ((spatial + spatial * states) ** 2).sum()

        assert (
            abs(float(of_torch(*_as(torch.from_numpy, x, weights)) - float(of_jax(*_as(jnp.asarray, x, weights))))) > 0
        )
        parity.assert_match({"torch": of_torch, "jax": of_jax}, x, weights)


@pytest.mark.slow
def test_keras_20713_training_on_the_backend_of_torch():
    """On a CPU every backend trains alike, to the last step: the report's gap is not one of Keras's on torch."""
    runners = ["torch", "keras-tensorflow", "keras-torch", "keras-torch-stalled"]
    report = parity.run(SPEC, runners=runners, dtypes="float32", checks=("forward", "trajectory"), timeout=900)
    assert {state.state for state in report.runners} == {"ran"}
    red = {(cell.runner, cell.check) for cell in report.disagreements}
    assert red == {("keras-torch-stalled", "trajectory")}
    steps = [cell for cell in report.cells if cell.check == "trajectory" and cell.runner == "keras-torch"]
    assert steps
    assert all(cell.green for cell in steps)


def _as(convert: Any, x: np.ndarray, weights: dict[str, np.ndarray]) -> tuple[Any, dict[str, Any]]:
    return convert(x), {name: convert(array) for name, array in weights.items()}


class TestFaults:
    """The reports whose ports were wrong: the answer names the fault."""

    @pytest.mark.slow
    def test_flax_2195_a_layer_norm_whose_first_argument_is_eps(self):
        """linen.LayerNorm(12) has eps 12: its first argument is not the number of features, as in torch."""
        theirs, x = torch.nn.LayerNorm(12), np.random.default_rng(0).normal(size=(8, 12)).astype(np.float32)
        weights = {"params": {"scale": _numpy(theirs.weight), "bias": _numpy(theirs.bias)}}
        with pytest.raises(ParityError, match="port float32 inputs y: EXCEEDS_BUDGET"):  # 12 is no eps that it tries
            parity.assert_ported(theirs, (linen.LayerNorm(12), weights), x)
        with pytest.raises(ParityError, match="matches the reference if eps is 1e-06"):  # Flax's default
            parity.assert_ported(theirs, (linen.LayerNorm(), weights), 0.01 * x)
        parity.assert_ported(theirs, (linen.LayerNorm(1e-5, use_fast_variance=False), weights), x)

    def test_flax_2993_same_is_not_a_padding_of_3(self):
        theirs = torch.nn.Conv2d(3, 24, 7, stride=2, padding=3, bias=False)
        weights = {"params": {"kernel": _numpy(theirs.weight).transpose(2, 3, 1, 0)}}
        x = np.random.default_rng(0).normal(size=(1, 3, 32, 40)).astype(np.float32)

        def port(padding: Any) -> Any:
            return linen.Conv(24, (7, 7), strides=2, padding=padding, use_bias=False), weights

        with pytest.raises(ParityError, match="padding is SAME"):
            parity.assert_ported(theirs, port("SAME"), x, layouts="N C H W -> N H W C")
        parity.assert_ported(theirs, port(((3, 3), (3, 3))), x, layouts="N C H W -> N H W C")

    @pytest.mark.slow
    @pytest.mark.keras
    def test_keras_15915_a_gru_whose_gates_have_another_order(self):
        theirs = torch.nn.GRU(20, 16, batch_first=True)
        x = np.random.default_rng(0).normal(size=(2, 10, 20)).astype(np.float32)

        class Sequence(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.gru = theirs

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.gru(x)[0]

        def port(order: tuple[int, ...]) -> Any:
            """Return Keras's GRU with torch's weights, its gates in an order; torch's is r z n, Keras's z r h."""

            def ordered(array: torch.Tensor) -> np.ndarray:
                return np.concatenate([np.split(_numpy(array), 3)[gate] for gate in order])

            layer = keras.layers.GRU(16, return_sequences=True)
            layer.build((2, 10, 20))
            biases = np.stack([ordered(theirs.bias_ih_l0), ordered(theirs.bias_hh_l0)])
            layer.set_weights([ordered(theirs.weight_ih_l0).T, ordered(theirs.weight_hh_l0).T, biases])
            return layer

        with pytest.raises(ParityError, match="gate"):
            parity.assert_ported(Sequence(), port((0, 1, 2)), x)
        parity.assert_ported(Sequence(), port((1, 0, 2)), x)

    @pytest.mark.slow
    @pytest.mark.keras
    def test_nobuco_46_and_65_fused_attention_against_separate_projections(self):
        """nobuco converts torch's fused attention to Keras's, whose heads have an axis of their own."""
        heads, size = 4, 8
        theirs = torch.nn.MultiheadAttention(heads * size, heads, batch_first=True)
        x = np.random.default_rng(0).normal(size=(2, 5, heads * size)).astype(np.float32)

        class SelfAttention(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.attention = theirs

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.attention(x, x, x, need_weights=False)[0]

        class Port(keras.layers.Layer):
            def __init__(self) -> None:
                super().__init__()
                self.attention = keras.layers.MultiHeadAttention(heads, size)

            def call(self, x: Any) -> Any:
                return self.attention(x, x)

        def port(order: str) -> Any:
            layer, width = Port(), heads * size
            layer(x)
            weights: list[np.ndarray] = []
            for kernel, bias in zip(
                np.split(_numpy(theirs.in_proj_weight), 3), np.split(_numpy(theirs.in_proj_bias), 3), strict=True
            ):
                if order == "heads first":
                    weights += [kernel.T.reshape(width, heads, size), bias.reshape(heads, size)]
                else:
                    weights += [kernel.T.reshape(width, size, heads).swapaxes(1, 2), bias.reshape(size, heads).T]
            out = _numpy(theirs.out_proj.weight).T.reshape(heads, size, width)
            variables = [v for name in ("query", "key", "value", "attention_output") for v in _of(layer, f"/{name}/")]
            for variable, array in zip(variables, [*weights, out, _numpy(theirs.out_proj.bias)], strict=True):
                variable.assign(array)
            return layer

        with pytest.raises(ParityError, match=r"heads are (split|merged)"):
            parity.assert_ported(SelfAttention(), port("heads last"), x)
        parity.assert_ported(SelfAttention(), port("heads first"), x)


def _of(layer: Any, place: str) -> list[Any]:
    """Return the kernel and the bias of a sub-layer of a Keras layer."""
    return [v for kind in ("kernel", "bias") for v in layer.variables if place in v.path and v.path.endswith(kind)]
