"""Two files of tensors, compared one by one: verdicts, tolerances, budgets that are no numbers, and exit statuses."""

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from eca_multi import parity
from eca_multi.parity import SpecError, Verdict
from tests.support.parity_runs import cli, quick, text_of
from tests.support.scale import SCALE, Off


@pytest.fixture
def files(tmp_path):
    def write(name, **arrays):
        save_file({key.replace("_error", "@error"): np.asarray(a) for key, a in arrays.items()}, tmp_path / name)
        return tmp_path / name

    return write


ONES = np.ones(3, np.float32)


@pytest.mark.parametrize(
    ("first", "second", "options", "code", "verdict"),
    [
        ({"y": ONES}, {"y": ONES}, (), 0, "BITWISE"),
        ({"y": ONES}, {"y": ONES + 1e-6}, (), 1, "EXCEEDS_BUDGET"),
        ({"y": ONES + 1e-6}, {"y": ONES}, ("--atol", "1e-5"), 0, "WITHIN_BUDGET"),
        ({"y": ONES + 1e-4}, {"y": ONES}, ("--rtol", "1e-5"), 1, "EXCEEDS_BUDGET"),
        ({"y": ONES + 3e-6}, {"y": ONES, "y_error": ONES * 1e-6}, (), 0, "WITHIN_BUDGET"),  # c is 4
        ({"y": ONES + 5e-6}, {"y": ONES, "y_error": ONES * 1e-6}, (), 1, "EXCEEDS_BUDGET"),
        ({"y": ONES[:2]}, {"y": ONES}, (), 1, "SHAPE_MISMATCH"),
        ({"y": ONES * np.nan}, {"y": ONES}, ("--atol", "1"), 1, "NONFINITE_MISMATCH"),
        ({"y": ONES}, {"y": ONES, "z": ONES}, (), 1, "MISSING_TAP"),
        ({"y": ONES, "z": ONES}, {"y": ONES}, (), 1, "MISSING_TAP"),
    ],
    ids=["equal", "not equal", "atol", "rtol", "budget", "over budget", "shape", "nan", "fewer", "more"],
)
def test_two_files_are_compared_tensor_by_tensor(files, first, second, options, code, verdict):
    done = cli("compare", files("a.safetensors", **first), files("b.safetensors", **second), *options)
    assert done.exit_code == code, done.output
    assert verdict in done.output


@pytest.mark.parametrize("option", ["--rtol", "--atol"])
@pytest.mark.parametrize("value", ["inf", "nan", "-1", "1e400"])
def test_a_tolerance_that_lets_everything_pass_is_refused(files, option, value):
    done = cli("compare", files("a.safetensors", y=ONES), files("b.safetensors", y=ONES), option, value)
    assert done.exit_code == 2
    assert "rtol and atol must be 0 or more, and finite. Received: " in text_of(done)


@pytest.mark.parametrize("name", ["rtol", "atol"])
@pytest.mark.parametrize("value", [np.inf, np.nan, -1.0])
def test_the_api_refuses_such_a_tolerance_too(files, name, value):
    file = files("a.safetensors", y=ONES)
    with pytest.raises(SpecError, match=f"must be 0 or more, and finite. Received: {name}={value}"):
        parity.compare(file, file, **{name: value})


@pytest.mark.parametrize(
    ("error", "code", "verdict"),
    [
        pytest.param([np.inf, np.inf, np.inf], 4, "INCONCLUSIVE", id="infinite"),
        pytest.param([9, 9, np.inf], 4, "INCONCLUSIVE", id="infinite in one"),
        pytest.param([9, 9, np.nan], 4, "INCONCLUSIVE", id="NaN in one"),
        pytest.param([9, 9, -np.inf], 4, "INCONCLUSIVE", id="minus infinity"),
        pytest.param([0.01, 9, np.inf], 1, "EXCEEDS_BUDGET", id="exceeded in another"),
        pytest.param([9, 9, 1e308], 4, "INCONCLUSIVE", id="infinite with its c"),
        pytest.param([9, 9, 9], 4, "INCONCLUSIVE", id="larger than the reference"),
        pytest.param([0.125, 0.125, 0.125], 0, "WITHIN_BUDGET", id="control"),
    ],
)
def test_a_budget_that_is_no_number_lets_nothing_pass(files, error, code, verdict):
    error = np.array(error, np.float64)
    second = files("b.safetensors", y=ONES, y_error=error)
    done = cli("compare", files("a.safetensors", y=ONES + np.float32(0.5)), second)
    assert (done.exit_code, verdict in done.output) == (code, True), done.output


def test_what_is_equal_bit_for_bit_needs_no_budget(files):
    same = files("a.safetensors", y=ONES), files("b.safetensors", y=ONES, y_error=ONES * np.inf)
    assert parity.compare(*same)["y"].verdict is Verdict.BITWISE


def test_a_tolerance_that_overflows_lets_nothing_pass(files):
    second = files("b.safetensors", y=np.array([1.0, 1e300]))
    result = parity.compare(files("a.safetensors", y=np.array([1.0, 2e300])), second, rtol=1e300)
    assert result["y"].verdict is Verdict.INCONCLUSIVE


