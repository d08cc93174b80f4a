"""Passes over a feature map that are faster than torch's own operations: in eager mode on the CPU, and in Triton.

`_eager` says which tensors they may take, `fused` is the layer made of them, and `triton_route` says where the Triton
kernels serve. `functional.eca` chooses between these and the tensor lines. Keras on torch uses this folder too.
"""
