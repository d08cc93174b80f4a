"""Some inputs of the fuzzer, and faults that it must find; `make fuzz` looks for more."""

import mmap
import subprocess
import sys
import time

import numpy as np
import pytest

from eca_multi.checkpoints import CheckpointError
from tests.support import fuzz_readers, fuzz_seeds
from tests.support.reading import MIB, bounded


def test_the_bounds_can_be_broken():
    with pytest.raises(fuzz_readers.TooSlow, match="too slow"), bounded(0.02):
        time.sleep(10)
    # Pages of a mapping of its own: `np.ones` may get pages that another test has freed and that still are resident.
    with pytest.raises(AssertionError, match="< 1048576"), bounded(memory=MIB), mmap.mmap(-1, 8 * MIB) as pages:
        pages.write(bytes(8 * MIB))


@pytest.fixture(scope="module")
def seeds(tmp_path_factory, tiny):
    folder = tmp_path_factory.mktemp("seeds")
    fuzz_seeds.make_seeds(folder)
    return folder


@pytest.mark.keras
def test_some_inputs_of_the_fuzzer(seeds, tmp_path):
    forms = [form for form in fuzz_seeds.FORMS if form != "orbax"]  # its threads go on after an error: the slow test
    outcomes = [fuzz_readers.run_one(seeds, 0, index, forms, tmp_path) for index in range(80)]
    assert [outcome for outcome in outcomes if outcome.fault] == []
    assert {outcome.form for outcome in outcomes} == set(forms)
    assert sum(bool(outcome.error) for outcome in outcomes) > 32
    assert sum(not outcome.error for outcome in outcomes) > 8
    again = fuzz_readers.run_one(seeds, 0, 7, forms, tmp_path)
    assert (again.form, again.error, again.size) == (outcomes[7].form, outcomes[7].error, outcomes[7].size)


@pytest.mark.slow
def test_every_seed_is_read(seeds):
    """What is changed was right before: else the fuzzer would try the first line of a reader alone."""
    for name, form in fuzz_seeds.FORMS.items():
        for one in (seeds / name).iterdir():
            for read in form.readers:
                if one.name.startswith("few") and read is not fuzz_seeds.read_canonical:
                    with pytest.raises(CheckpointError, match="must hold the tensors of a network"):
                        read(one)
                else:
                    read(one)


def raises(_):
    [][0]


def hangs(_):
    while True:
        pass


def allocates(path):
    np.ones(1 << 25)


def swallows(path):
    try:
        raise MemoryError
    except MemoryError as error:
        raise CheckpointError("broken") from error


@pytest.mark.parametrize(
    ("read", "fault"),
    [
        (raises, "IndexError"),
        (hangs, "too slow"),
        (allocates, "bytes of memory"),
        (swallows, "MemoryError"),
    ],
)
def test_the_fuzzer_finds_what_is_planted(tmp_path, monkeypatch, read, fault):
    monkeypatch.setattr(fuzz_readers, "SECONDS", 1.0)
    (tmp_path / "file").write_bytes(b"x")
    assert fault in fuzz_readers.try_reader(read, tmp_path / "file", fuzz_seeds.PLAIN).fault


@pytest.mark.slow
def test_ten_thousand_inputs(tmp_path):
    done = subprocess.run(
        [sys.executable, fuzz_readers.__file__, "--inputs", "10000", "--seed", "0"], capture_output=True, text=True
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-5000:]
    assert "10000 inputs, 0 findings" in done.stdout
