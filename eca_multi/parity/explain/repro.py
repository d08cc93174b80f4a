"""A bundle's job in this process, where a debugger can follow: what the repro.py of a bundle calls."""

import os
import sys
from collections.abc import Sequence

import numpy as np

from eca_multi._printable import printable
from eca_multi.parity.define.axes import SpecError
from eca_multi.parity.define.tensor import labelled

from .bundle import ERROR, read_bundle
from .trust import check_trust


def main(arguments: Sequence[str]) -> None:
    """Evaluate the job of the bundle `arguments[0]`, and print its errors; --trust runs adapters that are not ours."""
    folder, *options = arguments
    try:
        bundle = read_bundle(folder)
        if "--trust" not in options:
            check_trust(bundle, folder)
    except SpecError as refusal:
        print(printable(refusal, lines=True), file=sys.stderr)
        sys.exit(2)
    os.environ.update(bundle.env)  # before the worker's module imports a framework
    from eca_multi.parity.execute.worker import make_engine

    results = make_engine("runner", bundle.adapter).evaluate(bundle.job)
    for name, tensor in labelled(results).items():
        if name in bundle.truth:
            error = np.abs(tensor.values - bundle.truth[name])
            share = (error / (bundle.c * bundle.truth[name + ERROR])).max()
            print(printable(name), "error", error.max(), "x the budget", share)
