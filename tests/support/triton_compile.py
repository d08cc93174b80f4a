"""Compile the kernels for a GPU that need not be there: run by test_torch_triton.py without the interpreter."""

from itertools import product

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from eca_multi.torch._fast.triton_kernels import backward_kernel, forward_kernel
from eca_multi.torch._fast.triton_tile import Tile

FEATURE_MAPS = ("x", "y", "dy", "dx")
POINTERS = ("weight", "pooled", "gates", "dg", "dlogits")


def compile_for(capability, kernel, tile, *, columns, dtype, gate, padding, dg):
    constants = {"E": tile.channels, "P": tile.positions, "GATE": gate, "CIRCULAR": padding == "circular"}
    constants["stride_c" if columns else "stride_s"] = 1  # as Triton specialises an integer of 1
    if not dg:
        constants["dg"] = None
    types = {name: f"*{dtype}" for name in FEATURE_MAPS} | {name: "*fp32" for name in POINTERS}
    types |= {name: "constexpr" for name in constants}
    signature = {name: types.get(name, "i32") for name in kernel.arg_names}
    values = {(kernel.arg_names.index(name),): value for name, value in constants.items() if name in signature}
    target = GPUTarget("cuda", capability, 32)
    compiled = triton.compile(ASTSource(kernel, signature, values), target=target, options={"num_warps": tile.warps})
    assert compiled.asm["cubin"]
    print(compiled.metadata.name)


for columns, capability in product((False, True), (80, 90)):
    options = {"columns": columns, "gate": "hard_sigmoid" if columns else "2sigmoid", "dtype": "bf16"}
    options |= {"padding": "circular" if columns else "zeros", "dg": capability == 80}
    tile = Tile.of(2048, 49, 7, options["padding"], columns)
    for kernel in (forward_kernel, backward_kernel):
        compile_for(capability, kernel, tile, **options)
