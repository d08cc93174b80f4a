"""The time of a parity run of a whole network: a Vision Transformer of 12 blocks on 4 runners.

    python benchmarks/parity_vit.py [--blocks 12]              # the run, in seconds
    python benchmarks/parity_vit.py --one-process              # the same with one process for the reference
    python benchmarks/parity_vit.py --reference [--profile]    # the reference alone, in seconds of one processor

The network is ViT-Tiny: patches of 16 x 16, 192 channels, 3 heads, 12 blocks, 5.5 million weights; the images are of
64 x 64, so that a run takes minutes and not an hour.
"""

import argparse
import cProfile
import pstats
import time
from collections.abc import Mapping, Sequence
from typing import Any

from eca_multi import parity
from eca_multi.parity import KerasAdapter, LinenAdapter, NnxAdapter, Spec, TorchAdapter
from eca_multi.parity.budget.torch_reference import TorchReference
from eca_multi.parity.define.checks import BASE
from eca_multi.parity.define.dtypes import DTYPES
from eca_multi.parity.define.sources import normal
from eca_multi.parity.define.spec import Case
from eca_multi.parity.execute import session
from eca_multi.parity.execute.tasks import tasks
from eca_multi.parity.report.report import describe

EPS = 1e-6
RUNNERS = ("torch", "keras-tensorflow", "linen", "nnx")
Arrays = Mapping[str, Any]
VECTORS = {"norm1_scale": "C", "norm1_bias": "C", "norm2_scale": "C", "norm2_bias": "C"}
LINEAR = {"qkv": "C Q", "proj": "C O", "up": "C M", "down": "M C"}


def weights(blocks: int) -> dict[str, Any]:
    """Return the axes of all weights; each kernel is drawn over the root of its fan-in."""
    fan_in = {"C": 192, "M": 768}
    every = {"patch": normal("p q B C", 768**-0.5), "patch_bias": normal("C", 0.1), "position": normal("L C", 0.1)}
    for number in range(blocks):
        every |= {
            f"b{number}_{name}": normal(axes, 0.1, 1.0 if "scale" in name else 0) for name, axes in VECTORS.items()
        }
        for name, axes in LINEAR.items():
            every[f"b{number}_{name}"] = normal(axes, fan_in[axes[0]] ** -0.5)
            every[f"b{number}_{name}_bias"] = normal(axes[-1], 0.1)
    return every | {
        "norm_scale": normal("C", 0.1, 1.0), "norm_bias": normal("C", 0.1), "head": normal("C K", 192**-0.5),
        "head_bias": normal("K", 0.1),
    }  # fmt: skip


class Torch(TorchAdapter):
    layout = "NBHW"

    def build(self, config: Arrays) -> Any:
        import torch
        import torch.nn.functional as F

        def norm(x: torch.Tensor, w: Arrays, name: str) -> torch.Tensor:
            return F.layer_norm(x, x.shape[-1:], w[f"{name}_scale"], w[f"{name}_bias"], EPS)

        def linear(x: torch.Tensor, w: Arrays, name: str) -> torch.Tensor:
            return F.linear(x, w[name].T, w[f"{name}_bias"])

        def vit(inputs: Arrays, w: Arrays) -> torch.Tensor:
            x = F.conv2d(inputs["x"], w["patch"].permute(3, 2, 0, 1), w["patch_bias"], stride=16)
            x = x.flatten(2).transpose(1, 2) + w["position"]
            for number in range(config["blocks"]):
                b = f"b{number}_"
                q, k, v = (
                    linear(norm(x, w, b + "norm1"), w, b + "qkv").unflatten(-1, (3, config["heads"], -1)).unbind(2)
                )
                mixed = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
                x = x + linear(mixed.transpose(1, 2).flatten(2), w, b + "proj")
                x = x + linear(F.gelu(linear(norm(x, w, b + "norm2"), w, b + "up")), w, b + "down")
            return linear(norm(x, w, "norm").mean(1), w, "head")

        return vit


def _jax_vit(config: Arrays) -> Any:
    import jax
    from jax import numpy as jnp

    def norm(x: jax.Array, w: Arrays, name: str) -> jax.Array:
        wide = x.astype(jnp.promote_types(x.dtype, "float32"))
        centre = wide - wide.mean(-1, keepdims=True)
        y = centre * jax.lax.rsqrt((centre * centre).mean(-1, keepdims=True) + EPS)
        return (y * w[f"{name}_scale"] + w[f"{name}_bias"]).astype(x.dtype)

    def linear(x: jax.Array, w: Arrays, name: str) -> jax.Array:
        return x @ w[name] + w[f"{name}_bias"]

    def vit(inputs: Arrays, w: Arrays) -> jax.Array:
        dimensions = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(inputs["x"], w["patch"], (16, 16), "VALID", dimension_numbers=dimensions)
        x = (x + w["patch_bias"]).reshape(len(x), -1, x.shape[-1]) + w["position"]
        for number in range(config["blocks"]):
            b = f"b{number}_"
            qkv = linear(norm(x, w, b + "norm1"), w, b + "qkv").reshape(*x.shape[:2], 3, config["heads"], -1)
            q, k, v = (qkv[:, :, part] for part in range(3))
            # Not jax.nn.dot_product_attention, which takes no float16 on a CPU.
            logits = jnp.einsum("nqhd,nkhd->nhqk", q, k) * q.shape[-1] ** -0.5
            mixed = jnp.einsum("nhqk,nkhd->nqhd", jax.nn.softmax(logits), v)
            x = x + linear(mixed.reshape(x.shape), w, b + "proj")
            hidden = jax.nn.gelu(linear(norm(x, w, b + "norm2"), w, b + "up"), approximate=False)
            x = x + linear(hidden, w, b + "down")
        return linear(norm(x, w, "norm").mean(1), w, "head")

    return vit


