"""A network's weights, and files of them in each format."""

import pytest

from eca_multi.networks import NETWORKS
from tests.support import fuzz_seeds
from tests.support.checkpoint_factory import FORMATS, random_weights
from tests.support.converting import ARCH


@pytest.fixture(scope="module")
def weights():
    return random_weights(ARCH, num_classes=5)


@pytest.fixture(scope="module")
def files(tmp_path_factory, weights):
    """The file of each format, written when it is asked for."""
    made = {}

    def file(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name) / FORMATS[name].file
            FORMATS[name].write(weights, made[name])
        return made[name]

    return file


@pytest.fixture(scope="module")
def tiny():
    """Let a network of 120 kB be found, and return its weights."""
    fuzz_seeds.add_tiny()
    yield random_weights(fuzz_seeds.TINY, num_classes=2)
    del NETWORKS[fuzz_seeds.TINY]
