"""Load a saved torch model and run it."""

import torch

from benchmarks.zoo.torch_run import run


def reload(path: str) -> None:
    saved = torch.load(path, weights_only=False)
    torch.save(run(saved["model"], saved["inputs"]), f"{path}.outputs")
