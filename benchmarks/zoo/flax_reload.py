"""Load a pickled linen network with its variables, and run it."""

import pickle
from pathlib import Path

from benchmarks.zoo.flax_run import run


def reload(path: str) -> None:
    module, variables, call = pickle.loads(Path(path).read_bytes())
    Path(f"{path}.outputs").write_bytes(pickle.dumps(run(module, variables, call)))
