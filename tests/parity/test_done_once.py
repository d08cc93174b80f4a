"""Work of a run that is done once or not at all: judging equal tensors, compiling equal programs, sizes, processes."""

import os
from types import SimpleNamespace

import numpy as np
import pytest

from eca_multi import parity
from eca_multi.parity.define.checks import BASE
from eca_multi.parity.define.runners import HYPOTHESES, mutated_runner
from eca_multi.parity.define.tensor import Kind, Quantity, Tensor
from eca_multi.parity.execute.state import RunnerState
from eca_multi.parity.execute.tasks import tasks
from eca_multi.parity.explain.investigate import _stand_in
from eca_multi.parity.explain.rerun import Rerun
from eca_multi.parity.explain.shrink import shrink
from eca_multi.parity.judge import verdicts
from eca_multi.parity.judge.verdicts import Judge
from eca_multi.parity.specs import find_spec

Y = Quantity(Kind.OUTPUT, "y")


@pytest.fixture
def judged(monkeypatch):
    """The tensors that are judged and not remembered, in order."""
    seen = []

    def judge(tensor, *arguments, **options):
        seen.append(tensor.values.copy())
        return judge_itself(tensor, *arguments, **options)

    judge_itself = verdicts.judge
    monkeypatch.setattr(verdicts, "judge", judge)
    return seen


def cells(judge, runner, values, checks=("", "compiled")):
    spec, _ = find_spec("eca")
    found = []
    for task in tasks(spec, [spec.case("one-position")], ["float32"], ("forward", "compiled")):
        if task.check in checks:
            reference = np.ones((1, 18, 1, 1))
            solution = {Y: (reference, np.full_like(reference, 1e-6))}
            found += judge.cells(runner, task, {Y: Tensor(values, "float32")}, solution)
    return [cell for cell in found if cell.tensor == "y"]


def test_a_tensor_with_the_same_bits_is_judged_once(judged):
    right = np.ones((1, 18, 1, 1), np.float32)
    plain, compiled = cells(Judge(("forward", "compiled"), "analytic"), "jax", right)
    assert len(judged) == 1
    assert plain.judgement == compiled.judgement
    assert (plain.check, compiled.check) == ("forward", "compiled")


def test_other_bits_and_another_runner_are_judged_anew(judged):
    judge, right = Judge(("forward", "compiled"), "analytic"), np.ones((1, 18, 1, 1), np.float32)
    wrong = right.copy()
    wrong[0, 3] = 2.0
    assert all(cell.green for cell in cells(judge, "jax", right))
    assert not any(cell.green for cell in cells(judge, "jax", wrong))
    assert not any(cell.green for cell in cells(judge, "nnx", wrong))
    assert len(judged) == 3
    assert all(cell.green for cell in cells(judge, "jax", right, [""]))


def test_a_worker_of_the_run_that_has_the_layer_searches_for_the_cause():
    spec, _ = find_spec("eca")
    torch = mutated_runner(spec)
    session = SimpleNamespace(runners=[torch], states={"torch": RunnerState("torch")})
    assert _stand_in(spec, session) == torch
    session.states["torch"].state = "crashed"
    assert _stand_in(spec, session).name == HYPOTHESES
    assert _stand_in(spec, SimpleNamespace(runners=[], states={})).name == HYPOTHESES


def test_shrinking_tries_no_size_above_the_first_that_fails(monkeypatch):
    spec, _ = find_spec("eca")
    job = tasks(spec, [spec.case("short-channels")], ["float32"], BASE)[0].job
    tried = []

    class Bench:
        def run(self, jobs):
            tried.extend(tuple(job.config[axis] for axis in "NHWC") for job in jobs)
            return [Rerun(job, {}, {}) for job in jobs]

    monkeypatch.setattr("eca_multi.parity.explain.shrink._fails", lambda rerun, *_: rerun.job.config["H"] >= 3)
    found = shrink(Bench(), Judge(BASE, "analytic"), job, "y")
    assert [found.config[axis] for axis in "NHWC"] == [1, 3, 1, 1]
    assert tried == [(1, 5, 4, 3), (1, 1, 4, 3), (1, 2, 4, 3), (1, 3, 4, 3), (1, 3, 1, 3), (1, 3, 1, 1)]


def test_the_processes_of_tests_share_what_jax_compiles_and_the_tests_do_not():
    import jax

    assert os.environ["JAX_COMPILATION_CACHE_DIR"]
    assert jax.config.values["jax_compilation_cache_dir"] is None


@pytest.mark.slow
def test_layers_that_compute_the_same_are_compiled_once(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    programs = []
    for runner, case in (("jax", "one-position"), ("linen", "one-position"), ("linen", "one-channel")):
        parity.run(runners=[runner], cases=[case], dtypes=["float32"]).raise_for_status()
        programs.append(len([path for path in tmp_path.iterdir() if path.name.startswith("jit_layer")]))
    assert programs == [1, 1, 2]
