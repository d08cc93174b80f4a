"""ECA in every framework of this package, against the NumPy oracle with its analytic budget."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest import mock

from eca_multi.parity.define import adapters
from eca_multi.parity.define.job import Job
from eca_multi.parity.define.spec import Spec, Training
from eca_multi.parity.define.taps import tap

from ._eca_cases import CASES, OPTIONS, SIZES
from ._eca_oracle import Solved, solve

Config = Mapping[str, Any]
Tensors = Mapping[str, Any]


class _Eca:
    """The common half of the adapters. The channels lie at the framework's place, and in one case at the other."""

    layout: str | None = "N*C"
    native: tuple[str, str, str]  # the weight's name, and its axes with one kernel and with one per channel

    def layout_for(self, config: Config) -> str:
        usual, other = ("NC*", "N*C") if self.layout == "NC*" else ("N*C", "NC*")
        return usual if config["channels"] == "usual" else other

    def options(self, config: Config) -> dict[str, Any]:
        """Return the options that all frameworks share. The specification counts axes with the channels at axis 1."""
        options = {name: config[name] for name in ("padding", "gate")}
        shift = 0 if self.layout_for(config) == "NC*" else 1
        # A bundle of an earlier version has neither.
        if (pool_axes := config.get("pool_axes")) is not None:
            options["pool_axes"] = tuple(axis - shift for axis in pool_axes)
        if (causal_axis := config.get("causal_axis")) is not None:
            options["causal_axis"] = causal_axis - shift
        return options

    def axis(self, config: Config) -> int:
        return 1 if self.layout_for(config) == "NC*" else -1

    def weights_for(self, config: Config) -> dict[str, str | None]:
        name, shared, per_channel = self.native
        return {name: f"w: k -> {shared}" if config["shared"] else f"w: C k -> {per_channel}"}

    def call(self, layer: Any, inputs: Tensors, config: Config) -> Any:
        return layer(inputs["x"], **_beside_x(inputs))


class _EcaOnJax(_Eca):
    def tapping(self) -> AbstractContextManager[Any]:
        from eca_multi.jax import functional

        return _tapping(functional)


class Torch(_Eca, adapters.TorchAdapter):
    layout = "NC*"
    native = "conv.weight", "1 1 k", "C 1 k"

    def build(self, config: Config) -> Any:
        from eca_multi.torch import ECA

        return ECA(
            config["C"], config["k"], shared=config["shared"], channel_axis=self.axis(config), **self.options(config)
        )

    @contextmanager
    def tapping(self) -> Iterator[None]:
        from eca_multi.torch import _tensor_lines as lines
        from eca_multi.torch import functional

        gate = lines.named_gate
        seams: dict[str, Any] = {
            "convolve": _tapped(lines.convolve),
            "named_gate": lambda name, z: tap("gate", gate(name, z)),
        }
        # Not eager: an operation of our own does several steps in one, and has no seams.
        with mock.patch.multiple(lines, **seams), mock.patch.multiple(functional, is_eager=lambda x, weight: False):
            yield


class Keras(_Eca, adapters.KerasAdapter):
    native = "kernel", "k 1 1", "k 1 C"

    def build(self, config: Config) -> Any:
        from eca_multi.keras import ECA

        data_format = "channels_first" if self.axis(config) == 1 else "channels_last"
        return ECA(config["k"], shared=config["shared"], data_format=data_format, **self.options(config))

    def tapping(self) -> AbstractContextManager[Any]:
        from eca_multi.keras import functional

        return _tapping(functional, is_faster=lambda *_: False)


class Linen(_EcaOnJax, adapters.LinenAdapter):
    native = "params/kernel", "k 1 1", "k 1 C"

    def build(self, config: Config) -> Any:
        from eca_multi.flax.linen import ECA

        return ECA(config["k"], shared=config["shared"], channel_axis=self.axis(config), **self.options(config))


class Nnx(_EcaOnJax, adapters.NnxAdapter):
    native = "kernel", "k 1 1", "k 1 C"

    def build(self, config: Config) -> Any:
        from flax import nnx

        from eca_multi.flax.nnx import ECA

        options = {**self.options(config), "channel_axis": self.axis(config), "rngs": nnx.Rngs(0)}
        return ECA(config["C"], config["k"], shared=config["shared"], **options)


class Jax(_EcaOnJax, adapters.JaxAdapter):
    native = "w", "k 1 1", "k 1 C"

    def build(self, config: Config) -> Any:
        from eca_multi.jax import eca

        options = {**self.options(config), "channel_axis": self.axis(config)}
        return lambda inputs, weights: eca(inputs["x"], weights["w"], **_beside_x(inputs), **options)


class Oracle(adapters.NumpyAdapter):
    """The reference, with the error analysis of each stage."""

    def solve(self, job: Job) -> Solved:
        return solve(job)


def _beside_x(inputs: Tensors) -> Tensors:
    return {name: inputs[name] for name in ("mask", "residual") if name in inputs}


def _tapped(convolve: Callable[..., Any]) -> Callable[..., Any]:
    def tapped(pooled: Any, *arguments: Any) -> Any:
        return tap("conv", convolve(tap("pooled", pooled), *arguments))

    return tapped


def _tapping(functional: Any, **others: Any) -> AbstractContextManager[Any]:
    """Tap a framework's own function at its two seams: the convolution of the means, and the gate."""
    gates = {name: lambda z, gate=gate: tap("gate", gate(z)) for name, gate in functional.GATES.items()}
    return mock.patch.multiple(functional, _convolve=_tapped(functional._convolve), GATES=gates, **others)


SPEC = Spec(
    "ECA",
    layout="NCHW",
    weights={"w": "k"},
    config={**SIZES, **OPTIONS},
    taps=("pooled", "conv", "gate"),
    runners={"torch": Torch, "keras": Keras, "linen": Linen, "nnx": Nnx, "jax": Jax},
    reference=Oracle,
    cases=CASES,
    strict=True,
    training=Training(
        steps=10, optimizer="momentum", rate=1e-3, cases=("offsets", "circular", "per-channel", "padded-sequences")
    ),
)
