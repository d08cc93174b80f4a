"""One run of the study: train one kind of attention on one task with one seed, and test it."""

from typing import Any

import torch
from torch.nn.functional import cross_entropy

from .networks import build, parameters
from .tasks import Task, split

BATCH = 64
RATE = 3e-3


def run(task: Task, kind: str, seed: int, epochs: int | None = None) -> dict[str, Any]:
    """Return the record of one run: accuracy in percent and cross-entropy in nats on the test half.

    The seed fixes the halves, the initial weights and the order of the batches, so runs of one seed differ in nothing
    but their attention.
    """
    data = split(task, seed)
    network = build(kind, data.train_x.shape[1], data.train_x.ndim - 2, data.classes, seed)
    epochs = task.epochs if epochs is None else epochs
    order = torch.Generator().manual_seed(seed)
    batches = [
        batch for _ in range(epochs) for batch in torch.randperm(len(data.train_x), generator=order).split(BATCH)
    ]
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=len(batches))
    network.train()
    for batch in batches:
        optimizer.zero_grad()
        cross_entropy(network(data.train_x[batch]), data.train_y[batch]).backward()
        optimizer.step()
        schedule.step()
    network.eval()
    with torch.no_grad():
        logits = network(data.test_x)
    return {
        "task": task.name,
        "kind": kind,
        "seed": seed,
        "accuracy": 100 * (logits.argmax(1) == data.test_y).double().mean().item(),
        "loss": cross_entropy(logits.double(), data.test_y).item(),
        "parameters": parameters(network),
    }
