"""Whole networks: ECA-ResNet and ECA-MobileNetV2 with the same weights in every framework, on real photographs.

Each network has four cases: logits and the feature maps of every stage, at inference and in training, which uses the
batch's statistics; a run then compares the running statistics too. Torch's running variance, that of the sample over
n - 1, is put back to that of the batch over n. Dropout is off: in training MobileNetV2 ends in its pooled features.

In half precision some activation always lies within rounding of a kink, and its gradient may jump. So a run compares
float32; in bfloat16 ask for `--check forward`.

`SPEC` has a network of each kind, `ALL` has all networks, and signals.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from eca_multi.networks import NETWORKS, STATISTICS, find
from eca_multi.parity.define.adapters import Adapter, KerasAdapter, LinenAdapter, NnxAdapter, TorchAdapter
from eca_multi.parity.define.runners import Runner
from eca_multi.parity.define.spec import Case, Spec

from ._network_data import listed, network_data

Config = Mapping[str, Any]
CHANNELS = "C C0 C1 C2 C3 C4"  # of the input and of the feature maps


def options(config: Config) -> dict[str, Any]:
    """Return the builder's keywords that all frameworks share."""
    return {"num_classes": config["classes"], "features_only": config["features"], "dims": config["dims"]}


class Torch(TorchAdapter):
    layout = f"N {CHANNELS} *"

    def build(self, config: Config) -> Any:
        import eca_multi.torch as package

        model = getattr(package, find(config["network"]).name)(**options(config))
        _of_the_batch(model)
        return model

    def weights_for(self, config: Config) -> dict[str, str | None]:
        weight_map: dict[str, str | None] = {}
        for name, tensor in listed(config).items():
            if tensor.kind == "eca":
                weight_map[f"{tensor.module}.conv.weight"] = f"{name}: k -> 1 1 k"
            else:
                weight_map[name] = name
            if tensor.kind == "norm_mean":
                weight_map[f"{tensor.module}.num_batches_tracked"] = None
        return weight_map


class ChannelsLast(Adapter):
    """A network in a framework whose channels come last; kernels are (*S, in, out)."""

    layout = f"N * {CHANNELS}"
    names: Mapping[str, str] = {}  # kind of tensor -> the framework's name of it

    def native(self, modules: Sequence[str], name: str, kind: str) -> str:
        """Return the framework's name of a tensor, from the names of its block, if it has one, and of its module."""
        raise NotImplementedError

    def weights_for(self, config: Config) -> dict[str, str | None]:
        space = " ".join("hw"[: config["dims"]])
        ways = {
            "conv": f": o i {space} -> {space} i o",
            "depthwise": self.depthwise.format(space=space),
            "dense": ": o i -> i o",
            "eca": ": k -> k 1 1",
        }
        blocks = [f"{block.path}." for block in find(config["network"]).blocks]
        weight_map: dict[str, str | None] = {}
        for name, tensor in listed(config).items():
            block = next((start for start in blocks if tensor.module.startswith(start)), "")
            modules = [part.strip(".").replace(".", "_") for part in (block, tensor.module[len(block) :]) if part]
            native = self.native(modules, self.names[tensor.kind], tensor.kind)
            weight_map[native] = f"{name}{ways.get(tensor.kind, '')}"
        return weight_map

    depthwise = ": o 1 {space} -> {space} 1 o"


class Keras(ChannelsLast, KerasAdapter):
    depthwise = ": o 1 {space} -> {space} o 1"
    names = {
        **dict.fromkeys(("conv", "depthwise", "dense", "eca"), "kernel"),
        "norm_scale": "gamma",
        "norm_bias": "beta",
        "norm_mean": "moving_mean",
        "norm_var": "moving_variance",
        "dense_bias": "bias",
    }

    def native(self, modules: Sequence[str], name: str, kind: str) -> str:
        return f"{'_'.join(modules)}/{name}"

    def build(self, config: Config) -> Any:
        import eca_multi.keras as package

        return getattr(package, find(config["network"]).name)(**options(config))