def test_a_reference_without_a_bound_makes_a_run_inconclusive(monkeypatch):
    """Exit status 4, whatever the runner returned."""
    monkeypatch.setattr(
        "eca_multi.parity.judge.verdicts.Judge.budget", lambda self, value, error: np.full_like(value, np.inf)
    )
    report = quick(replace(SCALE, runners={"numpy-off": Off}))
    assert {cell.verdict for cell in report.cells} == {Verdict.INCONCLUSIVE}
    assert "the budget is infinite or NaN at [0, 0]" in report.cells[0].reason
    assert report.exit_code == 4


def test_a_file_that_is_none_is_exit_2(files, tmp_path):
    (tmp_path / "b.safetensors").write_bytes(b"nothing of the kind")
    done = cli("compare", files("a.safetensors", y=ONES), tmp_path / "b.safetensors")
    assert done.exit_code == 2
    assert "b.safetensors must be a complete .safetensors file" in text_of(done)


def test_a_budget_of_another_shape_is_exit_2(files):
    done = cli("compare", files("a.safetensors", y=ONES), files("b.safetensors", y=ONES, y_error=ONES[:2]))
    assert done.exit_code == 2
    assert "y@error" in text_of(done)


def test_two_files_without_tensors_are_no_agreement(files):
    assert cli("compare", files("a.safetensors"), files("b.safetensors")).exit_code == 4


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(ONES, ONES.astype(np.float64), id="dtype"),
        pytest.param(ONES * 0, ONES * -0.0, id="sign of zero"),
    ],
)
def test_bit_by_bit_means_every_bit(files, first, second):
    assert cli("compare", files("a.safetensors", y=first), files("b.safetensors", y=second)).exit_code == 1


# --- transposes and names ---------------------------------------------------------------------------------------------


KERNEL = np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 7


@pytest.mark.parametrize(("atol", "shift"), [(0.0, 0.0), (1e-3, 5e-4)])
def test_a_transposed_tensor_is_found_out(files, atol, shift):
    first = files("a.safetensors", y=np.ascontiguousarray(KERNEL.transpose(2, 0, 1)) + np.float32(shift))
    judgement = parity.compare(first, files("b.safetensors", y=KERNEL), atol=atol)["y"]
    assert judgement.verdict is Verdict.SHAPE_MISMATCH
    assert judgement.hint == "equal if transposed by (1, 2, 0)"


def test_a_tensor_that_no_transpose_explains_has_no_hint(files):
    first = files("a.safetensors", y=KERNEL[::-1].copy(), same=np.ones((2, 2)))
    judgements = parity.compare(first, files("b.safetensors", y=KERNEL, same=np.zeros((2, 2))))
    assert {judgement.hint for judgement in judgements.values()} == {""}


def test_metrics_come_with_every_verdict(files):
    shifted = files("a.safetensors", y=KERNEL + np.float32(0.5), z=KERNEL, w=KERNEL.astype(np.float64))
    judgements = parity.compare(shifted, files("b.safetensors", y=KERNEL, z=KERNEL, w=KERNEL))
    assert judgements["y"].metrics["max_abs"] == pytest.approx(0.5)
    assert judgements["z"].metrics["max_abs"] == 0.0
    assert judgements["w"].verdict is Verdict.DTYPE_MISMATCH
    assert judgements["w"].metrics["rmse"] == 0.0


def test_other_names_are_mapped_and_found(files):
    first = files("a.safetensors", kernel=KERNEL.T.copy(), bias=np.arange(3.0))
    second = files("b.safetensors", weight=KERNEL, b=np.arange(3.0), other=np.arange(3.0) + 1)
    found = parity.compare(first, second)
    assert found["weight"].hint == "equal to kernel transposed by (2, 1, 0) of the other file"
    assert found["bias"].hint == "equal to b of the other file"
    assert found["other"].hint == ""
    mapped = parity.compare(first, second, names={"bias": "b", "kernel": "weight"})
    assert mapped["b"].verdict is Verdict.BITWISE
    assert mapped["weight"].hint == "equal if transposed by (2, 1, 0)"


@pytest.mark.parametrize(
    ("names", "match"),
    [
        ({"bais": "b"}, "names must name tensors of both files. Received: 'bais'"),
        ({"bias": "B"}, "names must name tensors of both files. Received: 'B'"),
        ({"bias": "b", "kernel": "b"}, "a name of its own. Received: 'b'"),
    ],
)
def test_names_that_cannot_be_right_are_refused(files, names, match):
    first = files("a.safetensors", kernel=KERNEL, bias=np.arange(3.0))
    with pytest.raises(parity.SpecError, match=match):
        parity.compare(first, files("b.safetensors", b=np.arange(3.0)), names=names)


def test_the_command_takes_names_and_prints_hints(files):
    first, second = files("a.safetensors", kernel=KERNEL.T.copy()), files("b.safetensors", weight=KERNEL)
    done = cli("compare", first, second, "--name", "kernel=weight")
    assert done.exit_code == 1
    assert "weight: equal if transposed by (2, 1, 0)" in " ".join(done.output.split())
    assert cli("compare", first, second, "--name", "kernel").exit_code == 2


def test_a_budget_as_large_as_the_reference_is_inconclusive(files):
    second = files("b.safetensors", y=KERNEL + 1, y_error=np.full(KERNEL.shape, 9.0))
    judgement = parity.compare(files("a.safetensors", y=KERNEL + np.float32(1.5)), second)["y"]
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert judgement.reach < 1
