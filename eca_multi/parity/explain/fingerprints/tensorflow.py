"""TensorFlow's fingerprint, run eagerly."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from .primitives import Facts, Primitives


class Framework(Primitives):
    def tensor(self, array: np.ndarray) -> Any:
        return tf.constant(array)

    def numpy(self, tensor: Any) -> np.ndarray:
        return np.asarray(tensor)

    sum = staticmethod(tf.reduce_sum)
    mean = staticmethod(tf.reduce_mean)
    sigmoid = staticmethod(tf.sigmoid)

    def conv1d(self, x: Any, kernel: Any) -> Any:
        return tf.nn.conv1d(x, kernel, stride=1, padding="SAME")

    def window_mean(self, x: Any, size: int) -> Any:
        return tf.nn.avg_pool1d(x, size, strides=1, padding="VALID")

    def vjp(self, function: Callable[[Any], Any], at: Any, cotangent: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(at)
            y = function(at)
        return tape.gradient(y, at, output_gradients=cotangent)

    def facts(self, sample: Any) -> Facts:
        threading = tf.config.threading
        tf32 = tf.config.experimental.tensor_float_32_execution_enabled
        return {
            "flag.tf32.matmul": tf32,
            "flag.tf32.conv": tf32,
            "flag.onednn": _onednn,
            "flag.x64": lambda: True,
            # For 0, TensorFlow takes a thread for each CPU.
            "threads.intra": lambda: threading.get_intra_op_parallelism_threads() or os.cpu_count() or 1,
            "threads.inter": lambda: threading.get_inter_op_parallelism_threads() or os.cpu_count() or 1,
            "device.platform": lambda: _platform(sample),
            "device.kind": lambda: _kind(sample),
            "version.framework": lambda: f"tensorflow {tf.__version__}",
        }


def _onednn() -> bool:
    from tensorflow.python.util import _pywrap_util_port  # no public function tells whether oneDNN is on

    return bool(_pywrap_util_port.IsMklEnabled())


def _platform(sample: Any) -> str:
    """Take "gpu" out of "/job:localhost/replica:0/task:0/device:GPU:0"."""
    return str(sample.device.split(":")[-2].lower())


def _kind(sample: Any) -> str:
    if _platform(sample) != "gpu":
        return _platform(sample)
    gpu = tf.config.list_physical_devices("GPU")[0]
    return str(tf.config.experimental.get_device_details(gpu)["device_name"])
