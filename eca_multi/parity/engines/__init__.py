"""One engine per framework: it runs an adapter's layer and returns outputs, gradients, states and taps.

Each module imports its framework at the top. A worker imports one module, by its name in these tables.
"""

# An adapter's `engine` -> the class that runs it, and the class that runs it in float64 as the reference.
ENGINES = {
    "torch": "eca_multi.parity.engines.torch:TorchEngine",
    "jax": "eca_multi.parity.engines.jax:JaxEngine",
    "linen": "eca_multi.parity.engines.linen:LinenEngine",
    "nnx": "eca_multi.parity.engines.nnx:NnxEngine",
    "keras": "eca_multi.parity.engines.keras:engine",
    "numpy": "eca_multi.parity.engines.numpy:NumpyEngine",
}
REFERENCES = {
    "torch": "eca_multi.parity.budget.torch_reference:TorchReference",
    "numpy": "eca_multi.parity.budget.numpy_reference:NumpyReference",
}
