"""Timing that survives a busy machine: candidates take turns in one process, ratios of medians are what counts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch


def times(candidates: Mapping[str, Callable[[], object]], rounds: int = 7) -> dict[str, list[float]]:
    """Seconds of every call, by name: one warm-up call each, then `rounds` rounds of A, B, C, A, B, C ..."""
    for call in candidates.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def medians(candidates: Mapping[str, Callable[[], object]], rounds: int = 7) -> dict[str, float]:
    """Median seconds by name."""
    return {name: statistics.median(t) for name, t in times(candidates, rounds).items()}


def load_markers() -> dict[str, Callable[[], object]]:
    """Two fixed jobs that tell how loaded the machine is: 1024^2 float32 product, copy of 157 MB."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(1024, 1024, generator=generator)
    source = torch.zeros(300, 512, 512, dtype=torch.int16)
    target = torch.zeros_like(source)
    return {"matmul 1024^2": lambda: a @ a, "copy 157 MB": lambda: target.copy_(source)}
