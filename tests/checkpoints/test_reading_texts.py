"""Configs, plans, reports, bundles and headers that are not what they say."""

import json

import pytest

from eca_multi.checkpoints import load_file, read_checkpoint
from eca_multi.checkpoints.detect import detect
from eca_multi.checkpoints.safetensors import write_safetensors
from eca_multi.surgery.plan import ECAPlan
from tests.support.reading import DEEP, bounded, refused


@pytest.mark.parametrize(
    "text",
    [
        DEEP,
        '{"crop_pct": 1e999}',
        '{"input_size": [1e999]}',
        '{"crop_pct": ' + "9" * 400 + "}",
        '{"input_size": {}}',
        "\ud800",
        '{"crop_pct": "nan"}',
        '{"input_size": [3, 7, -7]}',
        '{"input_size": [1e300]}',
        '{"std": [1, 1, 0]}',
        '{"mean": [0, "inf", 0]}',
    ],
    ids=[
        "deep",
        "infinite",
        "an infinite size",
        "a huge number",
        "no list",
        "half a character",
        "a text that is no number",
        "a negative size",
        "a huge size",
        "a std of 0",
        "an infinite mean",
    ],
)
def test_a_config_that_lies(tmp_path, tiny, text):
    from eca_multi.checkpoints.find_files import Hub
    from eca_multi.checkpoints.find_pretrained import find_pretrained

    write_safetensors(tiny, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    if text == '{"input_size": {}}':  # says nothing
        assert find_pretrained(tmp_path, Hub()).preprocessing.size == 224
    else:
        refused(tmp_path, lambda path: find_pretrained(path, Hub()), r"config\.json must be as timm writes it")


@pytest.mark.parametrize(
    "text",
    [
        DEEP,
        '{"schema": 1, "framework": "torch", "model": "Net", "gamma": 1e999}',
        '{"schema": 1, "framework": "torch", "model": "Net", "gamma": []}',
        '{"schema": 1, "framework": 3, "model": "Net"}',
        '{"schema": 1, "framework": "torch", "model": "Net", "entries": [[]]}',
        '{"schema": 1, "framework": "torch", "model": "Net", "skipped": [3]}',
        '{"schema": 1, "framework": "torch", "model": "Net", "skipped": {"a": 3}}',
        '{"schema": 1, "framework": "torch", "model": "Net", "notes": [{}]}',
        '{"schema": 1, "framework": "torch", "model": "Net", "entries": [{"path": "a", "parameters": "many"}]}',
        '{"schema": 1, "framework": "torch", "model": "Net", "entries": [{"path": "a", "notes": "xx"}]}',
        b"\xff",
    ],
    ids=str,
)
def test_a_plan_that_lies(tmp_path, text):
    (tmp_path / "plan.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with bounded(), pytest.raises(ValueError, match="plan must be the JSON of an ECAPlan"):
        ECAPlan.load(tmp_path / "plan.json")


def test_a_plan_that_names_a_site_twice(tmp_path):
    entry = {"path": "a.bn", "channels": 8, "notes": ["b", "b"]}
    text = json.dumps({"schema": 1, "framework": "torch", "model": "Net", "entries": [entry, entry]})
    (tmp_path / "plan.json").write_text(text)
    assert "a.bn: b" in str(ECAPlan.load(tmp_path / "plan.json"))


@pytest.mark.parametrize("text", [DEEP, '{"schema": 1e999}', "[]", '{"schema": 2}', b"\xff"], ids=str)
def test_a_report_and_a_bundle_that_lie(tmp_path, text):
    from eca_multi.parity import SpecError
    from eca_multi.parity.explain.bundle import read_bundle
    from eca_multi.parity.report.json import read_report

    data = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "bundle.json").write_bytes(data)
    with bounded(), pytest.raises(ValueError, match="must be a report of run --json"):
        read_report(tmp_path / "bundle.json")
    with bounded(), pytest.raises(SpecError, match="must be a complete bundle"):
        read_bundle(tmp_path)


HEADERS = {
    "deep": DEEP,
    "infinite": '{"a": {"dtype": "F32", "shape": [1e999], "data_offsets": [0, 4]}}',
    "a shape without its data": '{"a": {"dtype": "F32", "shape": [1099511627776], "data_offsets": [0, 4]}}',
    "more data than its shape": '{"a": {"dtype": "F16", "shape": [1], "data_offsets": [0, 4]}}',
    "a negative place": '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}',
    "two at one place": '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, '
    '"b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}',
    "a hole": '{"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}',
    "no offsets": '{"a": {"dtype": "F32", "shape": [1]}}',
    "a list": "[1]",
    "metadata of numbers": '{"__metadata__": {"a": 1}}',
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_lies(tmp_path, name):
    text = HEADERS[name].encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    refused(path, load_file, r"path must name a complete \.safetensors file")
    if text[:1] == b"{":
        refused(path, read_checkpoint, r"path must name a complete \.safetensors file")


def test_a_header_of_many_tensors(tmp_path):
    """A hundred megabytes of them would take a minute: their number is looked at first, and not what each is."""
    header = json.dumps({str(i): {} for i in range(50_001)}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    refused(tmp_path / "model.safetensors", read_checkpoint, "50001 tensors, more than any network has")


def test_a_key_that_is_cut_off(tmp_path):
    (tmp_path / "file").write_bytes(b"\x81\xd9")
    refused(tmp_path / "file", detect, "of another format")
