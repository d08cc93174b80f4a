"""The jitted JAX layer beside its floor: bytes moved, from the compiled program, and time.

What no gate can do without: forward x is read for the means, and read and y written for the product; backward dy and x
are read for the gate's gradient, and dy read and dx written. XLA's own count of the bytes accessed says how near the
compiled program is; timings, side by side in each round, are against a jitted copy and a jitted product of two maps.

    python benchmarks/layers_jax.py
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from _timing import interleave, ratio

from eca_multi import eca_kernel_size
from eca_multi.jax import eca

SHAPES = ((1, 7, 7, 64), (32, 7, 7, 2048), (8, 28, 28, 512), (32, 56, 56, 256), (64, 112, 112, 64), (64, 4096, 256))


def usual(x: jax.Array, w: jax.Array) -> jax.Array:
    """As it is usually written: a mean in x's dtype, a convolution, and the product."""
    pooled = x.mean(tuple(range(1, x.ndim - 1)))
    logits = jax.vmap(lambda row: jnp.convolve(row, w[::-1, 0, 0], mode="same"))(pooled)
    return x * jax.nn.sigmoid(logits).reshape(x.shape[0], *[1] * (x.ndim - 2), -1)


def with_gradient(function: Any) -> Any:
    def both(x: jax.Array, w: jax.Array, dy: jax.Array) -> Any:
        y, pull = jax.vjp(function, x, w)
        return y, *pull(dy)

    return both


def compiled(function: Any, *arguments: jax.Array) -> tuple[Any, float]:
    """The compiled function, and the bytes that it accesses."""
    program = jax.jit(function).lower(*arguments).compile()
    return program, program.cost_analysis()["bytes accessed"]


def cell(shape: tuple[int, ...], dtype: Any, rounds: int) -> dict[str, Any]:
    keys = jax.random.split(jax.random.key(0), 3)
    x, dy = (jax.random.normal(key, shape, dtype) for key in keys[:2])
    w = jax.random.normal(keys[2], (eca_kernel_size(shape[-1]), 1, 1), dtype)
    programs = {
        "forward": (eca, x, w),
        "copy": (lambda x: x + 1, x),
        "usual forward": (usual, x, w),
        "both": (with_gradient(eca), x, w, dy),
        "floor": (lambda x, dy: (x + 1, x * dy), x, dy),
        "usual both": (with_gradient(usual), x, w, dy),
    }
    moved, runs = {}, {}
    for name, (function, *arguments) in programs.items():
        program, bytes_accessed = compiled(function, *arguments)
        moved[name] = bytes_accessed / x.nbytes
        runs[name] = partial(waited_for, program, arguments)
    found = {"shape": shape, "dtype": jnp.dtype(dtype).name, "bytes": x.nbytes, "moved": moved}
    return {**found, "seconds": interleave(runs, rounds)}


def table(cells: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| x | dtype | forward: moved | usual's | time / copy's | usual / ours "
        "| both: moved | usual's | time / copy and product's | usual / ours |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for c in cells:
        shown = []
        for name, floor in (("forward", "copy"), ("both", "floor")):
            times = [ratios(c, name, floor), ratios(c, f"usual {name}", name)]
            shown += [f"{value:.2f}" for value in (c["moved"][name], c["moved"][f"usual {name}"], *times)]
        lines.append(f"| {' x '.join(map(str, c['shape']))} | {c['dtype']} | {' | '.join(shown)} |")
    return lines


def ratios(c: dict[str, Any], of: str, to: str) -> float:
    return ratio(c["seconds"][of], c["seconds"][to])[0]


def bare_sums() -> dict[str, float]:
    """What a mere sum in float32 moves, in sizes of x: 1 where the compiler reads x and writes nothing of its size."""
    xs = (jnp.zeros((8, 28, 28, 512), dtype) for dtype in (jnp.float32, jnp.bfloat16, jnp.float16))
    return {x.dtype.name: compiled(lambda x: x.sum((1, 2), dtype=jnp.float32), x)[1] / x.nbytes for x in xs}


def waited_for(program: Any, arguments: list[jax.Array]) -> Any:
    return jax.block_until_ready(program(*arguments))


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--shape", action="append", type=lambda text: tuple(map(int, text.split(","))))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, help="folder of layers-jax.json")
    asked = parser.parse_args()
    cells = []
    for shape in asked.shape or SHAPES:
        for dtype in (jnp.float32, jnp.bfloat16):
            cells.append(cell(shape, dtype, asked.rounds))
            print("\n".join(table(cells)[0 if len(cells) == 1 else -1 :]), flush=True)
    if asked.out:
        asked.out.mkdir(exist_ok=True)
        found = {"jax": jax.__version__, "bare sums": bare_sums(), "cells": cells}
        (asked.out / "layers-jax.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