class Flax(ChannelsLast):
    names = {
        **dict.fromkeys(("conv", "depthwise", "dense", "eca"), "kernel"),
        **dict.fromkeys(("norm_bias", "dense_bias"), "bias"),
        "norm_scale": "scale",
        "norm_mean": "mean",
        "norm_var": "var",
    }


class Linen(Flax, LinenAdapter):
    def native(self, modules: Sequence[str], name: str, kind: str) -> str:
        return "/".join(("batch_stats" if kind in STATISTICS else "params", *modules, name))

    def build(self, config: Config) -> Any:
        import eca_multi.flax.linen as package

        return getattr(package, find(config["network"]).name)(**options(config), param_dtype=config["param_dtype"])

    def call(self, layer: Any, inputs: Mapping[str, Any], config: Config) -> Any:
        return layer(inputs["x"], train=config["training"])


class Nnx(Flax, NnxAdapter):
    def native(self, modules: Sequence[str], name: str, kind: str) -> str:
        return ".".join((*modules, name))

    def weights_for(self, config: Config) -> dict[str, str | None]:
        weight_map = super().weights_for(config)
        if config["classes"] and find(config["network"]).dropout:
            weight_map |= dict.fromkeys(("dropout.rngs.count", "dropout.rngs.key"))
        return weight_map

    def build(self, config: Config) -> Any:
        from flax import nnx

        import eca_multi.flax.nnx as package

        build = getattr(package, find(config["network"]).name)
        return build(**options(config), param_dtype=config["param_dtype"], rngs=nnx.Rngs(0))


def _of_the_batch(model: Any) -> None:
    """Have the normalisations of a torch model keep the variance of the batch."""
    from torch import nn

    from .batch_norm import biased

    for module in model.modules():
        for kind in (nn.BatchNorm1d, nn.BatchNorm2d):
            if type(module) is kind:
                module.__class__ = biased(kind.__name__)


def _case(name: str, network: str, why: str, **config: Any) -> Case:
    defaults = {"classes": 10, "dims": 2, "features": False, "training": False, "N": 2, "C": 3, "H": 32}
    config = {"network": network, **defaults, **config}
    size, axes = config["H"], "HW"[: config["dims"]]
    config |= {**dict.fromkeys(axes, size), "K": config["classes"] or find(network).width}
    outputs = {"logits": "N K"}
    if config["features"]:
        outputs = {}
        for i, feature in enumerate(find(network).features):
            sizes = {f"C{i}": feature.channels, **{f"{axis}{i}": size // feature.stride for axis in axes}}
            config |= sizes
            outputs[f"features{i}"] = " ".join(("N", *sizes))
    tensors = listed(config)
    weights = {name: tensor.shape for name, tensor in tensors.items() if tensor.kind not in STATISTICS}
    state = {name: tensor.shape for name, tensor in tensors.items() if tensor.kind in STATISTICS}
    inputs = {"x": " ".join(("N", "C", *axes))}
    return Case(name, why, config, inputs, weights, outputs, state, network_data)


def cases(network: str, **config: Any) -> Iterator[Case]:
    """Yield the four cases of a network."""
    name = network.replace("_", "-") + ("-1d" if config.get("dims") == 1 else "")
    training = {"training": True, "N": 6}
    ending = {} if not find(network).dropout else {"classes": 0}
    features = {"features": True, "classes": 0}
    yield _case(name, network, "logits at inference", **config)
    yield _case(f"{name}-features", network, "the feature maps of every stage", **config, **features)
    yield _case(f"{name}-training", network, "by the batch's statistics", **config, **training, **ending)
    both = {**features, **training}
    yield _case(f"{name}-features-training", network, "every stage by the batch's statistics", **config, **both)


SPEC = Spec(
    "Networks",
    layout="N C H W",
    weights={},
    inputs={},
    outputs={},
    runners={"torch": Runner("torch", Torch, slow=("compiled",)), "keras": Keras, "linen": Linen, "nnx": Nnx},
    reference=Torch,
    dtypes=("float32",),
    cases=(*cases("eca_resnet18"), *cases("eca_resnet50"), *cases("eca_mobilenet_v2")),
)
ALL = replace(
    SPEC,
    name="All networks",
    cases=(*(case for network in NETWORKS for case in cases(network)), *cases("eca_resnet18", dims=1, H=128)),
)
