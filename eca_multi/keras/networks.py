"""ECA-ResNet and ECA-MobileNetV2 for Keras 3, built from the shared tables as functional models."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import keras
from keras import layers as L

from eca_multi.networks.builders import Builders
from eca_multi.networks.catalogue import NETWORKS, Network, find
from eca_multi.networks.kernels import kernel_sizes as sizes_of
from eca_multi.networks.options import check_input, check_options, drop_rates
from eca_multi.networks.preprocessing import Preprocessing, preprocessing_of
from eca_multi.networks.resnet import ResNet

from ._blocks import GLOBAL_POOLS, MAX_POOLS, ZERO_PADDINGS, conv_norm_act, inverted_block, layer_name, residual_block
from ._network_weights import identify_network
from .functional import Tensor
from .layers import ECA, check_data_format


@keras.saving.register_keras_serializable(package="eca_multi")
class ECANetwork(keras.Model):
    """A functional model that knows which network it is.

    Its config keeps `arch` and a `preprocessing` that was set. A clone, or a model after surgery, has its name or its
    tensors to tell.
    """

    arch: str | None = None
    prepared: dict[str, Any] | None = None

    @property
    def network(self) -> Network:
        known = next((name for name in (self.arch, self.name) if name in NETWORKS), None)
        return find(known) if known is not None else identify_network(self).network

    @property
    def preprocessing(self) -> Preprocessing:
        """How images are prepared for the released weights."""
        if not self.prepared:
            return preprocessing_of(self.network.name)
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in self.prepared.items()}
        return Preprocessing(**fields)

    @preprocessing.setter
    def preprocessing(self, value: Preprocessing) -> None:
        self.prepared = asdict(value)

    @property
    def layers(self) -> list[Any]:
        """In the order of files of weights and of optimizers, in which each block's addition was a layer behind its
        ECA: the convolution of a shortcut stands before the ECA, and its norm behind."""
        layers = list(super().layers)
        named = {layer.name: layer for layer in layers}
        for name in [name for name, layer in named.items() if isinstance(layer, ECA)]:
            block = name.removesuffix("eca")
            first = 0 if f"{block}downsample_0" in named else 1  # a pool comes first, or nothing in its place
            shortcut = [named.get(f"{block}downsample_{first + i}") for i in range(2)]
            if None not in shortcut and f"{block}add" not in named:
                for layer in shortcut:
                    layers.remove(layer)
                i = layers.index(named[name])
                layers[i : i + 1] = [shortcut[0], named[name], shortcut[1]]
        return layers

    @property
    def kernel_sizes(self) -> tuple[int, ...]:
        """The size of each ECA, in order."""
        return tuple(layer.kernel.shape[0] for layer in self.layers if isinstance(layer, ECA))

    @property
    def num_classes(self) -> int:
        """0 where there is no classifier."""
        name = layer_name(self.network.classifier)
        return next((layer.units for layer in self.layers if layer.name == name), 0)

    def __call__(self, inputs: Tensor, *args: Any, **kwargs: Any) -> Any:
        # Check before Keras adds or drops an axis, so that the errors read as in every framework.
        if hasattr(inputs, "shape"):
            axis = 1 if any(getattr(layer, "data_format", "") == "channels_first" for layer in self.layers) else -1
            expected = self.inputs[0].shape
            check_input(inputs.shape, expected[axis], len(expected) - 2, axis)
        return super().__call__(inputs, *args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        prepared = dict(self.prepared) if self.prepared else None
        return {**super().get_config(), "arch": self.arch, "prepared": prepared}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "ECANetwork":
        config = dict(config)
        arch, prepared = config.pop("arch", None), config.pop("prepared", None)
        with _deep_graph():
            model: ECANetwork = super().from_config(config, custom_objects)
        model.arch, model.prepared = arch, prepared
        return model


@contextlib.contextmanager
def _deep_graph() -> Iterator[None]:
    """Let Keras walk a graph of 1000 layers: it recurses once for each, and Python stops at 1000 by default."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, 10_000))
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def _outputs(
    x: Tensor, network: Network, sizes: Sequence[int], drop_path: float, dims: int, factory: dict[str, Any]
) -> dict[str, Tensor]:
    """Return the outputs of the stem and of each block, by path."""
    for conv in network.stem_convs:
        x = conv_norm_act(x, conv, network.activation, dims, **factory)
    outputs = {"stem": x}
    if network.pool_stem:
        x = ZERO_PADDINGS[dims](1, name="maxpool_pad", **factory)(x)  # as good as -inf behind a ReLU
        x = MAX_POOLS[dims](3, 2, name="maxpool", **factory)(x)
    make = residual_block if isinstance(network, ResNet) else inverted_block
    rates = drop_rates(drop_path, len(network.blocks))
    for block, size, rate in zip(network.blocks, sizes, rates, strict=True):
        outputs[block.path] = x = make(x, block, size, rate, dims, **factory)
    return outputs


def _classify(x: Tensor, network: Network, num_classes: int, dtype: Any) -> Tensor:
    path = network.classifier
    if network.dropout:
        x = L.Dropout(network.dropout, name=layer_name(path.replace(".1", ".0")), dtype=dtype)(x)
    if network.classifier_spread is None:
        bound = network.width**-0.5
        weight, bias = (keras.initializers.RandomUniform(-bound, bound) for _ in range(2))
    else:
        weight, bias = keras.initializers.RandomNormal(stddev=network.classifier_spread), "zeros"
    return L.Dense(num_classes, None, True, weight, bias, name=layer_name(path), dtype=dtype)(x)


_ARGUMENTS = """        dtype: Dtype or policy of the layers; None takes Keras's own setting.
        data_format: "channels_last" for x of shape (N, *S, C), "channels_first" for (N, C, *S); None takes
            `keras.config.image_data_format()`. On a CPU TensorFlow takes the channels first with oneDNN alone, which
            TF_ENABLE_ONEDNN_OPTS=0 switches off; its error says "only supports the NHWC tensor format".
        name: Of the model; None is the network's."""

_EXAMPLE = """        >>> from eca_multi.keras import {name}
        >>> model = {name}(num_classes=10){skip}
        >>> model.output_shape{skip}
        (None, 10)"""


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
    dtype: Any = None,
    data_format: str | None = None,
    name: str | None = None,
) -> ECANetwork:
    check_options(num_classes, in_channels, global_pool, drop_path, dims)
    sizes = sizes_of(network, kernel_sizes)
    data_format = check_data_format(data_format)
    factory = {"data_format": data_format, "dtype": dtype}
    extents: list[int | None] = [None] * dims
    extents.insert(0 if data_format == "channels_first" else dims, in_channels)
    inputs = keras.Input(extents, dtype=keras.dtype_policies.get(dtype).compute_dtype, name="image")
    outputs = _outputs(inputs, network, sizes, drop_path, dims, factory)
    y: Any = outputs[network.blocks[-1].path]
    if features_only:
        y = [outputs[feature.path] for feature in network.features]
    else:
        for conv in network.head:
            y = conv_norm_act(y, conv, network.activation, dims, **factory)
        if global_pool is not None:
            y = GLOBAL_POOLS[global_pool, dims](name="global_pool", **factory)(y)
            y = _classify(y, network, num_classes, dtype) if num_classes else y
    with _deep_graph():
        model = ECANetwork(inputs, y, name=network.name if name is None else name)
    model.arch = network.name
    return model


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
