"""Ask the system what the processor can do: both programs choose number formats by it."""

from __future__ import annotations

from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
# x86 instructions that multiply bfloat16 at twice the rate of float32 or more. Without them
# bfloat16 is several times slower than float32.
BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}


def multiplies_bfloat16() -> bool:
    """Say whether matrix products are faster in bfloat16; false where the system does not say."""
    if not CPU_INFO.exists():
        return False
    lines = (
        line.split(":")
        for line in CPU_INFO.read_text(encoding="utf-8").splitlines()
        if line.startswith("flags")
    )
    return any(BFLOAT16_FLAGS & set(flags.split()) for _, flags in lines)
