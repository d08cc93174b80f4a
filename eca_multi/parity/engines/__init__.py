"""One engine per framework: it runs an adapter's layer and returns outputs, gradients, states and taps.

Each module imports its framework at the top and is itself imported on use, by name, in a worker of its own process.
"""

# An adapter's `engine` -> what runs it, and what runs it in float64 as the reference.
ENGINES = {
    "_torch": "_torch:TorchEngine",
    "_jax": "_jax:JaxEngine",
    "_linen": "_linen:LinenEngine",
    "_nnx": "_nnx:NnxEngine",
    "_keras": "_keras:engine",
    "_numpy": "_numpy:NumpyEngine",
}
REFERENCES = {"_torch": "_torch_reference:TorchReference", "_numpy": "_numpy:NumpyReference"}
