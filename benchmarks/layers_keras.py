"""The Keras layer on each backend beside that framework's native layer: forward, and forward and backward.

Each is compiled as its users do: `jit_compile=True` and a graph on TensorFlow, `jax.jit`, eager torch (and, if asked
for, torch.compile). TensorFlow has no package of its own here: its native layer is ECA in TensorFlow's own operations,
with the precision of ours. A process for each backend; the two take turns in every round, and what is reported are the
medians of the ratios within a round.

    python benchmarks/layers_keras.py --out docs/measured       # layers-keras.json and a table; minutes
    python benchmarks/layers_keras.py --backend jax --shape 8,28,28,512
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _timing import interleave, ratio

from eca_multi import eca_kernel_size

SHAPES = ((1, 7, 7, 64), (32, 7, 7, 2048), (8, 28, 28, 512), (32, 56, 56, 256), (64, 112, 112, 64), (64, 4096, 256))
DTYPES = ("float32", "bfloat16")
BACKENDS = ("tensorflow", "jax", "torch")
HEADER = [
    "| backend | as | x | dtype | forward: Keras / native | quartiles | both: same | quartiles |",
    "|" + "---|" * 8,
]
Run = Callable[[], object]


class Mode(NamedTuple):
    """One way to run a layer: {"keras": ..., "native": ...} of the forward pass, and of forward and backward."""

    name: str
    forward: dict[str, Run]
    both: dict[str, Run]


def on_tensorflow(layer: Any, x: np.ndarray, dy: np.ndarray, compiled: bool) -> Iterator[Mode]:
    import tensorflow as tf

    image, cotangent = (tf.cast(array, layer.compute_dtype) for array in (x, dy))
    w = tf.Variable(layer.kernel)
    axes = list(range(1, x.ndim - 1))

    def native(image: Any) -> Any:
        wide = tf.cast(image, tf.float32)
        gate = tf.sigmoid(tf.nn.conv1d(tf.reduce_mean(wide, axes)[..., None], w, 1, "SAME")[..., 0])
        return tf.cast(wide * tf.reshape(gate, [len(x), *[1] * len(axes), x.shape[-1]]), image.dtype)

    def differentiated(function: Any, weight: Any) -> Any:
        def step(image: Any, cotangent: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(image)
                y = function(image)
            return y, tape.gradient(y, [image, weight], output_gradients=cotangent)

        return step

    for name, jit_compile in {"jit_compile": True, "graph": False}.items():

        def run(function: Any, *arguments: Any, jit_compile: bool = jit_compile) -> Run:
            compiled = tf.function(function, jit_compile=jit_compile)
            return lambda: compiled(*arguments)

        yield Mode(
            name,
            {"keras": run(layer, image), "native": run(native, image)},
            {
                "keras": run(differentiated(layer, layer.kernel.value), image, cotangent),
                "native": run(differentiated(native, w), image, cotangent),
            },
        )


def on_jax(layer: Any, x: np.ndarray, dy: np.ndarray, compiled: bool) -> Iterator[Mode]:
    import jax
    import jax.numpy as jnp

    from eca_multi.jax import eca

    image, cotangent = (jnp.asarray(array, layer.compute_dtype) for array in (x, dy))
    w = layer.kernel.value
    functions = {"keras": lambda image, w: layer.stateless_call([w], [], image)[0], "native": eca}

    def differentiated(function: Any) -> Any:
        def step(image: Any, w: Any, cotangent: Any) -> Any:
            y, pull = jax.vjp(function, image, w)
            return y, pull(cotangent)

        return step

    def run(function: Any, *arguments: Any) -> Run:
        compiled = jax.jit(function)
        return lambda: jax.block_until_ready(compiled(*arguments))

    yield Mode(
        "jit",
        {name: run(function, image, w) for name, function in functions.items()},
        {name: run(differentiated(function), image, w, cotangent) for name, function in functions.items()},
    )


def on_torch(layer: Any, x: np.ndarray, dy: np.ndarray, compiled: bool) -> Iterator[Mode]:
    import torch

    from eca_multi.torch import ECA

    image, cotangent = (torch.from_numpy(array).to(getattr(torch, layer.compute_dtype)) for array in (x, dy))
    layers = {"keras": layer, "native": ECA(x.shape[-1], layer.kernel.shape[0], channel_axis=-1)}

    def forward(function: Any) -> Run:
        def run() -> None:
            with torch.no_grad():
                function(image)

        return run

    def both(function: Any) -> Run:
        leaf = image.clone().requires_grad_()

        def run() -> None:
            leaf.grad = None
            function(leaf).backward(cotangent)

        return run

    def modes(name: str) -> Mode:
        return Mode(name, *({key: make(layer) for key, layer in layers.items()} for make in (forward, both)))

    yield modes("eager")
    if compiled:
        torch._dynamo.reset()  # or the shapes before this one are compiled with it, as dynamic ones
        layers = {key: torch.compile(layer) for key, layer in layers.items()}
        yield modes("torch.compile")


def child(asked: argparse.Namespace) -> None:
    """Measure one backend; a row for each line of output."""
    from eca_multi.keras import ECA

    rng = np.random.default_rng(0)
    for shape in asked.shape or SHAPES:
        x, dy = (rng.standard_normal(shape, np.float32) for _ in range(2))
        for dtype in DTYPES:
            layer = ECA(eca_kernel_size(shape[-1]), dtype="mixed_bfloat16" if dtype == "bfloat16" else dtype)
            layer.build(shape)
            for mode in globals()[f"on_{asked.child}"](layer, x, dy, asked.compiled):
                cells = [asked.child, mode.name, " x ".join(map(str, shape)), dtype]
                for runs in (mode.forward, mode.both):
                    seconds = interleave(runs, asked.rounds)
                    median, low, high = ratio(seconds["keras"], seconds["native"])
                    cells += [f"{median:.2f}", f"{low:.2f} to {high:.2f}"]
                print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--backend", action="append", choices=BACKENDS)
    parser.add_argument("--shape", action="append", type=lambda text: tuple(map(int, text.split(","))))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--compiled", action="store_true", help="torch.compile too; minutes more")
    parser.add_argument("--out", type=Path, help="folder of layers-keras.json")
    parser.add_argument("--child", choices=BACKENDS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        child(asked)
        return
    table = [*HEADER]
    print(*table, sep="\n", flush=True)
    for backend in asked.backend or BACKENDS:
        environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, __file__, *sys.argv[1:], "--child", backend]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout or ():
                print(line, end="", flush=True)
                table.append(line.rstrip())
        if process.returncode:
            raise SystemExit(process.returncode)
    if asked.out:
        machine = {"cores": os.cpu_count(), "python": platform.python_version()}
        machine |= {name: version(name) for name in ("keras", *BACKENDS)}
        asked.out.mkdir(exist_ok=True)
        text = json.dumps({"machine": machine, "table": table}, indent=1)
        (asked.out / "layers-keras.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
