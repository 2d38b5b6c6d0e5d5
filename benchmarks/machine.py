"""What a figure was measured on."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

# What PyTorch's matrix products in bf16 use on x86 and Arm.
_BF16 = {"avx512_bf16": "AVX512-bf16", "amx_bf16": "AMX-bf16", "bf16": "Arm bf16"}


def machine() -> str:
    """System, processor and how many cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    return f"{platform.platform()}, {processor()}, {cores} cores"


def processor() -> str:
    names = _lines("model name")
    return names[0] if names else platform.processor()


def bf16_instructions() -> str:
    """Those that the processor has, or "none known"."""
    flags = {flag for line in [*_lines("flags"), *_lines("Features")] for flag in line.split()}
    return ", ".join(name for flag, name in _BF16.items() if flag in flags) or "none known"


def _lines(key: str) -> list[str]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return [line.split(":", 1)[1].strip() for line in lines if line.split(":")[0].strip() == key]
