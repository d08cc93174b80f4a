"""PyTorch's fingerprint, run eagerly on the default device."""

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import torch
from torch.nn.functional import avg_pool1d, conv1d, layer_norm

from .primitives import Facts, Primitives


class Framework(Primitives):
    channel_axis = 1
    sigmoid = staticmethod(torch.sigmoid)

    def tensor(self, array: np.ndarray) -> torch.Tensor:
        if array.dtype == ml_dtypes.bfloat16:  # unknown to from_numpy
            tensor = torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        else:
            tensor = torch.from_numpy(array)
        return tensor.to(torch.get_default_device())

    def numpy(self, tensor: torch.Tensor) -> np.ndarray:
        tensor = tensor.detach().cpu()
        if tensor.dtype == torch.bfloat16:
            bits: np.ndarray = tensor.view(torch.int16).numpy()
            return bits.view(ml_dtypes.bfloat16)
        return tensor.numpy()

    def conv1d(self, x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        return conv1d(x, kernel.permute(2, 1, 0), padding=kernel.shape[0] // 2)

    def layer_norm(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return layer_norm(x, bias.shape, torch.ones_like(bias), bias)

    def window_mean(self, x: torch.Tensor, size: int) -> torch.Tensor:
        return avg_pool1d(x, size, stride=1)

    def vjp(self, function: Callable[[Any], Any], at: torch.Tensor, cotangent: torch.Tensor) -> torch.Tensor:
        at = at.detach().requires_grad_()
        return torch.autograd.grad(function(at), at, cotangent)[0]

    def facts(self, sample: torch.Tensor) -> Facts:
        device = sample.device
        return {
            "flag.matmul_precision": torch.get_float32_matmul_precision,
            "flag.tf32.matmul": lambda: torch.backends.cuda.matmul.allow_tf32,
            "flag.tf32.conv": lambda: torch.backends.cudnn.allow_tf32,
            "flag.onednn": lambda: torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled,
            "flag.x64": lambda: True,
            "threads.intra": torch.get_num_threads,
            "threads.inter": torch.get_num_interop_threads,
            "device.platform": lambda: device.type,
            "device.kind": lambda: _kind(device),
            "version.framework": lambda: f"torch {torch.__version__}",
        }


def _kind(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return torch.backends.cpu.get_cpu_capability() if device.type == "cpu" else device.type
