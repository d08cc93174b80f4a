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
from inside_resnet import table as inside_table
from layers_jax import ratios
from layers_jax import table as jax_table
from layers_torch import best_usual, table

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
        jax="\n".join(jax_table(jax["cells"])),
        **jax_words(jax),
        keras="\n".join(measured("layers-keras")["table"]),
        imports="\n".join(measured("import-time")["table"]),
        machine=machine,
    )
    (DOCS / "speed.md").write_text(page)


TEXT = """# Speed

`make bench` measures and writes this page, every number of it: {machine}, without a GPU.
The implementations take turns in every round; medians of the ratios within a round are shown. ECA's arithmetic is
nothing; what it costs is to move the feature map.

## PyTorch, eager, on the CPU

Autograd takes the gradient of the usual code through several tensors as large as x, each in fresh memory. ECA here has
a backward pass of its own for maps of 32 k numbers and more, channels first or last in memory; it writes dx and nothing
else of that size (but for a copy of dy, if that lies in another order). "Usual" is the quickest of the ways in which
ECA is written in eager mode: adaptive pooling and a convolution, as the paper's code; mean and view, as libraries have
it; timm's module where that is installed. The floor is what any gate must do: copy x forward, multiply two maps
backward.

![Time of forward and backward over the floor's, by size](measured/layers-torch.svg)

{torch}

Forward and backward are {mean} times as fast as the usual code, as the geometric mean of these rows; the least is
{least}. On maps of 16 MiB and more they take {low} to {high} times the floor. Small maps are all overhead of Python.

Largest resident memory above that before the call, in sizes of x, of the forward and of the backward pass:

{memory}

Compiled, exported, traced and transformed code sees plain operations, which the compiler fuses. CUDA takes those too.
Time of forward and backward over the floor's, eager and under `torch.compile`, with squeeze-and-excitation (SE) beside:

{compiled}

Inside a training step of ResNet-50 (batch {batch}, {size} x {size}, SGD): what attention adds to the rest of the step,
timed there; medians, and quartiles:

{inside}

## JAX, compiled

Bytes that the compiled program accesses, by XLA's own count, in sizes of x: at least 3 forward (x read for the means,
read and written for the product), and 4 more for the gradient (dy and x read; dy read, dx written). "Usual" is a mean
in x's dtype, `jnp.convolve` and a product, jitted too.

{jax}

On maps of 16 MiB and more ECA moves {moved_forward} forward and {moved_both} with the gradient; beside a small
map its means and gates count. There it takes {time_forward} times as long as a copy forward, and
{time_both} times as long as a copy and a product with the gradient. The usual code takes, over ECA's time,
{forward_float32} forward and {both_float32} with the gradient in float32; in bfloat16,
{forward_bfloat16} and {both_bfloat16}.

What is widened for two uses, one of them a sum, XLA's CPU compiler writes to memory in float32. So for bfloat16 ECA
widens x anew for each use, and hides from that compiler, and from no other, that it is the same x; derivatives of both
modes and any order remain. In float16 this is no help: there a mere sum in float32 moves {sum_float16}, not the
{sum_bfloat16} of bfloat16; and with a mask what is summed, x or 0, is written to memory in every dtype, for the
means and again for the gradient of the gate: 11 maps with the gradient in float32, not 7, and 15 in bfloat16. (Eager
torch takes its usual code with a mask, and looks a second time where the padding is NaN or infinite.)
`tests/layers/test_hlo.py` counts again in every run.

## Keras

The Keras layer's time over that of the framework's own layer (for TensorFlow, of ECA in TensorFlow's operations).
Where nothing compiles it away, `Layer.__call__` itself takes longer than a small map, as the rows of eager torch show.
On torch Keras takes the same backward pass as the torch layer.

{keras}

## Imports

What an import takes after the framework's own, in ms. Python's garbage collector is off in the first column: a pass
over all of a framework's objects takes 100 ms, and in whose import it falls is chance.

{imports}
"""


if __name__ == "__main__":
    main()
