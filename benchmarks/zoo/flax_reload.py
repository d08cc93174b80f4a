"""Make a linen network with ECA from what another process wrote, and run it."""

from pathlib import Path

import numpy as np
from flax import serialization

from benchmarks.zoo.flax_networks import NETWORKS
from benchmarks.zoo.flax_run import random_variables, run
from eca_multi.flax.linen import insert_eca
from eca_multi.surgery.plan import ECAPlan


def reload(line: str) -> None:
    name, path = line.split(" ", 1)
    module, call = NETWORKS[name]()
    variables = random_variables(module, call)
    plan = ECAPlan.load(f"{path}.json")
    module, template = insert_eca(module, variables, plan=plan, example_inputs=call.inputs, verify=False)
    loaded = serialization.from_bytes(template, Path(f"{path}.bytes").read_bytes())
    np.savez(f"{path}.npz", *run(module, loaded, call))
