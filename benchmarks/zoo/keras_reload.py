"""Load a saved Keras network and run it."""

from importlib import import_module

import keras
import numpy as np

import eca_multi.keras  # noqa: F401  # its layers are found by their registered names
from benchmarks.zoo.keras_run import run


def reload(path: str) -> None:
    """The line holds the package and the path: Keras finds a class by its name once its package is imported."""
    package, path = path.split(" ", 1)
    if package in ("keras_hub", "kecam"):
        import_module(package)
    model = keras.saving.load_model(path, safe_mode=False)
    with np.load(f"{path}.inputs.npz") as file:
        inputs = [file[name] for name in file.files]
    np.savez(f"{path}.outputs.npz", *run(model, inputs[0] if len(inputs) == 1 else inputs))
