"""Convert a checkpoint of any framework to a file of any other: read, check, write whole or not at all."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eca_multi import __version__
from eca_multi._canonical import check_weights
from eca_multi._files.folder import check_replaceable
from eca_multi._printable import printable

from .compare import Report
from .detect import detect
from .digest import sha256_of
from .orbax import ORBAX
from .read import open_tensors
from .take import Checkpoint, choose
from .write import TARGETS, write_checkpoint

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ConversionReport:
    """What `convert` read and what it wrote.

    Args:
        source, target: The two paths.
        kind: Kind of the source: "torch", "safetensors", "keras", "linen" or "nnx".
        to: Framework of the target, or "canonical".
        sha256: Of the source; for a folder, of its files' names, sizes and bytes in order.
        architecture: Name of the network.
        kernel_sizes: One per ECA, from the source's tensors.
        report: The comparison of all tensors; `matched`, `missing`, `unexpected` and `misshaped` are its lists.
        metadata: Texts in the target beside the weights: source, sha256, architecture, kernel_sizes, num_classes, facts
            (the source's own: epoch, accuracy), eca_multi (the version).

    Example:
        >>> from eca_multi.checkpoints import ConversionReport, convert
        >>> from eca_multi.torch import eca_resnet18
        >>> import torch
        >>> torch.save(eca_resnet18(num_classes=10).state_dict(), "model.pth")
        >>> report = convert("model.pth", "model.safetensors", to="canonical")
        >>> isinstance(report, ConversionReport), len(report.matched), report.missing
        (True, 110, ())
    """

    source: str
    target: str
    kind: str
    to: str
    sha256: str
    architecture: str
    kernel_sizes: tuple[int, ...]
    report: Report
    metadata: dict[str, str]

    @property
    def matched(self) -> tuple[str, ...]:
        return self.report.matched

    @property
    def missing(self) -> tuple[str, ...]:
        return self.report.missing

    @property
    def unexpected(self) -> tuple[str, ...]:
        return self.report.unexpected

    @property
    def misshaped(self) -> tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]:
        return self.report.misshaped

    def __str__(self) -> str:
        lines = {
            "source": f"{self.source} ({self.kind})",
            "sha256": self.sha256,
            "target": f"{self.target} ({self.to})",
            "network": f"{self.architecture}, {self.metadata['num_classes']} classes",
            "kernels": " ".join(map(str, self.kernel_sizes)),
            "tensors": str(self.report),
        }
        texts = {title: printable(text, lines=title == "tensors") for title, text in lines.items()}
        return "\n".join(f"{title:9}{text}" for title, text in texts.items())


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    to: str,
    arch: str | None = None,
    key: str | None = None,
    progress: Progress | None = None,
) -> ConversionReport:
    """Read a checkpoint of a network and write it in another format.

    The content of the source decides its kind; names and shapes of the tensors decide the network and its kernel sizes.
    Only the frameworks of the source and of the target are imported. All checks come before the first byte is written.

    Args:
        source: A file of torch (`.pth`, `.pt`, `.pth.tar`: the original ECANet's, timm's, ours), `.safetensors`,
            Keras 3 (`.keras`, `.weights.h5`) or Flax (`.msgpack`, a folder that orbax wrote). It is not changed.
        target: Where to write, with a suffix of the framework `to`. An existing file is replaced, and so is a folder
            that is empty or holds a checkpoint of orbax and nothing else.
        to: "torch", "keras", "linen", "nnx", or "canonical", a `.safetensors` file of canonical weights.
        arch: Name of the network; a file of another one is refused.
        key: Place of the weights in a file of torch, "model" or "ema.model"; None looks in the usual places.
        progress: Called with the step ("hash", "read", "write"), the bytes done, and all bytes.

    Returns:
        The report. No tensor is missing or left over: such a source raises.

    Raises:
        ImportError: If the framework of the source or of the target is not installed.
        OSError: If the source cannot be read, or the target cannot be written; the old target then stays.
        CheckpointError: If the source is truncated, corrupt, holds what would run code, or is of no known network or
            another one than `arch`; the nearest ones are named.
        TypeError, ValueError: If an argument is none of those above, or a tensor is not finite.

    Example:
        >>> import torch
        >>> from eca_multi.checkpoints import convert, load_file
        >>> from eca_multi.torch import eca_resnet18
        >>> torch.save({"state_dict": eca_resnet18(num_classes=10).state_dict()}, "model.pth.tar")
        >>> report = convert("model.pth.tar", "model.safetensors", to="canonical")
        >>> report.architecture, report.kernel_sizes
        ('eca_resnet18', (3, 3, 5, 5, 7, 7, 7, 7))
        >>> load_file("model.safetensors")["layer1.0.eca.weight"].shape
        (3,)
    """
    source, target = os.fsdecode(source), os.fsdecode(target)
    _check_places(source, target, to)
    tell = progress or (lambda *_: None)
    kind = detect(source)
    sha256 = sha256_of(source, lambda done, total: tell("hash", done, total))
    tell("read", 0, 1)
    with open_tensors(kind, source, key=key) as (tensors, facts):
        chosen, identified = choose(tensors, arch)
        for name, tensor in chosen.items():
            _load(name, tensor)
        tell("read", 1, 1)
        metadata = {
            "source": os.path.basename(os.path.abspath(source)),
            "sha256": sha256,
            "architecture": identified.network.name,
            "kernel_sizes": json.dumps(identified.kernel_sizes),
            "num_classes": str(identified.num_classes),
            # The facts of the first source stay the same through any number of conversions.
            "facts": facts.get("facts") or json.dumps({key: text for key, text in facts.items() if key != "format"}),
            "eca_multi": __version__,
        }
        weights = _Watched(chosen, tell)
        write_checkpoint(to, Checkpoint(weights, identified, facts), target, metadata)
        tell("write", weights.total, weights.total)
    return ConversionReport(
        source, target, kind, to, sha256, identified.network.name, identified.kernel_sizes, identified.report,
        metadata,
    )  # fmt: skip


def _check_places(source: str, target: str, to: str) -> None:
    if to not in TARGETS:
        raise ValueError(f"to must be {', '.join(TARGETS[:-1])} or {TARGETS[-1]}. Received: to={to!r}. Choose one.")
    if to == "canonical" and not target.endswith(".safetensors"):
        raise ValueError(f"target must end in .safetensors. Received: {target!r}. Rename it.")
    real_source, real_target = Path(os.path.realpath(source)), Path(os.path.realpath(target))
    if real_source == real_target or real_source in real_target.parents or real_target in real_source.parents:
        raise ValueError(
            f"target must be another place than source. Received: {target!r} for {source!r}. Nothing was changed."
        )
    if not real_target.parent.is_dir():  # before a long file is read
        raise FileNotFoundError(f"target must be in a folder that exists. Received: {target!r}. Make the folder first.")
    if real_target.is_dir():
        if to not in ("linen", "nnx") or target.endswith(".msgpack"):
            raise IsADirectoryError(f"target must be a file. Received: {target!r}, a folder. Name a file in it.")
        check_replaceable(target, ORBAX)


def _load(name: str, tensor: Any) -> np.ndarray:
    return check_weights({name: tensor.load()})[name]


class _Watched(dict[str, Any]):
    """Weights that a writer takes out once each; each is then read from its file, and progress is told."""

    def __init__(self, weights: Mapping[str, Any], tell: Progress) -> None:
        super().__init__(weights)
        self.tell = tell
        self.total = sum(tensor.nbytes for tensor in weights.values())
        self.done = 0

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self.pop(name)
        self.tell("write", self.done, self.total)
        self.done = min(self.done + tensor.nbytes, self.total)
        return _load(name, tensor)  # checks again, because the file is read again
