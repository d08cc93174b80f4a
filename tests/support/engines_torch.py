"""A network with ECA under the engines of torch, in two processes: `python engines_torch.py INIT_FILE RESULTS`.

Each engine trains the network of `make` for STEPS steps from the same weights on the same batches, as `train` does in
one process. RESULTS gets, by torch.save, {ENGINE: {"loss": of each step, NAME: weight at the end, ...}}, and
{"raised": message} where an engine raises. test_torch_engines.py runs it.
"""

import os
import sys
import time
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe, SplitPoint, pipeline
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from eca_multi.torch import ECA

RANKS = 2
STEPS = 20
BATCH, LENGTH, CHANNELS, HIDDEN, CLASSES = 8, 6, 10, 14, 5  # HIDDEN leaves seven channels to a rank


class Block(nn.Module):
    """A residual block over (N, T, C), with one kernel for the wide channels and one for each channel of the stream."""

    def __init__(self, **factory):
        super().__init__()
        self.up = nn.Linear(CHANNELS, HIDDEN, **factory)
        self.wide = ECA(HIDDEN, 5, channel_axis=-1, **factory)
        self.down = nn.Linear(HIDDEN, CHANNELS, **factory)
        self.eca = ECA(CHANNELS, 3, channel_axis=-1, padding="circular", shared=False, **factory)

    def forward(self, x):
        return x + self.eca(self.down(torch.tanh(self.wide(self.up(x)))))


class Head(nn.Module):
    def __init__(self, **factory):
        super().__init__()
        self.dense = nn.Linear(CHANNELS, CLASSES, **factory)

    def forward(self, x):
        return self.dense(x.mean(1))


def make(**factory):
    """The network; its weights do not depend on the device or dtype that it is made for."""
    torch.manual_seed(0)
    return nn.Sequential(Block(**factory), Block(**factory), Head(**factory))


def batches():
    rng = np.random.default_rng(1)
    for _ in range(STEPS):
        x = rng.normal(size=(BATCH, LENGTH, CHANNELS)) + rng.uniform(-2, 2, CHANNELS)
        yield torch.from_numpy(x).float(), torch.from_numpy(rng.normal(size=(BATCH, CLASSES))).float()


def optimizer_of(model):
    return torch.optim.SGD(model.parameters(), 0.02, momentum=0.9, foreach=False)


def squared(out, target):
    return (out - target).square().mean()


def train(model, part=lambda tensor: tensor):
    """Train the model on this process's part of each batch, and return the losses."""
    optimizer, losses = optimizer_of(model), []
    for x, target in batches():
        loss = squared(model(part(x)), part(target))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack([loss.full_tensor() if isinstance(loss, DTensor) else loss for loss in losses])


def weights(model):
    """Return the unsharded weights by name."""
    named = model.state_dict().items()
    return {name: (value.full_tensor() if isinstance(value, DTensor) else value).clone() for name, value in named}


def my_half(tensor):
    return tensor.chunk(RANKS)[dist.get_rank()]


def averaged(losses):
    """Return the loss of the whole batch from the losses of its halves."""
    dist.all_reduce(losses)
    return losses / RANKS


# --- the engines: each returns the losses and the weights ----------------------------------------------------------


def ddp(mesh, synchronised=True):
    model = DistributedDataParallel(make())
    with nullcontext() if synchronised else model.no_sync():
        losses = train(model, my_half)
    return averaged(losses), weights(model.module)


def ddp_without_averages(mesh):
    """The control: the ranks never exchange gradients."""
    return ddp(mesh, synchronised=False)


def fsdp(mesh, **options):
    """Build on the meta device, so that no rank ever holds the whole network; then distribute rank 0's weights."""
    model = make(device="meta")
    for block in model:
        fully_shard(block, mesh=mesh, **options)
    fully_shard(model, mesh=mesh, **options)
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        nn.init.constant_(parameter, torch.nan)
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    for name, value in weights(model).items():
        if not value.isfinite().all():
            raise RuntimeError(f"{name} was not initialised")
    whole = make().state_dict()
    for name, value in model.state_dict().items():
        value.copy_(distribute_tensor(whole[name], mesh, value.placements))
    return averaged(train(model, my_half)), weights(model)


def fsdp_mixed(mesh):
    """Parameters and activations in bfloat16, gradients reduced in float32."""
    types = {"param_dtype": torch.bfloat16, "reduce_dtype": torch.float32, "output_dtype": torch.float32}
    return fsdp(mesh, mp_policy=MixedPrecisionPolicy(**types))


