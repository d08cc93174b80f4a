"""The adapter for Keras 3, on the backend that the worker's environment chose."""

from typing import Any

import keras
import numpy as np
from keras import ops

from eca_multi._canonical import pack
from eca_multi.keras import ECA, from_canonical
from eca_multi.parity.jobs import Job, Outputs, Tensor, move_channels, restore_channels

from .base import Adapter


class KerasAdapter(Adapter):
    @property
    def distributions(self) -> tuple[str, ...]:  # type: ignore[override]  # known once Keras has read its backend
        return ("keras", keras.backend.backend())

    def run(self, job: Job) -> Outputs:
        axis = self.axis(job)
        layer = ECA(
            job.kernel_size,
            shared=job.shared,
            data_format="channels_first" if axis == 1 else "channels_last",
            dtype=job.dtype,
            **job.options,
        )
        x = ops.convert_to_tensor(move_channels(job.arrays["x"], axis), job.dtype)
        cotangent = ops.convert_to_tensor(move_channels(job.arrays["cotangent"], axis), job.dtype)
        mask = ops.convert_to_tensor(job.arrays["mask"]) if "mask" in job.arrays else None
        layer.build(x.shape)
        from_canonical(layer, {"weight": job.arrays["weight"]})
        y, dx, dw = backend_gradients(layer, x, mask, cotangent)
        dw = _result(dw)
        return {
            "y": _result(y, axis),
            "dx": _result(dx, axis),
            "dw": Tensor(pack("keras", dw.values)["weight"], dw.dtype),
        }


def backend_gradients(layer: ECA, x: Any, mask: Any, cotangent: Any) -> tuple[Any, Any, Any]:
    """Return (y, dx, dw); Keras has no gradient function of its own, so each backend's is used."""
    return _GRADIENTS[keras.backend.backend()](layer, x, mask, cotangent)


def _tensorflow(layer: ECA, x: Any, mask: Any, cotangent: Any) -> tuple[Any, Any, Any]:
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, mask=mask)
    return y, *tape.gradient(y, [x, layer.kernel.value], output_gradients=cotangent)


def _jax(layer: ECA, x: Any, mask: Any, cotangent: Any) -> tuple[Any, Any, Any]:
    import jax

    def run(kernel: Any, x: Any, cotangent: Any) -> tuple[Any, Any, Any]:
        y, vjp = jax.vjp(lambda w, x: layer.stateless_call([w], [], x, mask=mask)[0], kernel, x)
        dw, dx = vjp(cotangent)
        return y, dx, dw

    return jax.jit(run)(layer.kernel.value, x, cotangent)


def _torch(layer: ECA, x: Any, mask: Any, cotangent: Any) -> tuple[Any, Any, Any]:
    import torch

    x = x.requires_grad_()
    y = layer(x, mask=mask)
    return y, *torch.autograd.grad(y, (x, layer.kernel.value), cotangent)


_GRADIENTS = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}


def _result(tensor: Any, axis: int | None = None) -> Tensor:
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    array = np.asarray(ops.convert_to_numpy(ops.cast(tensor, "float32")))
    return Tensor(array if axis is None else restore_channels(array, axis), dtype)
