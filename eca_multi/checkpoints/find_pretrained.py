"""Find released weights: the network to build, the weights to load, and how to prepare images."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eca_multi._canonical import Weights
from eca_multi._parsing import parse_json, parsing
from eca_multi.networks import RELEASED, Preprocessing, find, preprocessing_of

from .errors import CheckpointError
from .find_files import Hub, find_files
from .read import read_checkpoint
from .take import Checkpoint

_LARGEST = 1 << 20  # of the numbers in a config
_LONGEST_NAME = 100  # characters: the search for the nearest names takes time in proportion


@dataclass(frozen=True)
class Pretrained:
    """A checkpoint, how to prepare images for its network, and the options of the builder that the user asked for."""

    checkpoint: Checkpoint
    preprocessing: Preprocessing
    num_classes: int
    features_only: bool
    global_pool: str | None

    @property
    def name(self) -> str:
        return self.checkpoint.found.network.name

    @property
    def options(self) -> dict[str, Any]:
        """The keywords for the builder; kernel sizes are the checkpoint's."""
        return {
            **self.checkpoint.found.options,
            "num_classes": self.num_classes,
            "features_only": self.features_only,
            "global_pool": self.global_pool,
        }

    def weights(self, fresh: Callable[[], Weights]) -> Weights:
        """Return the weights to load, strictly.

        `fresh` returns the weights of the new network, which keeps its classifier for another number of classes.
        """
        if self.features_only or self.global_pool is None or not self.num_classes:
            return self.checkpoint.backbone(features_only=self.features_only)
        if self.num_classes == self.checkpoint.found.num_classes:
            return self.checkpoint.weights
        start = f"{self.checkpoint.found.network.classifier}."
        classifier = {name: array for name, array in fresh().items() if name.startswith(start)}
        return {**self.checkpoint.backbone(), **classifier}


def find_pretrained(
    name: str | os.PathLike[str],
    hub: Hub,
    *,
    num_classes: int | None = None,
    features_only: bool = False,
    global_pool: str | None = "avg",
) -> Pretrained:
    """Find, read and check released weights.

    Args:
        name: A repository on the hub, a folder with the same layout, or a file of weights.
        hub: How to ask for a repository.
        num_classes, features_only, global_pool: Options of the builders; `num_classes` of None takes the checkpoint's.

    Raises:
        ImportError, OSError, CheckpointError, TypeError, ValueError: As `find_files` and `read_checkpoint` say.
    """
    files = find_files(name, hub)

    def broken(reason: str) -> CheckpointError:
        path = str(files.config)
        return CheckpointError(f"config.json must be as timm writes it. Received: {path!r} ({reason}). Remove it.")

    with parsing(broken):
        config = _read_config(files.config)
        arch = _architecture(config)
    checkpoint = read_checkpoint(files.weights, arch)
    facts = {**checkpoint.facts, **({"revision": files.revision} if files.revision else {})}
    network = checkpoint.found.network.name
    tag = Path(os.path.abspath(name)).name  # the repository's or the folder's
    usual = preprocessing_of(tag if tag in RELEASED and tag.split(".")[0] == network else network)
    classes = checkpoint.found.num_classes if num_classes is None else num_classes
    with parsing(broken):
        prepared = _preprocessing(config, usual)
    return Pretrained(replace(checkpoint, facts=facts), prepared, classes, features_only, global_pool)


def _read_config(path: Path | None) -> Mapping[str, Any]:
    content = {} if path is None else parse_json(path.read_bytes())
    if not isinstance(content, dict):
        raise ValueError(f"a {type(content).__name__}")
    return content


def _architecture(config: Mapping[str, Any]) -> str | None:
    """Return the network that a config names, without the tag of its weights; None if it names none."""
    arch = config.get("architecture")
    return find(arch.split(".")[0][:_LONGEST_NAME]).name if isinstance(arch, str) else None


def _preprocessing(config: Mapping[str, Any], usual: Preprocessing) -> Preprocessing:
    """Read from timm's config how to prepare images; a missing entry takes the usual value."""
    data = config.get("pretrained_cfg", config)
    size = data.get("test_input_size") or data.get("input_size") or (3, usual.size, usual.size)
    prepared = Preprocessing(
        size=int(size[-1]),
        crop=float(data.get("test_crop_pct") or data.get("crop_pct") or usual.crop),
        interpolation=str(data.get("interpolation") or usual.interpolation),
        mean=_three(data.get("mean") or usual.mean),
        std=_three(data.get("std") or usual.std),
    )
    if not all(0 < number <= _LARGEST for number in (prepared.size, prepared.crop, *prepared.std)):
        raise ValueError("a size, crop or std that is not positive")
    if not all(abs(number) <= _LARGEST for number in prepared.mean):
        raise ValueError("a mean of no pixels")
    return prepared


def _three(values: Any) -> tuple[float, float, float]:
    first, second, third = map(float, values)
    return first, second, third