def tensor_parallel(mesh):
    """The wide channels are spread, and between blocks the positions: the two ECA see channel and spatial shards."""
    model = make()
    for block in model[:2]:
        up = ColwiseParallel(input_layouts=Shard(1), use_local_output=False)
        down = RowwiseParallel(output_layouts=Shard(1), use_local_output=False)
        parallelize_module(block, mesh, {"up": up, "down": down})
    distribute_module(model, mesh)  # the rest, whole on every rank
    losses = train(model, lambda t: distribute_tensor(t, mesh, [Shard(1) if t.ndim == 3 else Replicate()]))
    return losses, weights(model)


def tensor_parallel_without_neighbours(mesh):
    """The control: an ECA on a plain tensor sees this rank's channels alone."""
    model = make()
    for block in model[:2]:
        kernel = block.wide.state_dict()
        block.wide = ECA(HIDDEN // RANKS, 5, channel_axis=-1)
        block.wide.load_state_dict(kernel)
        parallelize_module(block, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
    return train(model), weights(model)


def train_pipeline(stage, model, scale_grads=True):
    """Train by a GPipe schedule of four microbatches. Each rank has its stage's weights, the last one the losses."""
    schedule = ScheduleGPipe(stage, 4, loss_fn=squared, scale_grads=scale_grads)
    optimizer, losses = optimizer_of(stage.submod), []
    for x, target in batches():
        optimizer.zero_grad()
        of_parts = []
        if stage.is_first:
            schedule.step(x)
        else:
            schedule.step(target=target, losses=of_parts)
            losses.append(torch.stack(of_parts).mean().detach())
        optimizer.step()
    stages = [None] * RANKS
    dist.all_gather_object(stages, (losses, weights(model)))
    return torch.stack(stages[-1][0]), stages[0][1] | stages[1][1]


def two_stages(mesh, **options):
    """Put the first block on one rank, the second block and the head on the other."""
    model, rank = make(), dist.get_rank()
    for name in ("1", "2") if rank == 0 else ("0",):
        delattr(model, name)  # the others keep their names
    stage = PipelineStage(model, rank, RANKS, torch.device("cpu"))
    return train_pipeline(stage, model, **options)


def two_stages_with_summed_gradients(mesh):
    """The control: the gradient of the sum over the microbatches in place of their mean."""
    return two_stages(mesh, scale_grads=False)


def two_traced_stages(mesh):
    """Split the network by torch.export."""
    x, _ = next(batches())
    pipe = pipeline(make(), (x.chunk(4)[0],), split_spec={"1": SplitPoint.BEGINNING})
    stage = pipe.build_stage(dist.get_rank(), torch.device("cpu"))
    return train_pipeline(stage, stage.submod)


ENGINES = {
    engine.__name__: engine
    for engine in (
        ddp,
        fsdp,
        fsdp_mixed,
        tensor_parallel,
        two_stages,
        two_traced_stages,
        ddp_without_averages,
        tensor_parallel_without_neighbours,
        two_stages_with_summed_gradients,
    )
}


def in_halves(dtype):
    """What fsdp_mixed computes, by one process: both halves of each batch in `dtype`, weights and sums in float32."""
    model, low = make(), make(dtype=dtype)
    optimizer, losses = optimizer_of(model), []
    for batch in batches():
        low.load_state_dict(model.state_dict())
        both = []
        for x, target in zip(*(tensor.chunk(RANKS) for tensor in batch), strict=True):
            loss = squared(low(x.to(dtype)).float(), target)
            both.append([loss.detach(), *(g.float() for g in torch.autograd.grad(loss, [*low.parameters()]))])
        loss, *grads = (sum(pair) / RANKS for pair in zip(*both, strict=True))
        for parameter, grad in zip(model.parameters(), grads, strict=True):
            parameter.grad = grad
        optimizer.step()
        losses.append(loss)
    return {"loss": torch.stack(losses), **weights(model)}


def main(rank, init_file, results):
    timeout = timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{init_file}", rank=rank, world_size=RANKS, timeout=timeout)
    torch.set_num_threads(1)
    mesh = init_device_mesh("cpu", (RANKS,))
    found = {}
    for name, engine in ENGINES.items():
        try:
            losses, state = engine(mesh)
            found[name] = {"loss": losses, **state}
        except Exception as failure:  # an engine's failure is its result, and the next one still runs
            found[name] = {"raised": f"{type(failure).__name__}: {failure}"}
    results = Path(results)
    if rank == 0:
        unfinished = results.with_suffix(".tmp")
        torch.save(found, unfinished)
        unfinished.rename(results)
    while not results.exists():  # a peer that leaves early breaks the other's last collective
        time.sleep(0.05)
    os._exit(0)  # gloo's threads now and then abort ("terminate called") when the interpreter takes them down


if __name__ == "__main__":
    torch.multiprocessing.spawn(main, tuple(sys.argv[1:]), nprocs=RANKS)
