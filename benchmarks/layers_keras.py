"""The Keras layer on each backend beside that framework's native layer: forward and backward, compiled as users do.

On TensorFlow, which has no package of its own here, the native layer is ECA written in TensorFlow's own operations.
A process for each backend; the two take turns in every round, and the ratio is the median of those within a round.

    python benchmarks/layers_keras.py
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from _timing import interleave, ratio

from eca_multi import eca_kernel_size

SHAPES = ((32, 7, 7, 2048), (8, 28, 28, 512), (32, 56, 56, 256), (64, 112, 112, 64), (64, 4096, 256))
BACKENDS = ("tensorflow", "jax", "torch")
Run = Callable[[], object]


def on_tensorflow(layer: Any, x: np.ndarray, dy: np.ndarray) -> tuple[Run, Run]:
    import tensorflow as tf

    image, cotangent, w = tf.constant(x), tf.constant(dy), tf.Variable(layer.kernel)
    axes = list(range(1, x.ndim - 1))

    def native(image: Any) -> Any:
        pooled = tf.reduce_mean(image, axes)
        gate = tf.sigmoid(tf.nn.conv1d(pooled[..., None], w, 1, "SAME")[..., 0])
        return image * tf.reshape(gate, [len(x), *[1] * len(axes), x.shape[-1]])

    def both(function: Any, weight: Any) -> Run:
        @tf.function(jit_compile=True)
        def step() -> Any:
            with tf.GradientTape() as tape:
                tape.watch(image)
                y = function(image)
            return y, tape.gradient(y, [image, weight], output_gradients=cotangent)

        return step

    return both(layer, layer.kernel.value), both(native, w)


def on_jax(layer: Any, x: np.ndarray, dy: np.ndarray) -> tuple[Run, Run]:
    import jax

    from eca_multi.jax import eca

    image, cotangent, w = jax.device_put(x), jax.device_put(dy), layer.kernel.value

    def both(function: Any) -> Run:
        def step(image: Any, w: Any, cotangent: Any) -> Any:
            y, pull = jax.vjp(function, image, w)
            return y, pull(cotangent)

        compiled = jax.jit(step)
        return lambda: jax.block_until_ready(compiled(image, w, cotangent))

    return both(lambda image, w: layer.stateless_call([w], [], image)[0]), both(eca)


def on_torch(layer: Any, x: np.ndarray, dy: np.ndarray) -> tuple[Run, Run]:
    import torch

    from eca_multi.torch import ECA

    native = ECA(x.shape[-1], layer.kernel.shape[0], channel_axis=-1)
    image, cotangent = torch.from_numpy(x).requires_grad_(), torch.from_numpy(dy)

    def both(function: Any) -> Run:
        def step() -> None:
            image.grad = None
            function(image).backward(cotangent)

        return step

    return both(layer), both(native)


def child(backend: str, rounds: int) -> None:
    from eca_multi.keras import ECA

    rng = np.random.default_rng(0)
    for shape in SHAPES:
        x, dy = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
        layer = ECA(eca_kernel_size(shape[-1]))
        layer.build(shape)
        keras, native = globals()[f"on_{backend}"](layer, x, dy)
        seconds = interleave({"keras": keras, "native": native}, rounds)
        median, low, high = ratio(seconds["keras"], seconds["native"])
        print(f"| {backend} | {' x '.join(map(str, shape))} | {median:.2f} | {low:.2f} to {high:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--backend", action="append", choices=BACKENDS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--child", choices=BACKENDS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        child(asked.child, asked.rounds)
        return
    print("| backend | x | Keras / native | quartiles |\n|---|---|---|---|", flush=True)
    for backend in asked.backend or BACKENDS:
        environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, __file__, "--child", backend, "--rounds", str(asked.rounds)]
        subprocess.run(command, env=environment, check=True)


if __name__ == "__main__":
    main()
