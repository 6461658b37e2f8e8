"""The plan before the start: bytes of a run and seconds of its networks, calibrated by one call of each.

The seconds of the physics aren't planned: they depend on whether the projector's tables stay within their limit. The
remaining time counts them as soon as the first batch is done."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from . import memory
from .data import Grid, Item, Segmentation
from .errors import MemoryExhausted
from .method import Stage
from .physics.ct import MEMORY_LIMIT
from .run import Run

USABLE = 0.8  # share of the free memory that a run may plan with
SLOW_CALL = 1.0  # seconds; a faster first call is repeated, because it includes one-off set-up


def prepare(run: Run, inputs: Mapping[str, Item]) -> dict[str, Any]:
    """Calibrate, choose the batch size that fits into memory, and return the plan as an event.

    Raises MemoryExhausted, naming needed and available, when inputs and outputs alone don't fit.
    """
    calls = {s.part: s for s in run.plan if s.shape and s.part in run.models}
    seconds, peak = {}, 0
    for part, stage in calls.items():
        seconds[part], used = _one_call(run, part, stage)
        peak = max(peak, used)
    run.progress.estimate(seconds)
    data, tables = _data_bytes(run, inputs), table_bytes(run.p, inputs)
    free = memory.available_bytes(run.device)
    host = memory.available_bytes("cpu")
    if data > host:
        raise MemoryExhausted(
            f"The run needs {data // memory.MB} MB for its input and output volumes, but {host // memory.MB} MB "
            "are available.",
            "Crop the volume or close other programs.",
        )
    if peak:
        room = USABLE * (free - tables - (data if run.device == "cpu" else 0))
        run.batch = max(1, min(run.batch, int(room // peak)))
    at_once = min(run.batch, max((s.items for s in calls.values()), default=1))
    return _event(run.plan, run, seconds, data + tables + peak * at_once, min(free, host))


def _event(plan: Sequence[Stage], run: Run, seconds: Mapping[str, float], need: int, free: int) -> dict[str, Any]:
    samples = run.settings.samples
    rows = []
    for s in plan:
        known = s.items * s.calls * seconds[s.part] * samples if s.part in seconds else None
        rows.append(
            {"name": s.name, "items": s.items, "calls": s.calls, "part": s.part, "seconds": known and round(known, 2)}
        )
    network = sum(r["seconds"] or 0.0 for r in rows)
    return {
        "event": "plan",
        "stages": rows,
        "network_s": round(network, 1),
        "memory_mb": int(need // memory.MB),
        "available_mb": int(free // memory.MB),
        "batch": run.batch,
        "device": run.device,
    }


def _one_call(run: Run, part: str, stage: Stage) -> tuple[float, int]:
    """Seconds and bytes per item of one call of the model in slot `part`; the calls aren't counted as evaluations."""
    denoise = run.model(part)
    before = run.evaluations
    x = torch.zeros((1, *stage.shape), device=run.device)
    sigma = torch.full((1,), 100.0, device=run.device)
    cuda = run.device.startswith("cuda")
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    start_bytes = torch.cuda.memory_allocated() if cuda else memory.resident_bytes()
    elapsed = SLOW_CALL
    for _ in range(2):
        start = time.perf_counter()
        with torch.no_grad():
            float(denoise(x, sigma).float().sum())  # reading the value waits for the device
        elapsed = time.perf_counter() - start
        if elapsed > SLOW_CALL:
            break
    run.evaluations = before
    end_bytes = torch.cuda.max_memory_allocated() if cuda else memory.peak_bytes()
    return elapsed, max(end_bytes - start_bytes, x.numel() * x.element_size())


def table_bytes(p: Any, inputs: Mapping[str, Item]) -> int:
    """Tables of projector and backprojector of the scanner, measured (input with bins) or virtual (parameters `views`
    and `bins`); 0 for methods without one.

    An entry takes 8 bytes; a ray meets the image twice per row, a pixel two bins per view; quarter turns that map views
    onto each other share theirs. At most MEMORY_LIMIT for each image grid; `image_size` asks for a coarser one, too."""
    grids = [i for i in inputs.values() if isinstance(i, Grid)]
    measured = next((g.array.shape[-2:] for g in grids if g.axes[-1].name == "bin"), None)
    views, bins = measured or (getattr(p, "views", 0), getattr(p, "bins", 0))
    fine = max((max(g.array.shape[1:3]) for g in grids if g.axes[0].name == "k"), default=getattr(p, "size", 0) or 256)
    turned = 4 if views % 4 == 0 else 1
    sides = {fine, min(fine, getattr(p, "image_size", fine))}
    return sum(min(MEMORY_LIMIT, 16 * views * side * (bins + side) // turned) for side in sides)


def _data_bytes(run: Run, inputs: Mapping[str, Item]) -> int:
    """Outputs as float32 on the largest input grid, float64 mean and spread with several samples; inputs stay on
    disk."""
    sizes = (int(np.prod(i.array.shape)) for i in inputs.values() if isinstance(i, (Grid, Segmentation)))
    voxels = max(sizes, default=0)
    outputs = sum(o.kind not in ("table", "text") for o in run.method.outputs if not o.when)
    return voxels * outputs * (4 + (16 if run.settings.samples > 1 else 0))
