"""Features of this machine's processor on which results of the frameworks depend."""

from pathlib import Path


def float16_arithmetic() -> bool:
    """Return whether oneDNN uses AVX512-FP16 here; it then sums a convolution's float16 gradient in float32."""
    cpuinfo = Path("/proc/cpuinfo")  # Linux alone has it; elsewhere the tests expect a processor without AVX512-FP16
    return cpuinfo.exists() and "avx512_fp16" in cpuinfo.read_text(encoding="utf-8").split()
