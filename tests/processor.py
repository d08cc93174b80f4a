"""What the processor of this machine decides in other people's code."""

from pathlib import Path


def float16_arithmetic() -> bool:
    """Whether oneDNN has AVX512-FP16 here: it then adds up a convolution's float16 gradient in float32."""
    cpuinfo = Path("/proc/cpuinfo")  # of Linux; elsewhere the tests expect a processor without it
    return cpuinfo.exists() and "avx512_fp16" in cpuinfo.read_text(encoding="utf-8").split()
