"""Efficient Channel Attention for PyTorch, Keras 3 and Flax. Importing this package imports no framework.

The layers live in one subpackage per framework, so that the import names the framework that it needs:

    from eca_multi.torch import ECA         from eca_multi.flax.linen import ECA
    from eca_multi.keras import ECA         from eca_multi.flax.nnx import ECA
    from eca_multi.jax import eca
"""

from ._kernel import eca_kernel_size as eca_kernel_size

__all__ = ["__version__", "eca_kernel_size"]
__version__ = "0.1.0"
