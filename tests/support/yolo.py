"""What the tests of eca_multi.ultralytics share: a data set made on the spot, and YAMLs with ECA lines."""

import os
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.zoo import operators

NEEDS = "needs ultralytics (AGPL-3.0), which is in the environment of `make zoo` alone: make zoo-yolo"
# Nothing is downloaded or installed; ultralytics reads these when it is imported.
os.environ |= {"YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "false"}
operators.install()  # before anything imports torchvision, in this process and in those that the tests start


def require_ultralytics() -> None:
    pytest.importorskip("ultralytics", reason=NEEDS)


def settle(runs: str) -> None:
    """Prepare ultralytics for tests: runs are written into a folder, and NMS works beside any build of torch."""
    import torchvision
    import ultralytics.cfg
    from torchvision.extension import _has_ops
    from ultralytics.utils import SETTINGS
    from ultralytics.utils.nms import TorchNMS

    dict.__setitem__(SETTINGS, "runs_dir", runs)  # for this process; its own setter writes the user's file
    ultralytics.cfg.TESTS_RUNNING = False  # under pytest it writes beside the installed package otherwise
    if not _has_ops():
        torchvision.ops.nms = TorchNMS.nms


def write_data(folder: Path, images: int = 4) -> Path:
    """Write a data set of random images of 64x64 with two boxes each; return its YAML."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / part).mkdir(parents=True)
        for i in range(images if part == "train" else 2):
            pixels = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / part / f"{i}.png")
            boxes = "0 0.5 0.5 0.4 0.4\n1 0.3 0.3 0.2 0.2\n"
            (folder / "labels" / part / f"{i}.txt").write_text(boxes, encoding="utf-8")
    text = f"path: {folder}\ntrain: images/train\nval: images/val\nnames: {{0: circle, 1: square}}\n"
    (folder / "data.yaml").write_text(text, encoding="utf-8")
    return folder / "data.yaml"


def with_lines(yaml: dict[str, Any], *lines: tuple[int, list[Any]]) -> dict[str, Any]:
    """Return a model's YAML with an ECA line behind each of the named layers; the numbers in other lines follow."""
    result = deepcopy(yaml)
    for at, arguments in sorted(lines, reverse=True):
        all_lines = result["backbone"] + result["head"]
        for line in all_lines:
            sources = line[0] if isinstance(line[0], list) else [line[0]]
            moved = [source + 1 if source >= at else source for source in sources]
            line[0] = moved if isinstance(line[0], list) else moved[0]
        is_backbone = at < len(result["backbone"])
        section = result["backbone" if is_backbone else "head"]
        section.insert(at + 1 if is_backbone else at + 1 - len(result["backbone"]), [-1, 1, "ECA", arguments])
    return result
