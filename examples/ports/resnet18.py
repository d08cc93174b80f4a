"""ResNet-18 in PyTorch and its ports to Keras, linen and nnx; MAPS carries PyTorch's weights into each port.

Images are (N, 3, H, W) in PyTorch and (N, H, W, 3) in the ports. Source: He et al., CVPR 2016, table 1.
"""

from typing import Any

import numpy as np

# name, channels in, channels out, stride
BLOCKS = [
    ("layer1", 0, 64, 64, 1),
    ("layer1", 1, 64, 64, 1),
    ("layer2", 0, 64, 128, 2),
    ("layer2", 1, 128, 128, 1),
    ("layer3", 0, 128, 256, 2),
    ("layer3", 1, 256, 256, 1),
    ("layer4", 0, 256, 512, 2),
    ("layer4", 1, 512, 512, 1),
]
CLASSES = 10

KERNEL = "weight: o i h w -> h w i o"
NORM = {"scale": "weight", "mean": "running_mean", "var": "running_var"}
MAPS = {
    "keras": {
        "conv1/kernel": f"conv1.{KERNEL}",
        "{layer}_{b}_{conv}/kernel": f"{{layer}}.{{b}}.{{conv}}.{KERNEL}",
        **{f"bn1/{k}": f"bn1.{v}" for k, v in (("gamma", "weight"), ("beta", "bias"))},
        **{f"bn1/moving_{k}": f"bn1.running_{v}" for k, v in (("mean", "mean"), ("variance", "var"))},
        "{layer}_{b}_{bn}/gamma": "{layer}.{b}.{bn}.weight",
        "{layer}_{b}_{bn}/beta": "{layer}.{b}.{bn}.bias",
        "{layer}_{b}_{bn}/moving_mean": "{layer}.{b}.{bn}.running_mean",
        "{layer}_{b}_{bn}/moving_variance": "{layer}.{b}.{bn}.running_var",
        "fc/kernel": "fc.weight: o i -> i o",
        "fc/bias": "fc.bias",
    },
    "linen": {
        "params/conv1/kernel": f"conv1.{KERNEL}",
        "params/{layer}_{b}/{conv}/kernel": f"{{layer}}.{{b}}.{{conv}}.{KERNEL}",
        "params/bn1/scale": "bn1.weight",
        "params/{bn_or_fc}/bias": "{bn_or_fc}.bias",
        "batch_stats/bn1/{statistic}": "bn1.running_{statistic}",
        "params/{layer}_{b}/{bn}/scale": "{layer}.{b}.{bn}.weight",
        "params/{layer}_{b}/{bn}/bias": "{layer}.{b}.{bn}.bias",
        "batch_stats/{layer}_{b}/{bn}/{statistic}": "{layer}.{b}.{bn}.running_{statistic}",
        "params/fc/kernel": "fc.weight: o i -> i o",
    },
    "nnx": {
        "conv1.kernel": f"conv1.{KERNEL}",
        "{layer}.{b}.{conv}.kernel": f"{{layer}}.{{b}}.{{conv}}.{KERNEL}",
        "{bn...}.scale": "{bn...}.weight",
        "{bn_or_fc...}.bias": "{bn_or_fc...}.bias",
        "{bn...}.mean": "{bn...}.running_mean",
        "{bn...}.var": "{bn...}.running_var",
        "fc.kernel": "fc.weight: o i -> i o",
    },
}


def inputs() -> np.ndarray:
    """Return a batch of images, float32 (2, 3, 64, 48)."""
    return np.random.default_rng(0).normal(size=(2, 3, 64, 48)).astype(np.float32)


