"""One engine per framework: it runs an adapter's layer and returns outputs, gradients, states and taps.

Each module imports its framework at the top and is itself imported on use, by name, in a worker of its own process.
"""
