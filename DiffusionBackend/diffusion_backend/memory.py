"""How much memory there is, how much this process uses, and what an out-of-memory error looks like."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

MB = 1024 * 1024


def available_bytes(device: str = "cpu") -> int:
    """Free memory of `device`; on the CPU what the system (or the container) can still give."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info()[0]
    if sys.platform == "win32":
        return _windows_available()
    return min(_system_available(), _container_available())


def resident_bytes() -> int:
    """Memory that this process uses now; its peak where the system doesn't tell."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return peak_bytes()


def peak_bytes() -> int:
    """Largest memory that this process has used; 0 where unknown."""
    if sys.platform == "win32":
        return 0
    status = Path("/proc/self/status")
    if status.exists():  # on Linux a child's ru_maxrss starts at the peak of its parent
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or Python ran out of memory; torch says so on the CPU and on MPS with a plain RuntimeError."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        words in text for words in ("out of memory", "can't allocate memory", "not enough memory")
    )


def release(device: str) -> None:
    """Give cached blocks back to the device."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    elif device == "mps":
        torch.mps.empty_cache()


def _system_available() -> int:
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    # macOS: half of the physical memory, since inactive pages are not told without a further package.
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _container_available() -> int:
    """Limit minus use of the control group (version 2), or no limit. File caches that can be dropped count as free."""
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        stat = dict(line.split() for line in Path("/sys/fs/cgroup/memory.stat").read_text().splitlines())
        used -= int(stat.get("inactive_file", 0))
        return sys.maxsize if limit == "max" else max(int(limit) - used, 0)
    except (OSError, ValueError):
        return sys.maxsize


def _windows_available() -> int:
    import ctypes

    class Status(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ulong), ("load", ctypes.c_ulong)] + [
            (name, ctypes.c_ulonglong)
            for name in ("total", "free", "total_page", "free_page", "total_virtual", "free_virtual", "ext")
        ]

    status = Status(length=ctypes.sizeof(Status))
    ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined]
    return status.free
