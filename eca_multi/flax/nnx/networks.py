"""ECA-ResNet and ECA-MobileNetV2 for Flax nnx, built from the shared tables."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike

from eca_multi.flax._initializers import classifier_initializers
from eca_multi.flax._network_weights import child
from eca_multi.jax.functional import as_floating
from eca_multi.networks.builders import Builders
from eca_multi.networks.catalogue import Network
from eca_multi.networks.kernels import kernel_sizes as sizes_of
from eca_multi.networks.options import check_input, check_options, drop_rates
from eca_multi.networks.preprocessing import Preprocessing, preprocessing_of
from eca_multi.networks.resnet import ResNet
from eca_multi.networks.tensors import stem_of

from ._blocks import InvertedBlock, ResidualBlock, add_conv_norm, conv_norm_act
from .layers import ECA


class ECANetwork(nnx.Module):
    """An ECA-ResNet (`conv1`, `bn1`, `layer1_0` ... `fc`) or ECA-MobileNetV2 (`features_0_0` ... `classifier_1`)."""

    def __init__(
        self,
        network: Network,
        sizes: Sequence[int],
        num_classes: int,
        in_channels: int,
        features_only: bool,
        global_pool: str | None,
        drop_path: float,
        dims: int,
        dtype: DTypeLike | None,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        self.network = network
        self.num_classes = 0 if features_only or global_pool is None else num_classes
        self.in_channels = in_channels
        self.features_only = features_only
        self.global_pool = global_pool
        self.dims = dims
        self.dtype = dtype
        self.preprocessing: Preprocessing = preprocessing_of(network.name)
        factory = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        for conv in stem_of(network, in_channels):
            add_conv_norm(self, conv, dims, **factory)
        make = ResidualBlock if isinstance(network, ResNet) else InvertedBlock
        rates = drop_rates(drop_path, len(network.blocks))
        for block, size, rate in zip(network.blocks, sizes, rates, strict=True):
            setattr(self, child("", block.path), make(block, size, rate, dims, **factory))
        if not features_only:
            for conv in network.head:
                add_conv_norm(self, conv, dims, **factory)
        if self.num_classes:
            self.dropout = nnx.Dropout(network.dropout, rngs=rngs if network.dropout else None)
            dense = nnx.Linear(network.width, num_classes, **classifier_initializers(network), **factory)
            setattr(self, child("", network.classifier), dense)

    @property
    def kernel_sizes(self) -> tuple[int, ...]:
        """The size of each ECA, in order."""
        eca = [getattr(getattr(self, child("", b.path)), child(b.path, b.eca)) for b in self.network.blocks]
        return tuple(module.kernel.shape[0] for module in eca if isinstance(module, ECA))

    def __call__(self, x: ArrayLike) -> Any:
        y = as_floating("x", x, self.dtype)
        check_input(y.shape, self.in_channels, self.dims, -1)
        network, dims = self.network, self.dims
        for conv in network.stem_convs:
            y = conv_norm_act(self, y, conv, network.activation)
        outputs = {"stem": y}
        if network.pool_stem:
            y = nnx.max_pool(y, (3,) * dims, (2,) * dims, ((1, 1),) * dims)
        for block in network.blocks:
            y = getattr(self, child("", block.path))(y)
            outputs[block.path] = y
        if self.features_only:
            return [outputs[feature.path] for feature in network.features]
        for conv in network.head:
            y = conv_norm_act(self, y, conv, network.activation)
        if self.global_pool is None:
            return y
        axes = tuple(range(1, 1 + dims))
        pooled = y.mean(axes) if self.global_pool == "avg" else y.max(axes)
        return getattr(self, child("", network.classifier))(self.dropout(pooled)) if self.num_classes else pooled


_ARGUMENTS = """        dtype: Convert x to it first; None keeps x's.
        param_dtype: Of the parameters.
        rngs: Its `params` stream draws the weights, `dropout` chooses what training drops. A new network is in
            training: call `eval()` for inference."""

_EXAMPLE = """        >>> import jax, jax.numpy as jnp
        >>> from flax import nnx
        >>> from eca_multi.flax.nnx import {name}
        >>> model = nnx.eval_shape(lambda: {name}(num_classes=10, rngs=nnx.Rngs(0)))
        >>> model.kernel_sizes[-1]
        {last}"""


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
    rngs: nnx.Rngs,
) -> ECANetwork:
    check_options(num_classes, in_channels, global_pool, drop_path, dims)
    return ECANetwork(
        network,
        sizes_of(network, kernel_sizes),
        num_classes,
        in_channels,
        features_only,
        global_pool,
        drop_path,
        dims,
        dtype,
        param_dtype,
        rngs,
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
