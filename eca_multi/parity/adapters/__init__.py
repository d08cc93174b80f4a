"""One adapter per framework: it builds the layer, loads the weights, and returns output and gradients as NumPy arrays.

Each module imports its framework at the top and is itself imported on use, by name, in a worker of its own process.
"""
