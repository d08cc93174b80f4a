"""States that a call in training mode changes are compared, or a warning names them; and sources that are refused."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn
from flax import nnx

from eca_multi._terminal import Terminal
from eca_multi.parity import ParityError, SpecError, assert_ported
from eca_multi.parity.define.loading import load_object
from eca_multi.parity.models import model_of
from eca_multi.parity.models.inputs import read_inputs
from eca_multi.parity.models.serve import load
from eca_multi.parity.port import compare_models, compare_sources
from eca_multi.parity.report.terminal import render

X = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32) + 1
NAMES = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
SAME = {name: name for name in NAMES.values()}


def norm(momentum: float) -> nnx.BatchNorm:
    return nnx.BatchNorm(3, momentum=momentum, epsilon=1e-5, rngs=nnx.Rngs(0))


def compared(*pair, names):
    report = compare_models(*pair, X, map=names, gradients=False)
    return {cell.tensor: cell.verdict.disagrees for cell in report.cells if cell.tensor.startswith("new_")}, report


def test_without_a_map_a_warning_names_the_states_that_are_not_compared():
    with pytest.warns(UserWarning, match=r"states after the call \(running_mean, .*mean of the port.*give map="):
        report = assert_ported(torch.nn.BatchNorm1d(3), norm(0.1), X, gradients=False)
    assert "give map=" in report.runners[0].detail
    with warnings.catch_warnings(action="error"):  # the control: nothing is changed
        assert_ported(torch.nn.BatchNorm1d(3).eval(), torch.nn.BatchNorm1d(3).eval(), X, gradients=False)


def test_with_a_map_running_statistics_are_compared():
    with pytest.raises(ParityError, match=r"compare the momentum(.|\n)*new_running_mean: EXCEEDS_BUDGET"):
        assert_ported(torch.nn.BatchNorm1d(3), norm(0.1), X, map=NAMES, gradients=False)
    right, _ = compared(torch.nn.BatchNorm1d(3), norm(0.9), names=NAMES)  # the control, but for the unbiased variance
    assert right == {"new_running_mean": False, "new_running_var": True}
    twins, report = compared(torch.nn.BatchNorm1d(3), torch.nn.BatchNorm1d(3), names=SAME)
    assert (set(twins.values()), report.exit_code, report.runners[0].detail) == ({False}, 0, "")


def test_a_state_that_one_side_alone_changes_is_wrong():
    still = torch.nn.BatchNorm1d(3, momentum=0.0)
    for pair in ((torch.nn.BatchNorm1d(3), still), (still, torch.nn.BatchNorm1d(3))):
        states, _ = compared(*pair, names=SAME)
        assert states == {"new_running_mean": True, "new_running_var": True}


def test_runs_return_the_states_and_put_them_back():
    layer, module = torch.nn.BatchNorm1d(3), nn.BatchNorm(use_running_average=False)
    variables = {
        "params": {"scale": jnp.ones(3), "bias": jnp.zeros(3)},
        "batch_stats": {"mean": jnp.zeros(3), "var": jnp.ones(3)},
    }
    for model, path in ((layer, "running_mean"), (norm(0.9), "mean"), ((module, variables), "batch_stats/mean")):
        held = model_of(model)
        states = held.run(X).states
        share = 0.01 if path.startswith("batch_stats") else 0.1
        np.testing.assert_allclose(states[path], share * X.mean(0), rtol=1e-5)
        assert len(states) == 2  # no counter, which is no float
        assert not held.weights()[path].any()
    assert model_of(layer.eval()).run(X).states == {}


# --- sources and files that cannot be used: one clear line each


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tb.py"
    path.write_text("import torch\nmodel = torch.nn.Softplus()\ndef make():\n    return {}\n")
    np.savez(tmp_path / "inputs.npz", X)
    return path


def test_a_map_that_is_no_mapping_is_refused(file):
    with pytest.raises(SpecError, match=r"the map must be a dict of names. Received: .*tb.py:make, a function."):
        compare_sources(f"{file}:model", f"{file}:model", file.parent / "inputs.npz", map=f"{file}:make")
    (file.parent / "list.json").write_text("[]")
    with pytest.raises(SpecError, match=r"the map must be a dict of names. Received: .*list.json, a list."):
        compare_sources(f"{file}:model", f"{file}:model", file.parent / "inputs.npz", map=f"{file.parent}/list.json")


def test_a_source_without_a_name_or_with_an_unknown_one_is_refused(file):
    with pytest.raises(SpecError, match=r"file.py:NAME or module:NAME. Received: .*tb.py, without :NAME."):
        load(str(file))
    with pytest.raises(SpecError, match=r"no model or function that makes one 'nosuch'. It has: model, make."):
        load(f"{file}:nosuch")
    assert isinstance(load_object(f"{file}:model"), torch.nn.Softplus)


def test_inputs_of_another_kind_are_refused_in_words_of_ours(file):
    with pytest.raises(SpecError, match=r"must be an .npz file of arrays. Received: .*tb.py: a file of another kind.$"):
        read_inputs(file)
    with pytest.raises(SpecError, match=r"Received: .*none.npz: No such file or directory.$"):
        read_inputs(file.parent / "none.npz")


def test_the_terminal_shows_no_escaped_end_of_line():
    torch.manual_seed(0)
    pair, names = (torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)), {"weight": "weight", "bias": "bias"}
    report = compare_models(*pair, X, map=names, gradients=False)
    console = Terminal(width=100)
    with console.capture() as captured:
        render(report, console, 0.0)
    shown = captured.get()
    assert "if the port's outputs are right; first divergence" in " ".join(shown.split())
    assert "\\n" not in shown
