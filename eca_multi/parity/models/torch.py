"""A torch nn.Module of the caller, with the weights that it has."""

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from eca_multi.parity.define.dtypes import DTYPES
from eca_multi.parity.define.structures import host, leaves, rebuilt
from eca_multi.parity.engines.torch import gradients

from .calls import Ended, Given, Recorder
from .mode import keywords_for, may_say, training_of, with_mode
from .model import Arrays, Model, Native, Run, arguments_of, outputs_of, signature_of

# Their forward reads `training` for a check alone: what depends on the mode is in submodules.
_CHECKS_ALONE = (torch.nn.TransformerEncoderLayer, torch.nn.TransformerEncoder)

_OPERATIONS = {
    "Linear": "linear",
    "LayerNorm": "layer_norm",
    "BatchNorm": "batch_norm",
    "GroupNorm": "group_norm",
    **{f"ConvTranspose{n}d": f"conv_transpose{n}d" for n in (1, 2, 3)},
}


class TorchModel(Model):
    @property
    def framework(self) -> str:
        return "torch"

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module
        self._copies: dict[str, torch.nn.Module] = {}

    def weights(self) -> dict[str, np.ndarray]:
        return {name: np.array(host(tensor)) for name, tensor in self.tensors(self.module).items()}

    def trained(self) -> frozenset[str]:
        return frozenset(name for name, tensor in self.tensors(self.module).items() if tensor.requires_grad)

    def with_weights(self, weights: Arrays) -> "TorchModel":
        module = copy.deepcopy(self.module)
        tensors = self.tensors(module)
        with torch.no_grad():
            for name, array in weights.items():
                tensors[name].copy_(_tensor(array))
        return TorchModel(module)

    def in_mode(self, training: bool) -> "TorchModel":
        return TorchModel(copy.deepcopy(self.module).train(training))

    @property
    def name(self) -> str:
        return f"{type(self.module).__name__} (torch)"

    @property
    def training(self) -> str:
        for path, part in self.module.named_modules():
            if part.training and _depends_on_mode(part):
                return f"{path or 'the model'} ({type(part).__name__})"
        return ""

    @property
    def shared(self) -> dict[str, str]:
        first: dict[int, str] = {}
        paths = {name: first.setdefault(id(tensor), name) for name, tensor in self.tensors(self.module).items()}
        return {name: other for name, other in paths.items() if name != other}

    @property
    def takes(self) -> str:
        return signature_of(self.module.forward)

    @property
    def devices(self) -> frozenset[str]:
        kinds = {tensor.device.type for tensor in self.tensors(self.module).values()}
        return frozenset("gpu" if kind == "cuda" else kind for kind in kinds) or frozenset({"cpu"})

    def operation(self, weight: str) -> str:
        """Return the operation of the module that holds the weight, which PyTorch names alike."""
        kind = type(self.module.get_submodule(weight.rpartition(".")[0])).__name__
        name = re.sub(r"Norm\dd$", "Norm", kind)
        return _OPERATIONS.get(name, name.lower() if name.startswith("Conv") else "")

    def native_run(
        self,
        inputs: Any,
        dtype: str,
        cotangents: Arrays | None = None,
        record: bool = False,
        given: Given | None = None,
    ) -> Run:
        module = self.in_dtype(dtype)
        device = next((t.device for t in self.tensors(module).values()), torch.device("cpu"))
        entered = {name: _input(array, dtype, device) for name, array in leaves("x", inputs).items()}
        differentiated = cotangents is not None
        before = {name: tensor.clone() for name, tensor in entered.items()}
        start = dict(entered)
        if differentiated:
            for tensor in start.values():
                tensor.requires_grad_(tensor.is_floating_point())
            entered = {name: tensor.clone() for name, tensor in start.items()}  # a model may write into what it gets
        kept: dict[Any, torch.Tensor] = {}

        def keep(key: tuple[str, int], name: str, tensor: torch.Tensor) -> torch.Tensor:
            kept[key, name] = tensor.clone()  # the module may go on with what it returns, which has another gradient
            return kept[key, name].clone()  # the next module may write into what it gets

        recorder = Recorder(keep, given, _like, lambda tensor: tensor.detach().clone()) if record or given else None
        outputs: Native = {}
        graded = torch.set_grad_enabled(differentiated)
        with self._unchanged(module) as held:  # until the end of the backward pass, which reads buffers
            with self.heard(module, recorder), graded, suppress(Ended):
                outputs = outputs_of(self.call(module, rebuilt("x", inputs, entered)))
            changed = tuple(name for name, tensor in entered.items() if not _same(tensor.detach(), before[name]))
            states = (
                {}
                if given
                else {n: t.detach().clone() for n, t in self.states(module).items() if _moved(t, held.get(n))}
            )
            run = Run(outputs, calls=tuple(recorder.calls) if recorder else (), changed=changed, states=states)
            if cotangents is None or given is not None:
                return run
            return self._differentiated(module, start, run, cotangents, kept)

    def _differentiated(
        self, module: torch.nn.Module, entered: Native, run: Run, cotangents: Arrays, kept: Mapping[Any, torch.Tensor]
    ) -> Run:
        """Add the gradients to a run, those that arrive at the outputs of submodules too."""
        weights = self.tensors(module)
        heads = {name: t for name, t in run.outputs.items() if t.requires_grad and name in cotangents}
        every_leaf = {
            **{("x", name): t for name, t in entered.items() if t.requires_grad},
            **{("w", name): t for name, t in weights.items() if t.requires_grad},
            **{key: t for key, t in kept.items() if t.requires_grad},
        }
        drawn = [_tensor(cotangents[name]).to(t.device, t.dtype) for name, t in heads.items()]
        every = dict(zip(every_leaf, gradients(list(heads.values()), list(every_leaf.values()), drawn), strict=True))
        of_calls = tuple(
            replace(call, gradients={n: every[call.key, n] for n in call.outputs if (call.key, n) in every})
            for call in run.calls
        )
        by_kind = {kind: {name: g for (k, name), g in every.items() if k == kind} for kind in ("x", "w")}
        return replace(run, input_gradients=by_kind["x"], weight_gradients=by_kind["w"], calls=of_calls)

    def call(self, module: torch.nn.Module, inputs: Any) -> Any:
        arguments, keywords = arguments_of(inputs)
        return module(*arguments, **keywords)

    def heard(self, module: torch.nn.Module, recorder: Recorder | None) -> AbstractContextManager[None]:
        return _heard(module, recorder)

    def in_dtype(self, dtype: str) -> torch.nn.Module:
        """Return a copy of the module with floats of a dtype; those of float64 hold the values that the module has."""
        if dtype not in self._copies:
            self._copies[dtype] = copy.deepcopy(self.module).to(getattr(torch, dtype))
        return self._copies[dtype]

    def to_numpy(self, tensor: torch.Tensor) -> np.ndarray:
        return np.array(host(tensor.resolve_conj()))

    def tensors(self, module: torch.nn.Module) -> dict[str, torch.Tensor]:
        """Return a module's weights and states by path."""
        return {n: t for n, t in module.state_dict(keep_vars=True).items() if isinstance(t, torch.Tensor)}

    def states(self, module: torch.nn.Module) -> dict[str, torch.Tensor]:
        """Return what a call in training mode may change."""
        return dict(module.named_buffers())

    @contextmanager
    def _unchanged(self, module: torch.nn.Module) -> Iterator[dict[str, torch.Tensor]]:
        """Put states back to what they were before a call, and give those."""
        before = {name: buffer.detach().clone() for name, buffer in self.states(module).items()}
        try:
            yield before
        finally:
            with torch.no_grad():
                for name, buffer in self.states(module).items():
                    if name in before:
                        buffer.copy_(before[name])


