"""Write docs/speed.md and its picture, every number of them from what `make bench` left in docs/measured."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from _timing import ratio
from causal import table as causal_table
from inside_resnet import table as inside_table
from layers_jax import ratios
from layers_jax import table as jax_table
from layers_torch import best_usual, table
from processes import table as processes_table

DOCS = Path(__file__).parents[1] / "docs"
COLOURS = {"ours": "#0072b2", "usual": "#d55e00"}  # told apart by colour-blind eyes too


def over_floor(cell: dict[str, Any], name: str) -> float:
    both = cell["seconds"]["both"]
    return ratio(best_usual(both) if name == "usual" else both[name], both["floor"])[0]


def picture(cells: list[dict[str, Any]], file: Path) -> None:
    """Time of forward and backward over the floor's, by the size of the map."""
    plt.rcParams["svg.hashsalt"] = "eca_multi"  # equal results, equal bytes
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    for axis, dtype in zip(axes, ("float32", "bfloat16"), strict=True):
        for layout, marker in (("contiguous", "o"), ("channels_last", "s")):
            for name, colour in COLOURS.items():
                of = [c for c in cells if c["dtype"] == dtype and c["layout"] == layout]
                points = sorted((c["bytes"] / 2**20, over_floor(c, name)) for c in of)
                label = f"{name}, {layout.replace('_', ' ')}"
                line = "-" if layout == "contiguous" else "--"
                axis.plot(*zip(*points, strict=True), line, marker=marker, color=colour, label=label)
        axis.axhline(1, color="grey", linewidth=1)
        axis.set(xscale="log", yscale="log", title=dtype, xlabel="size of x, MiB")
    axes[0].set_ylabel("time over the floor's")
    axes[1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


def memory(cells: list[dict[str, Any]]) -> str:
    lines = ["| x | dtype | layout | ours | adaptive pool | mean and view |", "|---|---|---|---|---|---|"]
    for c in cells:
        if "memory" in c:
            shown = [
                f"{c['memory'][name]['forward']:.2f}, {c['memory'][name]['backward']:.2f}"
                for name in ("ours", "adaptive pool", "mean and view")
            ]
            shape = " x ".join(map(str, c["shape"]))
            lines.append(f"| {shape} | {c['dtype']} | {c['layout'].replace('_', ' ')} | {' | '.join(shown)} |")
    return "\n".join(lines)


def beside_others(cells: list[dict[str, Any]]) -> str:
    """Forward and backward over the floor's, eager and compiled; of the usual implementations the quickest."""
    lines = ["| x | dtype | layout | ours | compiled | usual | compiled | SE | compiled |", "|" + "---|" * 9]
    for c in cells:
        both = c["seconds"]["both"]
        compiled = {name.removesuffix(", compiled"): times for name, times in both.items() if "compiled" in name}
        shown = []
        for pick in (lambda of: of["ours"], best_usual, lambda of: of["SE"]):
            shown += [f"{ratio(pick(of), both['floor'])[0]:.2f}" for of in (both, compiled)]
        shape = " x ".join(map(str, c["shape"]))
        lines.append(f"| {shape} | {c['dtype']} | {c['layout'].replace('_', ' ')} | {' | '.join(shown)} |")
    return "\n".join(lines)


def jax_words(found: dict[str, Any]) -> dict[str, str]:
    large = [c for c in found["cells"] if c["bytes"] >= 16 << 20]
    words = {f"sum_{dtype}": f"{moved:.1f}" for dtype, moved in found["bare sums"].items()}
    for name, floor in (("forward", "copy"), ("both", "floor")):
        words[f"moved_{name}"] = between(c["moved"][name] for c in large)
        words[f"time_{name}"] = between(ratios(c, name, floor) for c in large)
        for dtype in ("float32", "bfloat16"):
            words[f"{name}_{dtype}"] = between(ratios(c, f"usual {name}", name) for c in large if c["dtype"] == dtype)
    return words


def between(values: Iterable[float]) -> str:
    low, *_, high = sorted(f"{value:.2f}" for value in values)
    return low if low == high else f"{low} to {high}"


def measured(name: str) -> Any:
    return json.loads((DOCS / "measured" / f"{name}.json").read_text())


def main() -> None:
    torch, jax, inside = measured("layers-torch"), measured("layers-jax"), measured("inside-resnet")["cells"]
    cells = torch["cells"]
    picture(cells, DOCS / "measured" / "layers-torch.svg")
    speedups = [ratio(best_usual(c["seconds"]["both"]), c["seconds"]["both"]["ours"])[0] for c in cells]
    mean = math.exp(sum(map(math.log, speedups)) / len(speedups))
    large = [over_floor(c, "ours") for c in cells if c["bytes"] >= 16 << 20]
    machine = ", ".join(f"{name} {value}" for name, value in torch["machine"].items())
    page = TEXT.format(
        torch=table(cells),
        mean=f"{mean:.2f}",
        least=f"{min(speedups):.2f}",
        low=f"{min(large):.2f}",
        high=f"{max(large):.2f}",
        memory=memory(cells),
        compiled=beside_others(measured("layers-torch-compiled")["cells"]),
        batch=inside[0]["batch"],
        size=inside[0]["size"],
        inside=inside_table(inside),
        causal=causal_table(measured("causal")["cells"]),
        processes=processes_table(measured("processes")["cells"]),
        jax="\n".join(jax_table(jax["cells"])),
        **jax_words(jax),
        keras="\n".join(measured("layers-keras")["table"]),
        imports="\n".join(measured("import-time")["table"]),
        machine=machine,
    )
    (DOCS / "speed.md").write_text(page)


TEXT = """# Speed

`make bench` measures every number of this page and writes the page: {machine}, without a GPU. The implementations take
turns in every round, and the page shows the median of the ratios within a round. ECA's arithmetic costs almost
nothing; moving the feature map through memory costs the time.

## PyTorch, eager, on the CPU

For the usual code autograd computes the gradient through several tensors as large as x, each in fresh memory. For maps
of 32 k numbers and more, channels first or last in memory, this package has its own backward pass. The pass writes dx
and no other tensor of that size (but for a copy of dy, if dy has another memory order). "Usual" is the fastest common
way to write ECA in eager mode: adaptive pooling and a convolution, as in the paper's code; mean and view, as in
libraries; timm's module where timm is installed. "Floor" is the least work of any gate: copy x forward, multiply two
maps backward.

![Time of forward and backward over the floor's, by size](measured/layers-torch.svg)

{torch}

Forward and backward together are {mean} times as fast as the usual code (geometric mean of these rows; the least ratio
is {least}). On maps of 16 MiB and more they take {low} to {high} times the floor. On small maps Python's overhead takes
most of the time.

Peak resident memory above the memory before the call, in sizes of x, of the forward and of the backward pass:

{memory}

A process that has freed other memory before may get fresh pages where another one gets old ones. So each of these maps
is measured in processes of its own, forward and backward; the median of the processes, the least of them, and the page
faults per call:

{processes}

Under compilation, export, tracing and function transforms the layer consists of plain operations, which the compiler
fuses; CUDA runs the same operations. Time of forward and backward over the floor's, eager and under `torch.compile`,
beside squeeze-and-excitation (SE):

{compiled}

Inside of ResNet-50 (batch {batch}, {size} x {size}; training by SGD) a block adds the shortcut behind the gate, and ECA
does both in one pass (`residual=`). The table shows the time that gate and sum take beyond the sum alone, relative to
the rest of the step, in median and quartiles. "Added apart" is our layer with a sum behind it; the usual code has one
too.

{inside}

With `causal_axis` each step has gates of its own, so the means and the gates are as large as the sequence. Times over
those of a causal convolution of the same width with three taps, forward, and forward and backward:

{causal}

## JAX, compiled

Bytes that the compiled program accesses, as XLA counts them, in sizes of x. The least is 3 forward (read x for the
means; read x and write y for the product), and 4 more for the gradient (read dy and x; read dy and write dx). "Usual"
is a mean in x's dtype, `jnp.convolve` and a product, jitted as well.

{jax}

On maps of 16 MiB and more ECA moves {moved_forward} maps forward and {moved_both} with the gradient; beside a small map
the means and gates count too. On these maps ECA takes {time_forward} times as long as a copy forward, and {time_both}
times as long as a copy and a product with the gradient. The usual code takes, relative to ECA's time, {forward_float32}
forward and {both_float32} with the gradient in float32; in bfloat16, {forward_bfloat16} and {both_bfloat16}.

If a program widens x to float32 for two uses, one of them a sum, XLA's CPU compiler writes the widened x to memory. For
bfloat16 ECA therefore widens x separately for each use, and hides from this compiler alone that both uses read the
same x; derivatives of both modes and any order still work. In float16 the separate widening does not help: a bare sum
in float32 moves {sum_float16} maps in float16, against {sum_bfloat16} in bfloat16. With a mask XLA writes the masked
map (x or 0) to memory in every dtype, once for the means and once for the gradient of the gate: 11 maps with the
gradient in float32 instead of 7, and 15 in bfloat16. (With a mask, eager torch runs the usual code, and checks for NaN
and infinity in the padding.) `tests/layers/test_hlo.py` counts the bytes in every run.

## Keras

The Keras layer's time over the time of the framework's own layer (for TensorFlow, of ECA in TensorFlow's operations).
Without a compiler `Layer.__call__` itself takes longer than a small map, as the rows of eager torch show. On torch the
Keras layer uses the same backward pass as the torch layer.

{keras}

## Imports

The time that an import takes after the framework's own import, in ms. The first column is measured with Python's
garbage collector off: one collection of a framework's objects takes 100 ms, and falls into a random import.

{imports}
"""


if __name__ == "__main__":
    main()