class Linen(LinenAdapter):
    layout = "NHWB"

    def weights_for(self, config: Arrays) -> dict[str, str]:
        return {f"params/{name}": name for name in weights(config["blocks"])}

    def build(self, config: Arrays) -> Any:
        from flax import linen as nn

        vit, shapes = _jax_vit(config), _shapes(config)

        class Vit(nn.Module):
            @nn.compact
            def __call__(self, x: Any) -> Any:
                held = {n: self.param(n, nn.initializers.zeros, s, config["param_dtype"]) for n, s in shapes.items()}
                return vit({"x": x}, held)

        return Vit()


class Nnx(NnxAdapter):
    layout = "NHWB"

    def weights_for(self, config: Arrays) -> dict[str, str]:
        return {name: name for name in weights(config["blocks"])}

    def build(self, config: Arrays) -> Any:
        from flax import nnx
        from jax import numpy as jnp

        vit, shapes = _jax_vit(config), _shapes(config)

        class Vit(nnx.Module):
            def __init__(self) -> None:
                for name, shape in shapes.items():
                    setattr(self, name, nnx.Param(jnp.zeros(shape, config["param_dtype"])))

            def __call__(self, x: Any) -> Any:
                return vit({"x": x}, {name: getattr(self, name)[...] for name in shapes})

        return Vit()


class Keras(KerasAdapter):
    layout = "NHWB"

    def weights_for(self, config: Arrays) -> dict[str, str]:
        return {name: name for name in weights(config["blocks"])}

    def build(self, config: Arrays) -> Any:
        from keras import layers, ops

        shapes = _shapes(config)

        def norm(x: Any, w: Arrays, name: str) -> Any:
            return ops.layer_normalization(x, w[f"{name}_scale"], w[f"{name}_bias"], axis=-1, epsilon=EPS)

        def linear(x: Any, w: Arrays, name: str) -> Any:
            return ops.matmul(x, w[name]) + w[f"{name}_bias"]

        class Vit(layers.Layer):
            def build(self, shape: Any) -> None:
                self.held = {name: self.add_weight(shape=shape, name=name) for name, shape in shapes.items()}

            def call(self, x: Any) -> Any:
                w = self.held
                x = ops.conv(x, w["patch"], strides=16, padding="valid", data_format="channels_last")
                x = ops.reshape(x + w["patch_bias"], (-1, config["L"], config["C"])) + w["position"]
                for number in range(config["blocks"]):
                    b = f"b{number}_"
                    qkv = linear(norm(x, w, b + "norm1"), w, b + "qkv")
                    qkv = ops.reshape(qkv, (-1, config["L"], 3, config["heads"], config["C"] // config["heads"]))
                    mixed = ops.dot_product_attention(*(qkv[:, :, part] for part in range(3)))
                    x = x + linear(ops.reshape(mixed, ops.shape(x)), w, b + "proj")
                    hidden = ops.gelu(linear(norm(x, w, b + "norm2"), w, b + "up"), approximate=False)
                    x = x + linear(hidden, w, b + "down")
                return linear(ops.mean(norm(x, w, "norm"), axis=1), w, "head")

        return Vit()


def _shapes(config: Arrays) -> dict[str, tuple[int, ...]]:
    return {name: tuple(config[axis] for axis in draw.axes.split()) for name, draw in weights(config["blocks"]).items()}


def spec(blocks: int) -> Spec:
    sizes = {
        "N": 2,
        "H": 64,
        "W": 64,
        "B": 3,
        "p": 16,
        "q": 16,
        "L": 16,
        "C": 192,
        "Q": 576,
        "O": 192,
        "M": 768,
        "K": 10,
    }
    return Spec(
        f"ViT of {blocks} blocks",
        layout="NHWB",
        weights=weights(blocks),
        outputs={"y": "N K"},
        config={**sizes, "heads": 3, "blocks": blocks},
        runners={"torch": Torch, "keras": Keras, "linen": Linen, "nnx": Nnx},
        reference=Torch,
        cases=(Case("images", "two images"),),
    )


def reference(vit: Spec, dtypes: Sequence[str], *, profiled: bool) -> None:
    profile, engine = cProfile.Profile(time.process_time), TorchReference(Torch())
    for dtype in dtypes:
        [task] = tasks(vit, vit.cases, [dtype], BASE)
        start = time.process_time()
        profile.runcall(engine.solve, task.job) if profiled else engine.solve(task.job)
        print(f"{dtype}: {time.process_time() - start:.1f} s of one processor", flush=True)
    if profiled:
        pstats.Stats(profile).sort_stats("cumtime").print_stats(40)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--runner", nargs="*", default=list(RUNNERS))
    parser.add_argument("--dtype", nargs="*", default=list(DTYPES))
    for flag in ("--one-process", "--reference", "--profile"):
        parser.add_argument(flag, action="store_true")
    asked = parser.parse_args()
    if asked.one_process:
        session.MOST = 1
    if asked.reference:
        return reference(spec(asked.blocks), asked.dtype, profiled=asked.profile)
    start = time.perf_counter()
    vit = spec(asked.blocks)
    report = parity.run(vit, runners=asked.runner, dtypes=asked.dtype, checks=BASE, timeout=1800)
    print(f"{time.perf_counter() - start:.0f} s, exit status {report.exit_code}")
    for line in map(describe, report.failures[:5]):
        print(line)
    return None


if __name__ == "__main__":
    main()
