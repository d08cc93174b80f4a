"""ECA-ResNet and ECA-MobileNetV2 for PyTorch, built from the shared tables."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from eca_multi.networks.builders import Builders
from eca_multi.networks.catalogue import Network
from eca_multi.networks.kernels import kernel_sizes as sizes_of
from eca_multi.networks.mobilenet import MobileNetV2
from eca_multi.networks.options import check_input, check_options, drop_rates
from eca_multi.networks.preprocessing import Preprocessing, preprocessing_of
from eca_multi.networks.resnet import ResNet
from eca_multi.networks.tensors import Tensor, stem_of, tensors

from ._blocks import MAX_POOLS, InvertedBlock, ResidualBlock, conv_norm_act, convolution, normalisation
from .layers import ECA

torch.fx.wrap("check_input")  # one step in a graph of torch.fx, which knows no shapes


class ECANetwork(nn.Module):
    """The walk through stem, blocks and head, and the outputs, of all networks."""

    network: Network
    preprocessing: Preprocessing

    def __init__(
        self,
        network: Network,
        num_classes: int,
        in_channels: int,
        features_only: bool,
        global_pool: str | None,
        dims: int,
    ) -> None:
        super().__init__()
        self.network = network
        self.num_classes = 0 if features_only or global_pool is None else num_classes
        self.in_channels = in_channels
        self.features_only = features_only
        self.global_pool = global_pool
        self.dims = dims
        self.preprocessing = preprocessing_of(network.name)
        self.wanted = {feature.path for feature in network.features} if features_only else set()

    @property
    def kernel_sizes(self) -> tuple[int, ...]:
        """The size of each ECA, in order."""
        return tuple(module.kernel_size for module in self.modules() if isinstance(module, ECA))

    @property
    def tensors(self) -> dict[str, Tensor]:
        return tensors(
            self.network,
            self.kernel_sizes,
            num_classes=self.num_classes,
            in_channels=self.in_channels,
            dims=self.dims,
            features_only=self.features_only,
        )

    def steps(self) -> Iterator[tuple[str, nn.Module]]:
        """The modules from the input to the last feature map, each with the path of the block that it ends."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> Any:
        check_input(x.shape, self.in_channels, self.dims, 1)
        features = []
        for path, module in self.steps():
            x = module(x)
            if path in self.wanted:
                features.append(x)
        if self.features_only:
            return features
        if self.global_pool is None:
            return x
        axes = tuple(range(2, 2 + self.dims))
        pooled = x.mean(axes) if self.global_pool == "avg" else x.amax(axes)
        return getattr(self, self.network.classifier.partition(".")[0])(pooled) if self.num_classes else pooled


class ECAResNet(ECANetwork):
    """An ECA-ResNet with the modules conv1, bn1, relu, maxpool, layer1 to layer4, fc."""

    def __init__(
        self, network: ResNet, sizes: Sequence[int], drop_path: float, options: dict[str, Any], factory: dict[str, Any]
    ) -> None:
        super().__init__(network, **options)
        dims = self.dims
        *stem, last = stem_of(network, self.in_channels)
        self.conv1: nn.Module = convolution(last, dims, **factory)
        if stem:
            layers = [layer for conv in stem for layer in conv_norm_act(conv, "relu", dims, **factory)]
            self.conv1 = nn.Sequential(*layers, self.conv1)
        self.bn1 = normalisation(last, dims, **factory)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = MAX_POOLS[dims](3, stride=2, padding=1)
        rates = drop_rates(drop_path, len(network.blocks))
        for stage in range(len(network.depths)):
            blocks = [
                ResidualBlock(block, size, rate, dims, **factory)
                for block, size, rate in zip(network.blocks, sizes, rates, strict=True)
                if block.stage == stage
            ]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        if self.num_classes:
            self.fc = nn.Linear(network.width, self.num_classes, **factory)
            bound = network.width**-0.5
            nn.init.uniform_(self.fc.weight, -bound, bound)
            nn.init.uniform_(self.fc.bias, -bound, bound)

    def steps(self) -> Iterator[tuple[str, nn.Module]]:
        yield from (("", self.conv1), ("", self.bn1), ("stem", self.relu), ("", self.maxpool))
        for stage in range(len(self.network.depths)):
            name = f"layer{stage + 1}"
            for i, block in enumerate(getattr(self, name)):
                yield f"{name}.{i}", block


class ECAMobileNetV2(ECANetwork):
    """An ECA-MobileNetV2 with the modules features and classifier."""

    def __init__(
        self,
        network: MobileNetV2,
        sizes: Sequence[int],
        drop_path: float,
        options: dict[str, Any],
        factory: dict[str, Any],
    ) -> None:
        super().__init__(network, **options)
        dims = self.dims
        rates = drop_rates(drop_path, len(network.blocks))
        stem = stem_of(network, self.in_channels)
        layers: list[nn.Module] = [conv_norm_act(conv, "relu6", dims, **factory) for conv in stem]
        for block, size, rate in zip(network.blocks, sizes, rates, strict=True):
            layers.append(InvertedBlock(block, size, rate, dims, **factory))
        if not self.features_only:
            layers += [conv_norm_act(conv, "relu6", dims, **factory) for conv in network.head]
        self.features = nn.Sequential(*layers)
        if self.num_classes:
            dense = nn.Linear(network.width, self.num_classes, **factory)
            nn.init.normal_(dense.weight, std=network.classifier_spread)
            nn.init.zeros_(dense.bias)
            self.classifier = nn.Sequential(nn.Dropout(network.dropout), dense)

    def steps(self) -> Iterator[tuple[str, nn.Module]]:
        for i, module in enumerate(self.features):
            yield f"features.{i}", module


_ARGUMENTS = """        device, dtype: Of the parameters; `device="meta"` allocates nothing."""

_EXAMPLE = """        >>> import torch
        >>> from eca_multi.torch import {name}
        >>> model = {name}(device="meta")
        >>> model(torch.empty(1, 3, 224, 224, device="meta")).shape
        torch.Size([1, 1000])"""


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
    device: torch.device | str | int | None = None,
    dtype: torch.dtype | None = None,
) -> ECANetwork:
    check_options(num_classes, in_channels, global_pool, drop_path, dims)
    sizes = sizes_of(network, kernel_sizes)
    options = {
        "num_classes": num_classes,
        "in_channels": in_channels,
        "features_only": features_only,
        "global_pool": global_pool,
        "dims": dims,
    }
    factory = {"device": device, "dtype": dtype}
    if isinstance(network, ResNet):
        return ECAResNet(network, sizes, drop_path, options, factory)
    return ECAMobileNetV2(network, sizes, drop_path, options, factory)


Builder = Callable[..., ECANetwork]
_builder = Builders(_build, "(N, C, *S)", _ARGUMENTS, _EXAMPLE)

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
