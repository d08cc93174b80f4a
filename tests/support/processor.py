"""What the processor of this machine decides in other people's code."""

import platform
from pathlib import Path


def float16_arithmetic() -> bool:
    """Whether oneDNN has AVX512-FP16 here: it then adds up a convolution's float16 gradient in float32."""
    if platform.machine() != "x86_64":
        return False
    return "avx512_fp16" in Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