class TorchFunction(TorchModel):
    """A function with parameters in torch tensors."""

    def operation(self, weight: str) -> str:
        return ""

    def __init__(self, function: Callable[..., Any], parameters: Any, keywords: Mapping[str, Any]) -> None:
        super().__init__(_Held(function, parameters, keywords))

    @property
    def _held(self) -> "_Held":
        if not isinstance(self.module, _Held):
            raise TypeError("the module of a function must be the one that holds it")
        return self.module

    def in_mode(self, training: bool) -> "TorchFunction":
        held = copy.copy(self._held)
        held.keywords = with_mode(self.name, held.keywords, keywords_for(held.function, training), training)
        changed = copy.copy(self)
        changed.module, changed._copies = held, {}
        return changed

    @property
    def takes(self) -> str:
        return signature_of(self._held.function, 1)

    @property
    def training(self) -> str:
        return training_of(self._held.keywords)

    @property
    def keywords_alone_say(self) -> bool:
        return may_say(self._held.keywords)

    @property
    def name(self) -> str:
        return f"{getattr(self.module.function, '__name__', 'function')} (torch)"

    def with_weights(self, weights: Arrays) -> "TorchFunction":
        changed = copy.copy(self)
        changed.module, changed._copies = super().with_weights(weights).module, {}
        return changed

    def tensors(self, module: torch.nn.Module) -> dict[str, torch.Tensor]:
        places: dict[str, str] = vars(self.module)["places"]
        return {path: module.get_parameter(place) for path, place in places.items()}


