"""A network of each framework in the middle of its training in mixed precision: float16, or bfloat16 as autocast's."""

from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import torch
from flax import linen, nnx
from flax.training.dynamic_scale import DynamicScale

from tests.support.surgery_twins import X

TARGET = np.linspace(-1, 1, 8, dtype=np.float32)


class Torch:
    """Autocast to bfloat16, and a gradient scaled by hand that waits for its step."""

    def __init__(self) -> None:
        self.net = torch.nn.Sequential()
        self.net.add_module("stem", torch.nn.Conv2d(3, 8, 3, padding=1))
        self.net.add_module("conv", torch.nn.Conv2d(8, 8, 3, padding=1))
        self.net.add_module("norm", torch.nn.BatchNorm2d(8))
        self.x = torch.tensor(X.transpose(0, 3, 1, 2))
        self.step(self.net)
        self.loss(self.net).backward()

    def loss(self, net: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return (net(self.x).float().mean((2, 3)) - torch.tensor(TARGET)).square().mean() * 2**12

    def step(self, net: Any) -> Any:
        optimizer = torch.optim.SGD(net.parameters(), 1e-4)
        self.loss(net).backward()
        optimizer.step()
        return net

    def outputs(self, net: Any) -> Any:
        flags = [(module, module.training) for module in net.modules()]
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            y = net.eval()(self.x).float().numpy()
        for module, flag in flags:
            module.training = flag
        return y


class Keras:
    """The policy mixed_float16, whose optimizer scales the loss and counts its steps."""

    def __init__(self) -> None:
        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy("mixed_float16")
        try:
            x = inputs = keras.Input((6, 5, 3))
            x = keras.layers.Conv2D(8, 3, padding="same", name="stem")(x)
            x = keras.layers.Conv2D(8, 3, padding="same", name="conv")(x)
            x = keras.layers.BatchNormalization(name="norm")(x)
            self.net = keras.Model(inputs, keras.layers.GlobalAveragePooling2D(dtype="float32")(x))
            self.net.compile(keras.optimizers.Adam(1e-2), "mse")
        finally:
            keras.config.set_dtype_policy(policy)
        self.x = X
        self.step(self.net)

    def step(self, net: Any) -> Any:
        net.fit(X, np.stack([TARGET, TARGET]), epochs=2, verbose=0)
        return net

    def outputs(self, net: Any) -> Any:
        return net.predict(X, verbose=0)


class NnxNet(nnx.Module):
    def __init__(self) -> None:
        options: Any = {"dtype": jnp.bfloat16, "rngs": nnx.Rngs(0)}
        self.stem = nnx.Conv(3, 8, (3, 3), **options)
        self.conv = nnx.Conv(8, 8, (3, 3), **options)
        self.norm = nnx.BatchNorm(8, **options)

    def __call__(self, x: Any) -> Any:
        return self.norm(self.conv(self.stem(x)))


class Nnx:
    def __init__(self) -> None:
        self.net, self.x = NnxNet(), jnp.asarray(X)
        self.step(self.net)

    def step(self, net: Any) -> Any:
        optimizer = nnx.Optimizer(net, optax.adam(1e-2), wrt=nnx.Param)
        optimizer.update(net, nnx.grad(self.loss)(net))
        return net

    def loss(self, net: Any) -> Any:
        return ((net(self.x).astype(jnp.float32).mean((1, 2)) - TARGET) ** 2).mean() * 2**12

    def outputs(self, net: Any) -> Any:
        net.eval()
        y = np.asarray(net(self.x), np.float32)
        net.train()
        return y


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        x = linen.Conv(8, (3, 3), dtype=jnp.float16, name="stem")(x)
        x = linen.Conv(8, (3, 3), dtype=jnp.float16, name="conv")(x)
        return linen.BatchNorm(use_running_average=not train, dtype=jnp.float16, name="norm")(x)


class Linen:
    """Float16 with flax's dynamic scale of the loss."""

    def __init__(self) -> None:
        self.x = jnp.asarray(X)
        self.net = self.step((LinenNet(), jax.jit(LinenNet().init)(jax.random.key(0), self.x)))

    def step(self, net: Any) -> Any:
        module, variables = net

        def loss(params: Any) -> Any:
            y, changed = module.apply({**variables, "params": params}, self.x, train=True, mutable=["batch_stats"])
            return ((y.astype(jnp.float32).mean((1, 2)) - TARGET) ** 2).mean(), changed

        grad = DynamicScale(scale=2.0**12).value_and_grad(loss, has_aux=True)
        _, is_finite, (_, changed), gradients = grad(variables["params"])
        assert is_finite
        params = jax.tree.map(lambda p, g: p - 1e-1 * g, variables["params"], gradients)
        return module, {**variables, **changed, "params": params}

    def outputs(self, net: Any) -> Any:
        return np.asarray(net[0].apply(net[1], self.x), np.float32)


TRAINED = {"torch": Torch, "keras": Keras, "nnx": Nnx, "linen": Linen}
