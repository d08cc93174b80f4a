"""The power of the cases: each planted fault is found where it can be, and nothing is found where nothing can."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from eca_multi.parity import Case, Spec, TorchAdapter
from eca_multi.parity.define.checks import BASE
from eca_multi.parity.define.job import identified
from eca_multi.parity.define.tensor import Kind, Quantity, Tensor
from eca_multi.parity.engines.torch import TorchEngine
from eca_multi.parity.execute.tasks import tasks
from eca_multi.parity.judge.power import judge_power
from eca_multi.parity.judge.verdicts import Judge
from eca_multi.parity.mutants.layer import MUTANTS, MutatedEngine, mutants, run
from eca_multi.parity.mutants.mode import ANY, WRITTEN_OUT, Mutating
from eca_multi.parity.specs._eca_oracle import solve
from eca_multi.parity.specs.eca import SPEC, Torch
from eca_multi.torch._fast import choose

JUDGE = Judge(BASE, "analytic")
ALL = set(MUTANTS)
# A shared kernel has one axis, so nothing to transpose.
WHERE = {name: "per-channel" if name == "transposed weight" else "offsets" for name in MUTANTS}


@pytest.fixture(scope="module")
def engine():
    return TorchEngine(Torch())


def task_of(case, dtype="float32", spec=SPEC):
    (task,) = tasks(spec, [spec.case(case)], [dtype], BASE)
    return task


def solution_of(task):
    return identified(solve(task.job), task.job)


def power_of(engine, case, dtype="float32", spec=SPEC):
    task = task_of(case, dtype, spec)
    return judge_power(JUDGE, task, dict(mutants(engine, task.job)), solution_of(task))


def kills(engine, name, case, dtype="float32", gradients=True):
    task = task_of(case, dtype)
    task = replace(task, job=replace(task.job, gradients=gradients))
    power = judge_power(JUDGE, task, {name: run(engine, task.job, MUTANTS[name])}, solution_of(task))
    assert not power.not_applicable
    return bool(power.killed)


def verdicts(task, results):
    return {cell.tensor: cell.verdict for cell in JUDGE.cells("", task, results, solution_of(task))}


# --- what is wrong is found, and nothing else


@pytest.mark.parametrize(("name", "case"), WHERE.items())
def test_each_mutant_is_killed_in_float32(engine, name, case):
    assert kills(engine, name, case)


@pytest.mark.parametrize("case", ["circular", "padded-sequences", "volume"])
def test_a_case_kills_all_mutants_that_apply_to_it_in_float32(engine, case):
    power = power_of(engine, case)
    assert (power.survived, power.not_applicable) == ((), ("transposed weight",))
    assert set(power.killed) == ALL - {"transposed weight"}


@pytest.mark.parametrize("case", ["offsets", "circular", "per-channel", "padded-sequences"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_same_machinery_without_a_fault_changes_no_bit(engine, case, dtype, monkeypatch):
    """What kills a mutant is its fault, and not that its operations are looked at."""
    monkeypatch.setattr(choose, "SMALL", 1 << 62)  # ECA shows its operations to whoever looks at them
    task = task_of(case, dtype)
    watched = MutatedEngine(engine, {ANY: lambda call: call.plain()})
    results, plain = watched.evaluate(task.job), engine.evaluate(task.job)
    assert watched.mode.applied > 5
    assert {name: t.values.tobytes() for name, t in results.items()} == {
        n: t.values.tobytes() for n, t in plain.items()
    }
    assert all(verdict.green for verdict in verdicts(task, results).values())


def test_a_mutant_is_the_same_at_each_run(engine):
    job = task_of("circular", "float16").job
    first, second = dict(mutants(engine, job)), dict(mutants(engine, job))
    for name in ALL - {"transposed weight"}:
        assert all(np.array_equal(first[name][t].values, second[name][t].values) for t in first[name])


def test_no_mutant_outlives_its_run(engine):
    task = task_of("per-channel")
    before = engine.evaluate(task.job)
    list(mutants(engine, task.job))
    after = engine.evaluate(task.job)
    assert all(np.array_equal(before[name].values, after[name].values) for name in before)


def test_gradients_alone_tell_of_a_detached_gate(engine):
    assert kills(engine, "detached gate", "offsets")
    assert not kills(engine, "detached gate", "offsets", gradients=False)


def test_power_depends_on_the_data_and_the_dtype(engine):
    """n - 1 instead of 3233 is 3e-4, below bfloat16's roundoff; and 35 terms are too few to stagnate."""
    assert kills(engine, "n-1 divisor", "circular", "bfloat16")
    assert not kills(engine, "n-1 divisor", "offsets", "bfloat16")
    assert kills(engine, "half-precision accumulation", "same-sign", "float16")
    assert not kills(engine, "half-precision accumulation", "circular", "float16")


