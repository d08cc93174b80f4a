"""What one ECA layer sends between devices, by layout and number of devices: counted in compiled programs, not timed.

JAX: the collectives in the HLO that XLA compiles for virtual CPU devices, under GSPMD and inside shard_map. torch: the
collectives that DTensor issues on one rank of a fake process group. Nothing is executed on more than one device.

    python benchmarks/communication.py [--shape 32 56 56 256] [--devices 2 4 8]

prints the tables of docs/devices.md. "Sent" are the bytes that leave one device, by the algorithms that are optimal in
them: a ring sends 2 (n - 1) / n of what it all-reduces and (n - 1) / n of what it gathers, a permutation all of it.
"""

import argparse
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

LAYOUTS = {"batch": 0, "spatial": 1, "channel": 3}  # the axis of x (N, H, W, C) that is spread
ITEM = 4  # float32
SENT = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,  # of the result
    "reduce-scatter": lambda n: (n - 1) / n,  # of the operand
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1.0,
}


@dataclass
class Traffic:
    """How many collectives of each kind a program has, and how many bytes go through them on one device."""

    counts: Counter[str] = field(default_factory=Counter)
    payload: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, numel: int) -> None:
        self.counts[kind] += 1
        self.payload[kind] += ITEM * numel

    def sent(self, devices: int) -> float:
        return sum(SENT[kind](devices) * size for kind, size in self.payload.items())

    def __str__(self) -> str:
        return ", ".join(f"{count} {kind}" for kind, count in sorted(self.counts.items())) or "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=4, default=[32, 56, 56, 256], metavar=("N", "H", "W", "C"))
    parser.add_argument("--devices", type=int, nargs="+", default=[2, 4, 8])
    asked = parser.parse_args()
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={max(asked.devices)}"
    size = ITEM * math.prod(asked.shape)
    print(f"x of shape {tuple(asked.shape)}, channels last, in float32: {size / 2**20:.0f} MiB on all devices together")
    for engine, measure in {"JAX, GSPMD": gspmd, "JAX, shard_map": shard_map, "torch, DTensor": dtensor}.items():
        print(f"\n{engine}\n")
        print("| layout | devices | forward | sent | y, dx and dw | sent | over the bytes of a shard of x |")
        print("|---|---|---|---|---|---|---|")
        for layout in LAYOUTS:
            for devices in asked.devices:
                forward, both = measure(asked.shape, layout, devices)
                sent = both.sent(devices)
                cells = (
                    layout, devices, forward, f"{forward.sent(devices):,.0f} B", both, f"{sent:,.0f} B",
                    f"{sent * devices / size:.1e}" if sent else "0",
                )  # fmt: skip
                print(f"| {' | '.join(map(str, cells))} |", flush=True)


# --- JAX -----------------------------------------------------------------------------------------------------------


def collectives(hlo: str) -> Traffic:
    """Count the collectives in the text of a compiled program; one may carry several arrays."""
    traffic = Traffic()
    for shapes, kind, start in re.findall(rf"= (.*?) ({'|'.join(SENT)})(-start)?\(", hlo):
        arrays = re.findall(r"(\w+)\[([\d,]*)\]", shapes)
        if start or any(dtype != "f32" for dtype, _ in arrays):
            raise RuntimeError(f"{kind}{start} of {shapes}: only synchronous collectives of f32 are counted")
        traffic.add(kind, sum(math.prod(map(int, filter(None, extents.split(",")))) for _, extents in arrays))
    return traffic


def compiled(function: Callable[..., Any], shape: Iterable[int], layout: str, devices: int, taps: int) -> list[Traffic]:
    """Compile a function of x and a kernel: what its value sends, and what value and gradients send."""
    import jax
    from jax.sharding import NamedSharding

    mesh, spec = mesh_and_spec(layout, devices)

    def vjp(x: Any, w: Any, G: Any) -> Any:
        y, pull = jax.vjp(function, x, w)
        return y, *pull(G)

    x = jax.ShapeDtypeStruct(tuple(shape), np.float32, sharding=NamedSharding(mesh, spec))
    w = jax.ShapeDtypeStruct((taps, 1, 1), np.float32, sharding=NamedSharding(mesh, jax.P()))
    programs = (jax.jit(function).lower(x, w), jax.jit(vjp).lower(x, w, x))
    return [collectives(program.compile().as_text()) for program in programs]


def mesh_and_spec(layout: str, devices: int) -> tuple[Any, Any]:
    import jax

    mesh = jax.make_mesh((devices,), ("d",), devices=jax.devices("cpu")[:devices])
    return mesh, jax.P(*(None,) * LAYOUTS[layout], "d")


def gspmd(shape: list[int], layout: str, devices: int, taps: int | None = None) -> list[Traffic]:
    from eca_multi.jax import eca

    return compiled(eca, shape, layout, devices, taps or kernel_size(shape))


def shard_map(shape: list[int], layout: str, devices: int, taps: int | None = None) -> list[Traffic]:
    import jax

    from eca_multi.jax import eca

    mesh, spec = mesh_and_spec(layout, devices)
    names = {"batch": {}, "spatial": {"axis_name": "d"}, "channel": {"channel_axis_name": "d"}}[layout]
    mapped = jax.shard_map(lambda x, w: eca(x, w, **names), mesh=mesh, in_specs=(spec, jax.P()), out_specs=spec)
    return compiled(mapped, shape, layout, devices, taps or kernel_size(shape))


def kernel_size(shape: list[int]) -> int:
    from eca_multi import eca_kernel_size

    return eca_kernel_size(shape[-1])


# --- torch ---------------------------------------------------------------------------------------------------------


def dtensor(shape: list[int], layout: str, devices: int) -> list[Traffic]:
    """Run ECA as rank 0 of a process group that sends nothing: what DTensor would send is what it asks of it."""
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_module
    from torch.distributed.tensor.debug import CommDebugMode
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from eca_multi.torch import ECA

    kinds = {
        "all_reduce": "all-reduce",
        "all_gather_into_tensor": "all-gather",
        "reduce_scatter_tensor": "reduce-scatter",
        "all_to_all_single": "all-to-all",
    }

    class Listener(CommDebugMode):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.traffic = Traffic()

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = super().__torch_dispatch__(func, types, args, kwargs)
            if func._overloadpacket in self.comm_registry and not isinstance(out, DTensor):
                kind = kinds[func._opname]
                self.traffic.add(kind, args[0].numel() if kind == "reduce-scatter" else out.numel())
            return out

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=devices)
    try:
        mesh = init_device_mesh("cpu", (devices,))
        local = [s // devices if i == LAYOUTS[layout] else s for i, s in enumerate(shape)]
        x, G = (DTensor.from_local(torch.ones(local), mesh, [Shard(LAYOUTS[layout])]) for _ in range(2))
        layer = distribute_module(ECA(shape[-1], channel_axis=-1), mesh)
        x.requires_grad_()
        heard = []
        for backward in (False, True):
            with Listener() as listener:
                y = layer(x)
                if backward:
                    y.backward(G)
                    # The optimizer needs the kernel's gradient whole.
                    layer.conv.weight.grad.redistribute(mesh, [Replicate()])
            if listener.get_total_counts() != sum(listener.traffic.counts.values()):
                raise RuntimeError(f"{listener.get_comm_counts()} is not {listener.traffic}")
            heard.append(listener.traffic)
    finally:
        dist.destroy_process_group()
    return heard


if __name__ == "__main__":
    main()