def torch_model() -> Any:
    """Return the reference with random weights and statistics, in evaluation mode."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, inside: int, outside: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(outside)
            self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(outside)
            self.projects = inside != outside
            if self.projects:
                self.conv3 = nn.Conv2d(inside, outside, 1, stride, bias=False)
                self.bn3 = nn.BatchNorm2d(outside)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.bn1(self.conv1(x)).relu()
            y = self.bn2(self.conv2(y))
            return (y + (self.bn3(self.conv3(x)) if self.projects else x)).relu()

    class ResNet18(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
            self.bn1 = nn.BatchNorm2d(64)
            self.pool = nn.MaxPool2d(3, 2, 1)
            for layer in ("layer1", "layer2", "layer3", "layer4"):
                blocks = [Block(i, o, stride) for name, _, i, o, stride in BLOCKS if name == layer]
                setattr(self, layer, nn.Sequential(*blocks))
            self.fc = nn.Linear(512, CLASSES)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.pool(self.bn1(self.conv1(x)).relu())
            x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
            return self.fc(x.mean((2, 3)))

    torch.manual_seed(0)
    model = ResNet18()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor, 0.0, 0.1)
    return model.eval()


def keras_model() -> Any:
    """Return the port to Keras, channels last."""
    import keras
    from keras import layers

    def convolution(x: Any, width: int, size: int, stride: int, name: str) -> Any:
        # padding="same" pads an even size behind alone when the stride is 2; PyTorch pads both sides.
        padded = layers.ZeroPadding2D(size // 2, data_format="channels_last")(x) if size > 1 else x
        options = {"use_bias": False, "data_format": "channels_last", "name": name}
        return layers.Conv2D(width, size, stride, **options)(padded)

    def norm(x: Any, name: str) -> Any:
        return layers.BatchNormalization(epsilon=1e-5, axis=-1, name=name)(x)

    entered = keras.Input((64, 48, 3))
    x = layers.ReLU()(norm(convolution(entered, 64, 7, 2, "conv1"), "bn1"))
    x = layers.ZeroPadding2D(1, data_format="channels_last")(x)  # zeros: the largest of a window is 0 or more
    x = layers.MaxPooling2D(3, 2, data_format="channels_last", name="pool")(x)
    for layer, b, inside, outside, stride in BLOCKS:
        name = f"{layer}_{b}"
        y = layers.ReLU()(norm(convolution(x, outside, 3, stride, f"{name}_conv1"), f"{name}_bn1"))
        y = norm(convolution(y, outside, 3, 1, f"{name}_conv2"), f"{name}_bn2")
        if inside != outside:
            x = norm(convolution(x, outside, 1, stride, f"{name}_conv3"), f"{name}_bn3")
        x = layers.ReLU(name=name)(layers.Add()([y, x]))
    x = layers.GlobalAveragePooling2D(data_format="channels_last")(x)
    return keras.Model(entered, layers.Dense(CLASSES, name="fc")(x))


def linen_model() -> Any:
    """Return the port to linen, as (module, variables), channels last."""
    import jax
    import jax.numpy as jnp
    from flax import linen as nn

    class Block(nn.Module):
        width: int
        stride: int
        projects: bool

        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            both = ((1, 1), (1, 1))
            y = nn.Conv(self.width, (3, 3), self.stride, both, use_bias=False, name="conv1")(x)
            y = nn.relu(nn.BatchNorm(True, name="bn1")(y))
            y = nn.Conv(self.width, (3, 3), 1, both, use_bias=False, name="conv2")(y)
            y = nn.BatchNorm(True, name="bn2")(y)
            if self.projects:
                x = nn.Conv(self.width, (1, 1), self.stride, use_bias=False, name="conv3")(x)
                x = nn.BatchNorm(True, name="bn3")(x)
            return nn.relu(y + x)

    class ResNet18(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            x = nn.Conv(64, (7, 7), 2, ((3, 3), (3, 3)), use_bias=False, name="conv1")(x)
            x = nn.relu(nn.BatchNorm(True, name="bn1")(x))
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
            for layer, b, inside, outside, stride in BLOCKS:
                x = Block(outside, stride, inside != outside, name=f"{layer}_{b}")(x)
            return nn.Dense(CLASSES, name="fc")(x.mean((1, 2)))

    module = ResNet18()
    return module, module.init(jax.random.key(0), jnp.zeros((1, 64, 48, 3)))


def nnx_model() -> Any:
    """Return the port to nnx, channels last."""
    import jax
    from flax import nnx

    class Block(nnx.Module):
        def __init__(self, inside: int, outside: int, stride: int, *, rngs: nnx.Rngs) -> None:
            options: dict[str, Any] = {"use_bias": False, "rngs": rngs}
            both = ((1, 1), (1, 1))
            self.conv1 = nnx.Conv(inside, outside, (3, 3), stride, padding=both, **options)
            self.bn1 = nnx.BatchNorm(outside, use_running_average=True, rngs=rngs)
            self.conv2 = nnx.Conv(outside, outside, (3, 3), padding=both, **options)
            self.bn2 = nnx.BatchNorm(outside, use_running_average=True, rngs=rngs)
            self.projects = inside != outside
            if self.projects:
                self.conv3 = nnx.Conv(inside, outside, (1, 1), stride, **options)
                self.bn3 = nnx.BatchNorm(outside, use_running_average=True, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            y = nnx.relu(self.bn1(self.conv1(x)))
            y = self.bn2(self.conv2(y))
            return nnx.relu(y + (self.bn3(self.conv3(x)) if self.projects else x))

    class ResNet18(nnx.Module):
        def __init__(self, *, rngs: nnx.Rngs) -> None:
            self.conv1 = nnx.Conv(3, 64, (7, 7), 2, padding=((3, 3), (3, 3)), use_bias=False, rngs=rngs)
            self.bn1 = nnx.BatchNorm(64, use_running_average=True, rngs=rngs)
            for layer in ("layer1", "layer2", "layer3", "layer4"):
                blocks = [Block(i, o, stride, rngs=rngs) for name, _, i, o, stride in BLOCKS if name == layer]
                setattr(self, layer, nnx.List(blocks))
            self.fc = nnx.Linear(512, CLASSES, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            x = nnx.relu(self.bn1(self.conv1(x)))
            x = nnx.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
            for block in (*self.layer1, *self.layer2, *self.layer3, *self.layer4):
                x = block(x)
            return self.fc(x.mean((1, 2)))

    return ResNet18(rngs=nnx.Rngs(0))
