"""ECA-ResNet and ECA-MobileNetV2 for Flax linen, built from the shared tables."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import ArrayLike, DTypeLike

from eca_multi.flax._initializers import classifier_initializers
from eca_multi.flax._network_weights import child
from eca_multi.jax.functional import as_floating
from eca_multi.networks.builders import Builders
from eca_multi.networks.catalogue import Network, find
from eca_multi.networks.kernels import kernel_sizes as sizes_of
from eca_multi.networks.options import check_input, check_options, drop_rates
from eca_multi.networks.preprocessing import Preprocessing, preprocessing_of
from eca_multi.networks.resnet import ResNet

from ._blocks import InvertedBlock, ResidualBlock, conv_norm_act


class ECANetwork(nn.Module):
    """An ECA-ResNet (`conv1`, `bn1`, `layer1_0` ... `fc`) or ECA-MobileNetV2 (`features_0_0` ... `classifier_1`).

    Args:
        arch: Name of the network.
        num_classes, in_channels, kernel_sizes, features_only, global_pool, drop_path, dims, dtype, param_dtype: As the
            builder of that name has them; `kernel_sizes` has one size per ECA.
        preprocessing: How images are prepared for the weights.
    """

    arch: str
    num_classes: int
    in_channels: int
    kernel_sizes: tuple[int, ...]
    features_only: bool = False
    global_pool: str | None = "avg"
    drop_path: float = 0.0
    dims: int = 2
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    preprocessing: Preprocessing = Preprocessing()

    @property
    def network(self) -> Network:
        return find(self.arch)

    @nn.compact
    def __call__(self, x: ArrayLike, train: bool = False) -> Any:
        y = as_floating("x", x, self.dtype)
        check_input(y.shape, self.in_channels, self.dims, -1)
        network, dims = self.network, self.dims
        factory: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        for conv in network.stem_convs:
            y = conv_norm_act(y, conv, network.activation, dims, train, **factory)
        outputs = {"stem": y}
        if network.pool_stem:
            y = nn.max_pool(y, (3,) * dims, (2,) * dims, ((1, 1),) * dims)
        make = ResidualBlock if isinstance(network, ResNet) else InvertedBlock
        rates = drop_rates(self.drop_path, len(network.blocks))
        for block, size, rate in zip(network.blocks, self.kernel_sizes, rates, strict=True):
            y = make(block, size, rate, dims, name=child("", block.path), **factory)(y, train)
            outputs[block.path] = y
        if self.features_only:
            return [outputs[feature.path] for feature in network.features]
        for conv in network.head:
            y = conv_norm_act(y, conv, network.activation, dims, train, **factory)
        if self.global_pool is None:
            return y
        axes = tuple(range(1, 1 + dims))
        pooled = y.mean(axes) if self.global_pool == "avg" else y.max(axes)
        if not self.num_classes:
            return pooled
        if network.dropout:
            pooled = nn.Dropout(network.dropout, name="dropout")(pooled, deterministic=not train)
        options = {"name": child("", network.classifier), **classifier_initializers(network), **factory}
        return nn.Dense(self.num_classes, **options)(pooled)


_ARGUMENTS = """        dtype: Convert x to it first; None keeps x's.
        param_dtype: Of the parameters.

    In training call it with `train=True` and `mutable=["batch_stats"]`; what drops needs a "dropout" key."""

_EXAMPLE = """        >>> import jax, jax.numpy as jnp
        >>> from eca_multi.flax.linen import {name}
        >>> model, x = {name}(num_classes=10), jnp.ones((1, 32, 32, 3))
        >>> variables = jax.eval_shape(model.init, jax.random.key(0), x)
        >>> jax.eval_shape(model.apply, variables, x).shape
        (1, 10)"""


def _build(
    network: Network,
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    kernel_sizes: str | Sequence[int] = "published",
    features_only: bool = False,
    global_pool: str | None = "avg",
    drop_path: float = 0.0,
    dims: int = 2,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = jnp.float32,
) -> ECANetwork:
    check_options(num_classes, in_channels, global_pool, drop_path, dims)
    return ECANetwork(
        network.name,
        0 if features_only or global_pool is None else num_classes,
        in_channels,
        sizes_of(network, kernel_sizes),
        features_only,
        global_pool,
        drop_path,
        dims,
        dtype,
        param_dtype,
        preprocessing_of(network.name),
    )


Builder = Callable[..., ECANetwork]
_builder = Builders(_build, "(N, *S, C)", _ARGUMENTS, _EXAMPLE)

eca_resnet18 = _builder("eca_resnet18")
eca_resnet34 = _builder("eca_resnet34")
eca_resnet50 = _builder("eca_resnet50")
eca_resnet101 = _builder("eca_resnet101")
eca_resnet152 = _builder("eca_resnet152")
eca_mobilenet_v2 = _builder("eca_mobilenet_v2")
ecaresnet26t = _builder("ecaresnet26t")
ecaresnet50t = _builder("ecaresnet50t")
ecaresnet50d = _builder("ecaresnet50d")
ecaresnet50d_pruned = _builder("ecaresnet50d_pruned")
ecaresnet101d = _builder("ecaresnet101d")
ecaresnet101d_pruned = _builder("ecaresnet101d_pruned")
ecaresnet200d = _builder("ecaresnet200d")
ecaresnet269d = _builder("ecaresnet269d")
ecaresnetlight = _builder("ecaresnetlight")
ecaresnext26t_32x4d = _builder("ecaresnext26t_32x4d")
ecaresnext50t_32x4d = _builder("ecaresnext50t_32x4d")
