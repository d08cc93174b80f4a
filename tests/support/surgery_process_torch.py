"""Networks with ECA in a process of their own: `python surgery_process_torch.py FOLDER` writes results.json there.

FOLDER holds what another process wrote: `whole.pt` (a pickled network), `state.pt`, `plan.json`, `x.pt` and `y.pt`.
Each case returns the largest distance from y, or of what it says. test_surgery_torch_process.py runs it.
"""

import copy
import json
import sys
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_module
from torch.nn.parallel import DistributedDataParallel

from eca_multi.surgery.errors import UnsupportedModelError
from eca_multi.surgery.plan import ECAPlan
from eca_multi.torch import base_state, eca_parameters, insert_eca, installed_eca, load_base_state, plan_eca, remove_eca
from tests.support.networks_torch import resnet


def distance(one, other):
    return float((one - other).detach().abs().max())


def whole(folder, net, x, y):
    """A network that was pickled whole is used, read back and taken apart without the code that made it."""
    assert len(installed_eca(net).entries) == 4
    result = distance(net(x), y)
    remove_eca(net)
    assert list(net.state_dict()) == list(resnet().state_dict())
    return result


def state(folder, net, x, y):
    """A plan and a state dict make the network again, strictly."""
    again = insert_eca(resnet(), plan=ECAPlan.load(folder / "plan.json")).eval()
    again.load_state_dict(torch.load(folder / "state.pt", weights_only=True), strict=True)
    return distance(again(x), y)


def ddp(folder, net, x, y):
    """Gradients arrive at all kernels, and the wrapped network is refused with the way out."""
    wrapped = DistributedDataParallel(net)
    out = wrapped(x)
    out.square().sum().backward()
    assert all(kernel.grad is not None and kernel.grad.abs().sum() > 0 for kernel in eca_parameters(net))
    with pytest.raises(UnsupportedModelError, match=r"model\.module"):
        plan_eca(wrapped)
    assert len(eca_parameters(wrapped)) == 4
    return distance(out, y)


def fsdp(folder, net, x, y):
    """Each block and the root are sharded; ECA's kernels are DTensors like all others."""
    mesh = init_device_mesh("cpu", (1,))
    for block in net.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(net, mesh=mesh)
    out = net(x)
    out.square().sum().backward()
    assert all(type(kernel).__name__ == "DTensor" for kernel in eca_parameters(net))
    assert all(kernel.grad is not None for kernel in eca_parameters(net))
    with pytest.raises(UnsupportedModelError, match="before fully_shard"):
        insert_eca(net)
    return distance(out, y)


def checkpoint(folder, net, x, y):
    """torch.distributed.checkpoint saves network and optimizer, and loads them into a fresh network with ECA."""
    optimizer = torch.optim.AdamW(net.parameters())
    net(x).square().sum().backward()
    optimizer.step()
    expected = net(x)
    weights, moments = get_state_dict(net, optimizer)
    dcp.save({"net": weights, "optimizer": moments}, checkpoint_id=folder / "dcp")
    fresh = insert_eca(resnet()).eval()
    other = torch.optim.AdamW(fresh.parameters())
    weights, moments = get_state_dict(fresh, other)
    content = {"net": weights, "optimizer": moments}
    dcp.load(content, checkpoint_id=folder / "dcp")
    set_state_dict(fresh, other, model_state_dict=content["net"], optim_state_dict=content["optimizer"])
    moment = other.state[eca_parameters(fresh)[0]]["exp_avg"]
    assert moment.any()
    return distance(fresh(x), expected)


def old_checkpoint(folder, net, x, y):
    """A distributed checkpoint of the plain network goes through base_state."""
    dcp.save({"net": base_state(net)}, checkpoint_id=folder / "dcp_old")
    plain = resnet().eval()
    content = {"net": plain.state_dict()}
    dcp.load(content, checkpoint_id=folder / "dcp_old")
    expected = plain(x)
    with torch.no_grad():
        for kernel in eca_parameters(net):
            kernel.zero_()
    return distance(net(x), expected)


def sync(folder, net, x, y):
    """SyncBatchNorm in DDP, as in training on many machines: gates stay."""
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    assert len(installed_eca(converted).entries) == 4
    assert any(isinstance(module, nn.SyncBatchNorm) for module in converted.modules())
    return distance(converted(x), y)


def mesh(folder, net, x, y):
    """Parameters over a mesh are loaded from such ones; a spoilt one, or one that is not over it, changes nothing."""
    expected = {name: value.clone() for name, value in base_state(net).items()}
    over_mesh = init_device_mesh("cpu", (1,))
    distribute_module(net, over_mesh)
    state = {name: value.clone() for name, value in base_state(net).items()}
    name = next(name for name, value in state.items() if isinstance(value, DTensor) and value.is_floating_point())
    for bad, error, match in [
        (state[name] * float("nan"), ValueError, "NaN or infinite"),
        (expected[name], TypeError, "cannot be copied"),
    ]:
        with pytest.raises(error, match=f"{name}: .*{match}"):
            load_base_state(net, {**{other: value + 1 for other, value in state.items()}, name: bad})
    load_base_state(net, {name: value + 1 if value.is_floating_point() else value for name, value in state.items()})
    now = {
        name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in base_state(net).items()
    }
    return max(distance(now[name], value + value.is_floating_point()) for name, value in expected.items())


CASES = [whole, state, ddp, fsdp, checkpoint, old_checkpoint, sync, mesh]


def main(folder):
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=0, world_size=1)
    net = torch.load(folder / "whole.pt", weights_only=False)
    x, y = torch.load(folder / "x.pt"), torch.load(folder / "y.pt")
    results = {}
    for case in CASES:
        try:
            results[case.__name__] = case(folder, copy.deepcopy(net), x, y)
        except Exception as error:  # a case's failure is its result, and the next one still runs
            results[case.__name__] = f"{type(error).__name__}: {error}"
    (folder / "results.json").write_text(json.dumps(results))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
