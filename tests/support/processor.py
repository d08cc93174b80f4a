"""Features of this machine's processor on which results of the frameworks depend."""

import platform
from pathlib import Path


def float16_arithmetic() -> bool:
    """Return whether oneDNN uses AVX512-FP16 here; it then sums a convolution's float16 gradient in float32."""
    if platform.machine() != "x86_64":
        return False
    return "avx512_fp16" in Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
