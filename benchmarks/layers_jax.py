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


def row(shape: tuple[int, ...], dtype: Any, rounds: int) -> str:
    keys = jax.random.split(jax.random.key(0), 3)
    x, dy = (jax.random.normal(key, shape, dtype) for key in keys[:2])
    w = jax.random.normal(keys[2], (eca_kernel_size(shape[-1]), 1, 1), dtype)
    programs = {
        "forward": (eca, x, w),
        "copy": (lambda x: x + 1, x),
        "both": (with_gradient(eca), x, w, dy),
        "floor": (lambda x, dy: (x + 1, x * dy), x, dy),
        "usual": (with_gradient(usual), x, w, dy),
    }
    moved, runs = {}, {}
    for name, (function, *arguments) in programs.items():
        program, bytes_accessed = compiled(function, *arguments)
        moved[name] = bytes_accessed / x.nbytes
        runs[name] = partial(waited_for, program, arguments)
    seconds = interleave(runs, rounds)
    pairs = (("forward", "copy"), ("both", "floor"), ("usual", "both"))
    to_copy, to_floor, to_usual = (ratio(seconds[a], seconds[b])[0] for a, b in pairs)
    return (
        f"| {' x '.join(map(str, shape))} | {jnp.dtype(dtype).name} | {moved['forward']:.2f} | {to_copy:.2f} "
        f"| {moved['both']:.2f} | {to_floor:.2f} | {to_usual:.2f} |"
    )


def waited_for(program: Any, arguments: list[jax.Array]) -> Any:
    return jax.block_until_ready(program(*arguments))


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--shape", action="append", type=lambda text: tuple(map(int, text.split(","))))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, help="folder of layers-jax.json")
    asked = parser.parse_args()
    table = [
        "| x | dtype | forward: moved | time to a copy's | both: moved | time to copy and product | usual / ours |",
        "|---|---|---|---|---|---|---|",
    ]
    for shape in asked.shape or SHAPES:
        for dtype in (jnp.float32, jnp.bfloat16):
            table.append(row(shape, dtype, asked.rounds))
            print(table[-1], flush=True)
    if asked.out:
        asked.out.mkdir(exist_ok=True)
        (asked.out / "layers-jax.json").write_text(
            json.dumps({"jax": jax.__version__, "table": table}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