# --- what cannot be found


def powerless():
    """With x = 0 every mean is 0, and so are the convolution and its gradients: any layer would pass."""
    small = {"H": 7, "W": 5}
    zeros = Case("zeros", config=small, draw=lambda rng, config: {"x": np.zeros([config[axis] for axis in "NCHW"])})
    return replace(SPEC, cases=(zeros,))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_powerless_case_kills_none(engine, dtype):
    power = power_of(engine, "zeros", dtype, powerless())
    assert power.killed == ()
    assert set(power.survived) == ALL - {"transposed weight"}


def test_a_kernel_over_one_channel_can_be_flipped_unseen(engine):
    assert power_of(engine, "one-channel").survived == ("kernel flip",)


def test_only_a_verdict_kills(engine):
    """A tensor that the reference or the mutant lacks was not compared."""
    task = task_of("offsets")
    y = Quantity(Kind.OUTPUT, "y")
    solution = {y: solution_of(task)[y]}
    results = engine.evaluate(task.job)
    by_mutant = {"right": results, "empty": {}, "wrong": {**results, y: Tensor(2 * results[y].values, "float32")}}
    power = judge_power(JUDGE, task, {**by_mutant, "none": None}, solution)
    assert (power.killed, power.survived, power.not_applicable) == (("wrong",), ("right", "empty"), ("none",))


# --- what does not apply


class Mean(TorchAdapter):
    def build(self, config):
        return lambda inputs, weights: inputs["x"].mean(-1, keepdim=True) * weights["scale"]


class Refusing(TorchAdapter):
    def build(self, config):
        def layer(inputs, weights):
            gate = torch.sigmoid(inputs["x"])
            if gate.max() >= 1:  # as only the hard sigmoid's is here
                raise RuntimeError("a gate of 1")
            return gate * weights["scale"]

        return layer


class Broken(TorchAdapter):
    def build(self, config):
        return lambda inputs, weights: inputs["x"].nothing()


def spec_of(adapter, n=2):
    case = Case("only", config={"N": n}, draw=lambda rng, config: {"x": 4 * rng.normal(size=(n, 12))})
    return Spec("S", "NC", {"scale": "C"}, {"torch": adapter}, adapter, cases=[case])


def applicable(adapter, n=2):
    job = task_of("only", spec=spec_of(adapter, n)).job
    return {name for name, results in mutants(TorchEngine(adapter()), job) if results is not None}


def test_a_mutant_applies_only_where_its_operation_occurs():
    everywhere = {"kernel flip", "wrong axis"}
    assert applicable(Mean) == everywhere | {"n-1 divisor", "half-precision accumulation", "batch leak"}
    assert "batch leak" not in applicable(Mean, n=1)


def test_a_mutant_for_which_the_layer_raises_does_not_apply():
    assert "detached gate" in applicable(Refusing)
    assert "other gate" not in applicable(Refusing)


def test_a_layer_that_raises_by_itself_is_no_mutant():
    with pytest.raises(AttributeError, match="nothing"):
        applicable(Broken)


# --- the operations


def changed(name, function, *args):
    mode = Mutating(MUTANTS[name].operations)
    with mode:
        result = function(*args)
    assert mode.applied == 1
    return result


