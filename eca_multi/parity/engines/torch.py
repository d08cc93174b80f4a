"""The engine for PyTorch: eager, compiled by inductor, and in float64 as the reference."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch

from eca_multi.parity.define.adapters import Adapter
from eca_multi.parity.define.job import Job, is_float
from eca_multi.parity.define.maps import WeightMap
from eca_multi.parity.define.runners import has_compiler
from eca_multi.parity.define.taps import Recorder
from eca_multi.parity.define.tensor import Cotangent, Tensor

from ._private_torch import compile_counters
from .base import Computed, Engine, Native, Result, Unsupported, attempt, no_sublayer, tap_output
from .weight_map import check_trained, function_weights, map_of, native_weights

Call = tuple[Callable[..., Any], Any, dict[str, torch.Tensor], dict[str, Any]]
Forward = Callable[[list[Call]], list[Any]]


def forward(calls: list[Call]) -> list[Any]:
    return [call(layer, inputs, config) for call, layer, inputs, config in calls]


class Function(torch.nn.Module):
    """A function of (inputs, weights) as a module that holds the weights, whatever their names."""

    def __init__(
        self, function: Callable[..., Any], weights: Mapping[str, np.ndarray], state: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.function = function
        self.places = {name: f"_{number}" for number, name in enumerate(weights)}
        for name, array in weights.items():
            if name in state:
                self.register_buffer(self.places[name], torch.zeros_like(_tensor(array)))
            else:
                self.register_parameter(self.places[name], torch.nn.Parameter(torch.zeros(array.shape)))

    def held(self) -> Native:
        return {name: getattr(self, place) for name, place in self.places.items()}

    def forward(self, inputs: Mapping[str, torch.Tensor]) -> Any:
        return self.function(inputs, self.held())

    @staticmethod
    def call(layer: Callable[..., Any], inputs: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> Any:
        return layer(inputs)


class TorchEngine(Engine):
    distributions: tuple[str, ...] = ("torch",)
    probes = "torch"
    optimizers = "optimizer_torch"

    def __init__(self, adapter: Adapter) -> None:
        super().__init__(adapter)
        self._layers: dict[object, torch.nn.Module] = {}
        self._first: dict[object, Native] = {}  # what the map leaves out, as it was built

    def compute(self, job: Job) -> Computed:
        return self.compute_together([job], _compiled() if job.compiled else forward)[0]

    def compute_together(self, jobs: list[Job], forward: Forward) -> list[Computed]:
        """Run several jobs as one graph, forwards and backwards."""
        loaded = [self.load(job) for job in jobs]
        calls = [
            (layer.call if isinstance(layer, Function) else self.adapter.call, layer, self.tensors(job), job.settings())
            for job, (layer, _, _) in zip(jobs, loaded, strict=True)
        ]
        taps: Native = {}
        with self.listening(self.recorder(jobs[0], taps)), self.precision(jobs[0]):
            returned = forward(calls)
        results = []
        for job, values, call, (_, weight_map, native) in zip(jobs, returned, calls, loaded, strict=True):
            state = {n: native[n].detach().clone() for n in weight_map.holding(job.state)}
            results.append(Computed(self.named_outputs(job, values), weight_map, state, taps=taps))
            if job.gradients:
                self.differentiate(job, call[2], native, results[-1])
        if jobs[0].compiled and not compile_counters()["stats"]["unique_graphs"]:
            raise RuntimeError("torch.compile compiled nothing and ran eagerly")
        return results

    def differentiate(self, job: Job, inputs: dict[str, torch.Tensor], native: Native, computed: Computed) -> None:
        """Add the gradients to the results of a forward pass."""
        weights = {n: native[n] for n in computed.weight_map.holding(job.weights)}
        tensors = {n: t for n, t in computed.outputs.items() if n in job.outputs and isinstance(t, torch.Tensor)}
        inputs, heads, taps = (
            {name: tensor for name, tensor in group.items() if tensor.requires_grad}
            for group in (inputs, tensors, computed.taps)
        )
        groups = (inputs, weights, taps)
        leaves = [tensor for group in groups for tensor in group.values()]
        for cotangent in Cotangent:
            cotangents = [self.cotangent(job, name, head, cotangent) for name, head in heads.items()]
            grads = iter(gradients(list(heads.values()), leaves, cotangents))
            by_input, by_weight, by_tap = ({name: next(grads) for name in group} for group in groups)
            computed.input_grads[cotangent], computed.weight_grads[cotangent] = by_input, by_weight
            if cotangent is Cotangent.DRAWN:
                computed.tap_grads = by_tap

    def cotangent(self, job: Job, name: str, head: torch.Tensor, kind: Cotangent) -> torch.Tensor:
        if kind is Cotangent.ONES or name not in job.cotangents:
            return torch.ones_like(head)
        cotangent = _tensor(self.to_layout(job, name)(job.cotangents[name]))
        # An output of a wrong shape gets a verdict, so differentiating it must not raise.
        return cotangent.to(head.dtype) if cotangent.shape == head.shape else torch.ones_like(head)

    def load(self, job: Job) -> tuple[torch.nn.Module, WeightMap, Native]:
        """Return a layer with the job's weights in it, and its parameters and buffers by name."""
        key = job.structure
        if key not in self._layers:
            self._layers[key] = self.built(job)
        layer = self._layers[key]
        native = self.parameters(layer)
        weight_map = map_of(self.adapter, job, native)
        others = {n: t for n, t in native.items() if n not in weight_map.names and not t.requires_grad}
        first = self._first.setdefault(key, {name: tensor.detach().clone() for name, tensor in others.items()})
        with torch.no_grad():
            for name, array in native_weights(job, weight_map).items():
                native[name].copy_(_tensor(array))
            for name, tensor in others.items():  # a counter of batches, say, which the call before has changed
                tensor.copy_(first[name])
        self.check_loaded(job, weight_map, native)
        check_trained(self.adapter, job, weight_map, [name for name, tensor in native.items() if tensor.requires_grad])
        return layer, weight_map, native

    def built(self, job: Job) -> torch.nn.Module:
        settings = job.settings()
        layer = self.adapter.build(settings)
        if not isinstance(layer, torch.nn.Module):
            layer = Function(layer, function_weights(self.adapter, job), job.state)
        layer = layer.to(getattr(torch, job.parameters)).train(bool(settings.get("training", False)))
        for name, path in self.adapter.taps.items():
            if name in job.taps:
                try:
                    part = layer.get_submodule(path)
                except AttributeError as error:
                    raise no_sublayer(self.adapter, path, dict(layer.named_modules())) from error
                part.register_forward_hook(partial(_tapped, name))
        module: torch.nn.Module = layer
        return module

    def parameters(self, layer: Any) -> Native:
        """Return a layer's parameters and buffers by name."""
        if isinstance(layer, Function):
            return layer.held()
        return {**dict(layer.named_parameters()), **dict(layer.named_buffers())}

    def recorder(self, job: Job, taps: Native) -> Recorder | None:
        """Keep each tap's tensor, so that autograd can differentiate with respect to the tensor."""

        def record(name: str, value: torch.Tensor) -> torch.Tensor:
            taps[name] = value
            return value

        return record if job.taps else None

    def tensors(self, job: Job) -> dict[str, torch.Tensor]:
        tensors = {}
        for name, array in self.native_inputs(job).items():
            tensor = _tensor(array)
            tensors[name] = tensor.to(getattr(torch, job.dtype)).requires_grad_() if is_float(array) else tensor
        return tensors

    def precision(self, job: Job) -> AbstractContextManager[Any]:
        """Autocast where parameters and computation differ in dtype."""
        if job.parameters == job.dtype:
            return nullcontext()
        return torch.autocast("cpu", getattr(torch, job.dtype))

    def to_numpy(self, tensor: torch.Tensor) -> Tensor:
        detached = tensor.detach()
        wide = detached if detached.dtype == torch.float64 or not detached.is_floating_point() else detached.float()
        return Tensor(wide.cpu().numpy().copy(), str(tensor.dtype).removeprefix("torch."))

    def save_and_load(self, job: Job) -> Native:
        layer, _, _ = self.load(job)
        file = io.BytesIO()
        torch.save(layer.state_dict(), file)
        file.seek(0)
        fresh = self.built(job)
        fresh.load_state_dict(torch.load(file, weights_only=True))
        return self.parameters(fresh)

    def evaluate_all(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Result]]:
        """Run eager jobs one by one, and compile all structurally different jobs of a dtype as one graph.

        A graph for each job would spend minutes in the C++ compiler. Jobs that differ in their data alone take turns in
        the same place of the graph. If the whole graph fails, the engine compiles each job by itself, so that the fault
        has a name.
        """
        groups: dict[object, dict[object, list[int]]] = {}
        for number, job in enumerate(jobs):
            if not job.compiled:
                yield number, attempt(self.evaluate, job)
            else:
                groups.setdefault((job.dtype, job.param_dtype), {}).setdefault(job.structure, []).append(number)
        for places in groups.values():
            yield from self._graph(jobs, list(places.values()))

    def _graph(self, jobs: Sequence[Job], places: list[list[int]]) -> Iterator[tuple[int, Result]]:
        try:
            compiled = _compiled()
        except Unsupported as error:
            yield from ((number, error) for place in places for number in place)
            return
        for turn in range(max(map(len, places))):
            numbers = [place[min(turn, len(place) - 1)] for place in places]
            chosen = [jobs[number] for number in numbers]
            try:
                computed = self.compute_together(chosen, compiled)
                results: list[Result] = [self.collect(*pair) for pair in zip(chosen, computed, strict=True)]
            except Exception:
                results = [attempt(self.evaluate, job) for job in chosen]
            for place, number, result in zip(places, numbers, results, strict=True):
                if turn < len(place):
                    yield number, result


def _tensor(array: np.ndarray) -> torch.Tensor:
    """Copy an array, since a function may write into its arguments."""
    return torch.from_numpy(np.array(array, order="C"))


def _tapped(name: str, module: torch.nn.Module, inputs: Any, output: Any) -> Any:
    return tap_output(name, output)


def gradients(
    heads: list[torch.Tensor], leaves: list[torch.Tensor], cotangents: list[torch.Tensor]
) -> list[torch.Tensor]:
    """Differentiate; a leaf that no head depends on has gradient zero."""
    if not heads or not leaves:
        return [torch.zeros_like(leaf) for leaf in leaves]
    grads = torch.autograd.grad(heads, leaves, cotangents, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(leaf) if grad is None else grad for grad, leaf in zip(grads, leaves, strict=True)]


def _compiled() -> Forward:
    if not has_compiler():
        raise Unsupported("torch.compile needs a C++ compiler, and none was found; install g++ or set CXX")
    compile_counters().clear()
    torch.compiler.reset()  # torch runs a function eagerly after a number of graphs; a reset starts the count anew
    return torch.compile(forward, fullgraph=True, dynamic=False)
