"""A JAX computation in PyTorch: the hypotheses change PyTorch's operations, and so they can change those of JAX too.

`program.py` flattens a jaxpr, `primitives.py` and `windows.py` say a primitive in PyTorch, `composites.py` finds the
operations that JAX writes out (softmax, GELU, norms), and `run.py` runs it all. Nothing depends on a replay but the
search for causes, which checks first that the replay gives the reference's own result.
"""