X = torch.arange(1.0, 25).reshape(2, 3, 4).requires_grad_()


def test_what_the_faults_do_to_operations():
    zeros = torch.zeros(2, 3, 1)
    assert torch.equal(changed("padding shift", F.pad, X, (1, 1)), torch.cat([zeros, zeros, X], -1))
    assert torch.equal(changed("padding shift", F.pad, X, (1, 0)), torch.cat([X, zeros], -1))
    around = torch.cat([X[..., 2:], X, X[..., :2]], -1)
    assert torch.equal(changed("padding shift", lambda: torch.cat([X[..., 2:], X, X[..., :2]], -1)), around.roll(1, -1))
    torch.testing.assert_close(changed("n-1 divisor", X.sum, -1), X.sum(-1) * 4 / 3)
    torch.testing.assert_close(changed("n-1 divisor", X.mean), X.sum() / 23)
    assert torch.equal(changed("other gate", F.relu, -X), F.leaky_relu(-X))
    assert torch.equal(changed("wrong axis", X.sum, 1), X.transpose(1, 2).reshape(X.shape).sum(1))
    torch.testing.assert_close(changed("wrong axis", X.softmax, -1), X.softmax(1))


def test_sums_in_half_precision_stagnate_and_keep_their_gradient():
    x = torch.ones(3, 2500, requires_grad=True)
    total = changed("half-precision accumulation", x.sum, 1)
    assert total.tolist() == [2048.0] * 3
    assert torch.autograd.grad(total.sum(), x)[0].eq(1).all()


@pytest.mark.parametrize("padding", [1, "same", (1,)])
def test_the_padding_of_a_convolution_is_shifted(padding):
    w = torch.tensor([1.0, 10, 100]).expand(5, 3, 3)
    shifted = F.conv1d(F.pad(X, (2, 0)), w)
    assert torch.equal(changed("padding shift", lambda: F.conv1d(X, w, padding=padding)), shifted)


def test_a_skipped_convolution_is_the_identity_or_the_kernels_centre():
    w = torch.randn(3, 3, 3)
    assert torch.equal(changed("skipped convolution", lambda: F.conv1d(X, w, padding=1)), X)
    centre = F.conv1d(X, w[..., 1:2])[..., 1:3]
    torch.testing.assert_close(changed("skipped convolution", lambda: F.conv1d(X, w)), centre)


def test_operations_in_place_are_changed_in_place():
    x = X.detach().sub(12).clone().requires_grad_()
    y = x + 0
    z = changed("other gate", lambda: y.relu_())
    assert z is y
    assert torch.equal(y, F.leaky_relu(x))


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("layer_norm", lambda x, w, b: F.layer_norm(x, (6,), w, b)),
        ("rms_norm", lambda x, w, b: F.rms_norm(x, (6,), w)),
        ("group_norm", lambda x, w, b: F.group_norm(x, 3, w, b)),
        ("batch_norm", lambda x, w, b: F.batch_norm(x, torch.zeros(6), torch.ones(6), w, b, training=True)),
        ("scaled_dot_product_attention", lambda x, w, b: F.scaled_dot_product_attention(x, x, x, is_causal=True)),
    ],
)
def test_what_is_written_out_is_what_pytorch_computes(name, function):
    """So that a fault within is found for itself."""
    x, w, b = torch.randn(4, 6, 6, generator=torch.manual_seed(0)).requires_grad_(), torch.randn(6), torch.randn(6)
    mode = Mutating({WRITTEN_OUT[name][0]: lambda call: call.plain()})
    with mode:
        written = function(x, w, b)
    assert mode.applied
    torch.testing.assert_close(written, function(x, w, b))


def test_running_statistics_are_kept_although_the_norm_is_written_out():
    mean, var = torch.zeros(3), torch.ones(3)
    changed_mean = Mutating(MUTANTS["n-1 divisor"].operations)
    with changed_mean:
        F.batch_norm(X, mean, var, training=True)
    torch.testing.assert_close(mean, 0.1 * X.mean((0, 2)))