class _Held(torch.nn.Module):
    """A function as a module, which holds the parameters under names that torch allows."""

    def __init__(self, function: Callable[..., Any], parameters: Any, keywords: Mapping[str, Any]) -> None:
        super().__init__()
        self.function, self.parameters_, self.keywords = function, parameters, dict(keywords)
        self.places: dict[str, str] = {}
        for number, (path, tensor) in enumerate(leaves("w", parameters).items()):
            self.places[path] = f"_{number}"
            own = torch.as_tensor(tensor).detach().clone()
            self.register_parameter(f"_{number}", torch.nn.Parameter(own, own.is_floating_point()))

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        held = {path: getattr(self, place) for path, place in self.places.items()}
        return self.function(rebuilt("w", self.parameters_, held), *arguments, **{**self.keywords, **keywords})


@contextmanager
def _heard(module: torch.nn.Module, recorder: Recorder | None) -> Iterator[None]:
    """Let a recorder hear the calls of all modules inside this one, and its own."""
    fast = torch.backends.mha.get_fastpath_enabled()
    if recorder is not None:  # one kernel for a whole encoder layer would call none of its modules
        torch.backends.mha.set_fastpath_enabled(False)
    parts: dict[str, Any] = dict(module.named_modules()) if recorder else {}
    own = {path: vars(part).get("forward") for path, part in parts.items()}  # some tools give a module one of its own
    for path, part in parts.items():
        part.forward = partial(_forward, recorder, path, type(part).__name__, part.forward)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for path, part in parts.items():
            del part.forward
            if own[path] is not None:
                part.forward = own[path]


def _forward(recorder: Recorder | None, path: str, kind: str, forward: Any, *arguments: Any, **keywords: Any) -> Any:
    if recorder is None:
        return forward(*arguments, **keywords)
    return recorder.call(path, kind, forward, arguments, keywords)


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and bool(((one == other) | ((one != one) & (other != other))).all())


def _moved(state: torch.Tensor, before: torch.Tensor | None) -> bool:
    return state.is_floating_point() and (before is None or not _same(state.detach(), before))


def _depends_on_mode(part: torch.nn.Module) -> bool:
    code = getattr(type(part).forward, "__code__", None)
    if code is None or "training" not in code.co_names or isinstance(part, _CHECKS_ALONE):
        return False
    rate = getattr(part, "p", getattr(part, "dropout", None))
    return not isinstance(rate, (int, float)) or rate > 0


def _input(value: Any, dtype: str, device: torch.device) -> torch.Tensor:
    tensor = _tensor(value).to(device)
    return tensor.to(getattr(torch, dtype)) if tensor.is_floating_point() else tensor


def _tensor(value: Any) -> torch.Tensor:
    """Copy an array, since a module may write into its arguments."""
    array = host(value)
    if array.dtype == DTYPES["bfloat16"]:
        return torch.from_numpy(array.astype(np.float32)).bfloat16()
    return torch.from_numpy(np.array(array, order="C"))


def _like(value: Any, like: Any) -> torch.Tensor:
    tensor = value if isinstance(value, torch.Tensor) else _tensor(value)
    tensor = tensor.to(like.device, like.dtype)
    return tensor.detach().requires_grad_(tensor.is_floating_point())  # which tells an input from what is computed
