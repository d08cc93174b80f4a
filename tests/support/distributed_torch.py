"""ECA on DTensors, in two processes: `python distributed_torch.py INIT_FILE RESULTS`. test_torch_sharding.py runs it.

Each case shards x (and its mask), runs ECA forward and backward, and compares with the float64 oracle on the whole x.
RESULTS gets, as JSON, {case: {implementation: {"y": largest error, "dx": ..., "dw": ..., "raised": where it raised}}}.
"""

import json
import os
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_module, distribute_tensor

from eca_multi import reference
from eca_multi.torch import ECA

RANKS = 2

# name: shape, the axis of x that is sharded, options of the layer, whether there is a mask
CASES = {
    "batch": ((4, 10, 6, 5), 0, {}, False),
    "batch uneven": ((3, 10, 6, 5), 0, {}, False),
    "batch smaller than the mesh": ((1, 10, 6, 5), 0, {}, False),
    "channel": ((3, 10, 6, 5), 1, {}, False),
    "channel uneven": ((3, 11, 6, 5), 1, {}, False),
    "height": ((3, 10, 6, 5), 2, {}, False),
    "height uneven": ((3, 10, 7, 5), 2, {}, False),
    "width": ((3, 10, 7, 6), 3, {}, False),
    "width uneven": ((3, 10, 6, 5), 3, {}, False),
    "length uneven": ((3, 10, 7), 2, {}, False),
    "channel, channels last": ((3, 6, 5, 10), 3, {"channel_axis": -1}, False),
    "height uneven, channels last": ((3, 7, 5, 10), 1, {"channel_axis": -1}, False),
    "channel, circular": ((3, 10, 6, 5), 1, {"padding": "circular", "gate": "2sigmoid"}, False),
    "channel, ECA-NS": ((3, 10, 6, 5), 1, {"shared": False}, False),
    "height, ECA-NS": ((3, 10, 6, 5), 2, {"shared": False}, False),
    "batch, mask": ((4, 10, 6, 5), 0, {}, True),
    "channel, mask": ((3, 10, 6, 5), 1, {}, True),
    "height uneven, mask": ((3, 10, 7, 5), 2, {}, True),
    "kept axis uneven": ((3, 10, 7, 5), 2, {"pool_axes": (3,)}, False),
    "pooled axis beside a kept one, channels last": ((3, 7, 6, 10), 2, {"channel_axis": -1, "pool_axes": (2,)}, False),
    "batch uneven, causal": ((3, 10, 6, 5), 0, {"causal_axis": 2}, False),
    "channel uneven, causal": ((3, 11, 6, 5), 1, {"causal_axis": 2}, False),
    "width uneven, causal height": ((3, 10, 6, 5), 3, {"causal_axis": 2}, False),
    "causal axis": ((3, 10, 6, 5), 2, {"causal_axis": 2}, False),
    "causal axis uneven, mask": ((3, 10, 7, 5), 2, {"causal_axis": 2}, True),
    "causal axis, channels last": ((3, 6, 10), 1, {"channel_axis": -1, "causal_axis": 1}, False),
    "height uneven, residual": ((3, 10, 7, 5), 2, {"residual": True}, False),
    "causal axis, residual": ((3, 10, 6, 5), 2, {"causal_axis": 2, "residual": True}, False),
}


class Conv1dECA(ECA):
    """The usual form, which DTensor computes wrongly; the form shows that the cases can fail."""

    def forward(self, x, mask=None, residual=None):
        logits = F.conv1d(x.mean((2, 3)).unsqueeze(1), self.conv.weight, padding=self.kernel_size // 2)
        return x * logits.sigmoid().reshape(x.shape[0], x.shape[1], 1, 1)


IMPLEMENTATIONS = {"ECA": (ECA, CASES), "conv1d": (Conv1dECA, ("batch", "channel", "height"))}


def run(layer_type, case, mesh, found):
    """Put into `found` the largest errors of y (without grad and with it), dx and dw, and how x and y are sharded."""
    shape, axis, options, masked = CASES[case]
    options = {**options}
    channel_axis = options.get("channel_axis", 1)
    channels = shape[channel_axis]
    rng = np.random.default_rng(list(case.encode()))
    offsets = np.moveaxis(rng.uniform(-2, 2, (1,) * (len(shape) - 1) + (channels,)), -1, channel_axis)
    x, cotangent = rng.normal(size=shape) + offsets, rng.normal(size=shape)
    residual = rng.normal(size=shape) if options.pop("residual", False) else None
    mask = rng.random(shape[:1] + shape[2:]) < 0.7 if masked else None  # the masked cases are channels first
    weight = rng.normal(size=(1 if options.get("shared", True) else channels, 1, 3))
    kernel = weight[0, 0] if len(weight) == 1 else weight[:, 0]
    expected = {name: value for name, value in options.items() if name != "shared"} | {"mask": mask}
    y = reference.forward(x, kernel, **expected, residual=residual).y
    grads = reference.backward(x, kernel, cotangent, **expected)

    layer = layer_type(channels, 3, dtype=torch.float64, **options)
    layer.load_state_dict({"conv.weight": torch.from_numpy(weight)})
    layer = distribute_module(layer, mesh)
    x = distribute_tensor(torch.from_numpy(x), mesh, [Shard(axis)]).requires_grad_()
    if residual is not None:
        residual = distribute_tensor(torch.from_numpy(residual), mesh, [Shard(axis)]).requires_grad_()
    cotangent = distribute_tensor(torch.from_numpy(cotangent), mesh, [Shard(axis)])
    if masked:
        placement = Replicate() if axis == 1 else Shard(max(axis - 1, 0))
        mask = distribute_tensor(torch.from_numpy(mask), mesh, [placement])
    with torch.no_grad():
        found["y, no grad"] = error(layer(x, mask, residual), y)
    out = layer(x, mask, residual)
    found["y"] = error(out, y)
    found["placements"] = [str(x.placements), str(out.placements)]
    out.backward(cotangent)
    found["dx"] = error(x.grad, grads.dx)
    if residual is not None:
        found["dresidual"] = error(residual.grad, cotangent.full_tensor().numpy())
    found["dw"] = error(layer.conv.weight.grad, grads.dw.reshape(weight.shape))


def error(found, expected):
    return float((found.full_tensor().detach() - torch.from_numpy(expected)).abs().max())


def main(rank, init_file, results):
    timeout = timedelta(seconds=30)
    dist.init_process_group("gloo", init_method=f"file://{init_file}", rank=rank, world_size=RANKS, timeout=timeout)
    torch.set_num_threads(1)
    mesh = init_device_mesh("cpu", (RANKS,))
    found = {}
    for name, (layer_type, cases) in IMPLEMENTATIONS.items():
        for case in cases:
            result = found.setdefault(case, {})[name] = {}
            try:
                run(layer_type, case, mesh, result)
            except Exception as failure:  # a case's failure is its result, and the next one still runs
                result["raised"] = f"{type(failure).__name__}: {failure}"
    results = Path(results)
    if rank == 0:
        unfinished = results.with_suffix(".tmp")
        unfinished.write_text(json.dumps(found))
        unfinished.rename(results)
    while not results.exists():  # a peer that leaves early breaks the other's last collective
        time.sleep(0.05)
    os._exit(0)  # gloo's threads now and then abort ("terminate called") when the interpreter takes them down


if __name__ == "__main__":
    torch.multiprocessing.spawn(main, tuple(sys.argv[1:]), nprocs=RANKS)
