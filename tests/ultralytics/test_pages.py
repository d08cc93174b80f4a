"""The pages on YOLO are true: their code runs from YAML to exported file, and the docstrings' examples run."""

import doctest
import re
from importlib import import_module
from pathlib import Path

import pytest

from tests.support.yolo import require_ultralytics, settle, write_data

require_ultralytics()

from ultralytics import YOLO  # noqa: E402  (the module is skipped before)

from eca_multi.ultralytics import unregister  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.slow]
DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", ["yolo.md", "zh/yolo.md"])
def test_code_runs(page, tmp_path, monkeypatch):
    """A walk from one block to the next, with a data set and a checkpoint of random weights in place of downloads."""
    monkeypatch.chdir(tmp_path)
    settle(str(tmp_path / "runs"))
    write_data(tmp_path)
    YOLO("yolov8n.yaml").save("yolov8n.pt")
    walk: dict[str, object] = {"__name__": page}
    blocks = BLOCK.findall(DOCS.joinpath(page).read_text(encoding="utf-8"))
    assert len(blocks) == 5
    for number, code in enumerate(blocks):
        exec(compile(code, f"{page}, block {number + 1}", "exec"), walk)
    unregister()


@pytest.mark.parametrize("module", ["insert", "load", "register"])
def test_examples_in_docstrings_run(module):
    result = doctest.testmod(import_module(f"eca_multi.ultralytics.{module}"))
    unregister()
    assert result.attempted > 3
    assert result.failed == 0
