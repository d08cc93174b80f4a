"""The networks of `surgery_twins`, made wrong: NaN in a weight, a forward that raises, one half without values."""

from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
from flax import nnx

from tests.support.surgery_twins import LinenNet, NnxNet, TorchNet, Twin


class TorchFails(TorchNet):
    """It raises once its convolution has an ECA, or always."""

    always = False

    def forward(self, x):
        y = super().forward(x)
        if self.always or hasattr(self.conv, "eca"):
            raise KeyError("mine")
        return y


class NnxFails(NnxNet):
    always = False

    def __call__(self, x):
        y = super().__call__(x)
        if self.always or hasattr(self.conv, "eca"):
            raise KeyError("mine")
        return y


class LinenFails(LinenNet):
    always: bool = False

    def __call__(self, x):
        y = LinenNet.__call__(self, x)
        if self.always or "eca" in self.variables["params"]["conv"]:
            raise KeyError("mine")
        return y


@keras.saving.register_keras_serializable("tests")
class KerasFails(keras.layers.Layer):
    """A layer cannot see an ECA elsewhere: it raises at the run after the one before the insertion."""

    runs = 0

    def call(self, x):
        try:
            keras.ops.convert_to_numpy(x)
        except Exception:  # a graph is being made
            return x
        KerasFails.runs += 1
        if KerasFails.runs > 1:
            raise KeyError("mine")
        return x


def failing(twin: Twin, always: bool) -> Any:
    """Return a network that raises: always, or once it has an ECA."""
    net = twin.net()
    if twin.name == "linen":
        return LinenFails(8, always=always), net[1]
    if twin.name == "keras":
        KerasFails.runs = int(always)
        return keras.Model(net.input, KerasFails()(net.output))
    net.__class__ = {"torch": TorchFails, "nnx": NnxFails}[twin.name]
    if always:
        net.always = True
    return net


def with_nan(twin: Twin, net: Any) -> Any:
    """Return the network with one weight of its stem NaN."""
    if twin.name == "torch":
        net.stem.weight.data[0] = float("nan")
    elif twin.name == "nnx":
        net.stem.kernel.set_value(net.stem.kernel[...].at[..., 0].set(jnp.nan))
    elif twin.name == "keras":
        kernel = keras.ops.convert_to_numpy(net.get_layer("stem").kernel).copy()
        kernel[..., 0] = np.nan
        net.get_layer("stem").kernel.assign(kernel)
    else:
        params = {**net[1]["params"]}
        params["stem"] = {**params["stem"], "kernel": jnp.asarray(params["stem"]["kernel"]).at[..., 0].set(jnp.nan)}
        return net[0], {**net[1], "params": params}
    return net


def half_abstract(twin: Twin) -> Any:
    """Return a network whose stem holds no values."""
    net = twin.net()
    if twin.name == "torch":
        net.stem.to("meta")
    elif twin.name == "nnx":
        net.stem = nnx.eval_shape(lambda: twin.net()).stem
    else:
        params = {**net[1]["params"]}
        params["stem"] = jax.eval_shape(lambda: params["stem"])
        return net[0], {"params": params}
    return net
