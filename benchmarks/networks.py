"""ResNet-50 plain, with squeeze-and-excitation and with ECA, in each framework: parameters, MACs, memory, throughput.

Each framework runs in a process of its own. The three variants take turns in every round, so that whatever else the
machine does meets all of them; what is reported is the median over the rounds, and the ratio to the plain network as
the median of the ratios within a round. Memory is the largest resident set of a process that makes one training step,
over that before the step, one process for each variant.

    python benchmarks/networks.py [--runner torch ...] [--batch 8] [--size 128] [--rounds 5]

prints the table of docs/networks.md.
"""

import argparse
import contextlib
import json
import math
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from eca_multi.networks import find, macs, tensors

RUNNERS = ("torch", "keras-tensorflow", "keras-jax", "keras-torch", "linen", "nnx")
VARIANTS = ("plain", "se", "eca")
REDUCTION = 16  # of squeeze-and-excitation, as in its paper
Step = Callable[[], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--runner", action="append", choices=RUNNERS)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print("result", json.dumps(child(json.loads(asked.child))))
        return
    print(
        f"batch {asked.batch}, {asked.size} x {asked.size}, {os.cpu_count()} cores, medians of {asked.rounds} rounds\n"
    )
    print(
        "| | | parameters | MMACs | inference, images/s | to plain | training, images/s | to plain | step memory, MiB |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for runner in asked.runner or RUNNERS:
        shared = {"runner": runner, "batch": asked.batch, "size": asked.size, "rounds": asked.rounds}
        speed = run_child({**shared, "variants": VARIANTS})
        for variant in VARIANTS:
            memory = run_child({**shared, "variants": [variant], "rounds": 0})["memory"]
            print(row(runner, variant, asked.batch, asked.size, speed, memory), flush=True)


def run_child(request: dict[str, Any]) -> Any:
    backend = request["runner"].removeprefix("keras-")
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, __file__, "--child", json.dumps(request)]
    said = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(next(line for line in said.splitlines() if line.startswith("result "))[7:])


def row(runner: str, variant: str, batch: int, size: int, speed: Any, memory: float) -> str:
    count, work = speed["parameters"][variant], multiplications(variant, size) / 1e6
    cells = [runner if variant == "plain" else "", variant, f"{count:,}", f"{work:.1f}"]
    for kind in ("inference", "training"):
        seconds, plain = speed[kind][variant], speed[kind]["plain"]
        ratio = statistics.median(p / s for p, s in zip(plain, seconds, strict=True))
        cells += [f"{batch / statistics.median(seconds):.1f}", f"{ratio:.2f}"]
    return f"| {' | '.join([*cells, f'{memory:.0f}'])} |"


def multiplications(variant: str, size: int) -> int:
    """Multiply-accumulates of convolutions, attention and classifier for one image."""
    network = find("eca_resnet50")
    widths = [block.convs[-1].outputs for block in network.blocks]
    sizes = tensors(network)
    attention = {
        "plain": 0,
        "se": sum(2 * width**2 // REDUCTION for width in widths),
        "eca": sum(w * sizes[f"{b.eca}.weight"].shape[-1] for w, b in zip(widths, network.blocks, strict=True)),
    }
    return macs(network, size, num_classes=10) + attention[variant]


# --- in the process of a framework


def child(request: dict[str, Any]) -> Any:
    module = {"torch": torch_network, "linen": linen_network, "nnx": nnx_network}
    make = module.get(request["runner"], keras_network)
    x = np.random.default_rng(0).normal(size=(request["batch"], request["size"], request["size"], 3))
    labels = np.arange(request["batch"]) % 10
    made = {variant: make(variant, x.astype(np.float32), labels) for variant in request["variants"]}
    if not request["rounds"]:
        Path("/proc/self/clear_refs").write_text("5")  # the largest resident set is counted from here
        before = resident("VmRSS")
        next(iter(made.values()))[2]()
        return {"memory": resident("VmHWM") - before}
    result: dict[str, Any] = {"parameters": {variant: parts[0] for variant, parts in made.items()}}
    for kind, place in (("inference", 1), ("training", 2)):
        times: dict[str, list[float]] = {variant: [] for variant in made}
        for turn in range(request["rounds"] + 1):
            for variant, parts in made.items():
                start = time.perf_counter()
                parts[place]()
                if turn:  # the first one compiles
                    times[variant].append(time.perf_counter() - start)
        result[kind] = times
    return result


def resident(field: str) -> float:
    """MiB of the resident set now (VmRSS), or its largest yet (VmHWM)."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else float("nan")


@contextlib.contextmanager
def attention(framework: str, layer: Any) -> Iterator[None]:
    """Build networks with this in the place of their ECA."""
    with mock.patch(f"eca_multi.{framework}._blocks.ECA", layer) if layer else contextlib.nullcontext():
        yield


def torch_network(variant: str, x: np.ndarray, labels: np.ndarray) -> tuple[int, Step, Step]:
    import torch
    from torch import nn

    from eca_multi.torch import eca_resnet50

    class SE(nn.Module):
        def __init__(self, channels: int, *_: Any, **factory: Any) -> None:
            super().__init__()
            self.reduce = nn.Linear(channels, channels // REDUCTION, **factory)
            self.expand = nn.Linear(channels // REDUCTION, channels, **factory)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            gate = torch.sigmoid(self.expand(torch.relu(self.reduce(x.mean((2, 3))))))
            return x * gate[:, :, None, None]

    def identity(*_: Any, **__: Any) -> nn.Module:
        return nn.Identity()

    with attention("torch", {"plain": identity, "se": SE, "eca": None}[variant]):
        model = eca_resnet50(num_classes=10)
    images, targets = torch.from_numpy(x).movedim(-1, 1).contiguous(), torch.from_numpy(labels)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)

    def infer() -> None:
        model.eval()
        with torch.inference_mode():
            model(images)

    def train() -> None:
        model.train()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), targets).backward()
        optimizer.step()

    return sum(parameter.numel() for parameter in model.parameters()), infer, train


def keras_network(variant: str, x: np.ndarray, labels: np.ndarray) -> tuple[int, Step, Step]:
    import keras
    from keras import layers

    from eca_multi.keras import eca_resnet50

    def identity(*_: Any, **__: Any) -> Any:
        return lambda x: x

    def squeeze_excite(*_: Any, name: str, **__: Any) -> Any:
        def call(x: Any) -> Any:
            channels = x.shape[-1]
            pooled = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_pool")(x)
            hidden = layers.Dense(channels // REDUCTION, "relu", name=f"{name}_reduce")(pooled)
            return layers.Multiply(name=name)([x, layers.Dense(channels, "sigmoid", name=f"{name}_expand")(hidden)])

        return call

    with attention("keras", {"plain": identity, "se": squeeze_excite, "eca": None}[variant]):
        model = eca_resnet50(num_classes=10)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01), loss, jit_compile=keras.backend.backend() != "torch")
    count = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    return count, lambda: model.predict_on_batch(x), lambda: model.train_on_batch(x, labels)


def linen_network(variant: str, x: np.ndarray, labels: np.ndarray) -> tuple[int, Step, Step]:
    import jax
    import optax
    from flax import linen as nn

    from eca_multi.flax.linen import eca_resnet50

    class Plain(nn.Module):
        kernel_size: int = 0
        dtype: Any = None
        param_dtype: Any = None

        def __call__(self, x: jax.Array) -> jax.Array:
            return x

    class SE(Plain):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            hidden = nn.relu(nn.Dense(x.shape[-1] // REDUCTION)(x.mean((1, 2), keepdims=True)))
            return x * nn.sigmoid(nn.Dense(x.shape[-1])(hidden))

    patch = attention("flax.linen", {"plain": Plain, "se": SE, "eca": None}[variant])
    model = eca_resnet50(num_classes=10)
    with patch:
        variables = dict(jax.jit(model.init)(jax.random.key(0), x))

        def loss(params: Any, stats: Any) -> Any:
            logits, new = model.apply({"params": params, "batch_stats": stats}, x, train=True, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), new["batch_stats"]

        def step(params: Any, stats: Any) -> tuple[Any, Any]:
            grads, stats = jax.grad(loss, has_aux=True)(params, stats)
            return jax.tree.map(lambda p, g: p - 0.01 * g, params, grads), stats

        inference = jax.jit(model.apply).lower(variables, x).compile()
        training = jax.jit(step, donate_argnums=(0, 1))
        training = training.lower(variables["params"], variables["batch_stats"]).compile()

    def train() -> None:
        both = training(variables["params"], variables["batch_stats"])
        variables["params"], variables["batch_stats"] = jax.block_until_ready(both)

    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    return count, lambda: jax.block_until_ready(inference(variables, x)), train


def nnx_network(variant: str, x: np.ndarray, labels: np.ndarray) -> tuple[int, Step, Step]:
    import jax
    import optax
    from flax import nnx

    from eca_multi.flax.nnx import eca_resnet50

    class SE(nnx.Module):
        def __init__(self, channels: int, *_: Any, rngs: nnx.Rngs, **__: Any) -> None:
            self.reduce = nnx.Linear(channels, channels // REDUCTION, rngs=rngs)
            self.expand = nnx.Linear(channels // REDUCTION, channels, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return x * nnx.sigmoid(self.expand(nnx.relu(self.reduce(x.mean((1, 2), keepdims=True)))))

    class Plain(nnx.Module):
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def __call__(self, x: jax.Array) -> jax.Array:
            return x

    with attention("flax.nnx", {"plain": Plain, "se": SE, "eca": None}[variant]):
        model = eca_resnet50(num_classes=10, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.sgd(0.01), wrt=nnx.Param)
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))

    @nnx.jit
    def step(model: Any, optimizer: Any) -> None:
        def loss(model: Any) -> Any:
            return optax.softmax_cross_entropy_with_integer_labels(model(x), labels).mean()

        optimizer.update(model, nnx.grad(loss)(model))

    inference = nnx.jit(lambda model: model(x))

    def infer() -> None:
        model.eval()
        jax.block_until_ready(inference(model))

    def train() -> None:
        model.train()
        step(model, optimizer)
        jax.block_until_ready(nnx.state(model, nnx.Param))

    return count, infer, train


if __name__ == "__main__":
    main()
