"""How far the plan printed before a run is from what the run then takes: seconds of the network, memory.

`python Testing/benchmarks/plan.py [SIDE …]` runs A11 on one generated slice per side length and prints planned and
measured figures. The plan calibrates the network by one call; physics and set-up are shown beside it.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "DiffusionBackend"))

import numpy as np

from diffusion_backend import memory, methods, models
from diffusion_backend.anatomy.phantoms import phantom
from diffusion_backend.data import PatientGeometry, volume
from diffusion_backend.execute import Request, Surroundings, execute


def measure(side: int) -> str:
    """One row: planned and measured network seconds, other seconds, planned and peak memory in MB."""
    made = phantom("pelvis", seed=1, size=side)
    hu = made.hu.copy()
    middle, radius = side // 2, max(3, side // 40)
    hu[:, middle - radius : middle + radius, middle - radius : middle + radius] = 8000
    spacing = (made.pixel_mm, made.pixel_mm, made.slice_mm)
    ct = volume(hu, PatientGeometry.from_itk(spacing, (0, 0, 0), np.eye(3).ravel()))
    events: list[dict] = []
    around = Surroundings(
        report=events.append,
        card=lambda model: models.read_card(models.find(model)),
        load=lambda model, device: models.load_denoiser(model, device),
    )
    before, start = memory.resident_bytes(), time.perf_counter()
    result = execute(methods.load("a11"), Request("a11", {"steps": 10}), {"ct": ct}, around)
    assert result is not None
    total, seconds = time.perf_counter() - start, result.record["timings"]
    plan = next(e for e in events if e["event"] == "plan")
    peak = (memory.peak_bytes() - before) // memory.MB
    error = 100 * (plan["network_s"] / seconds["network"] - 1)
    return (
        f"{side:5}  {plan['network_s']:9.1f} {seconds['network']:9.1f} {error:+6.0f} %  {seconds['physics']:8.1f}"
        f"  {total:7.1f}  {plan['memory_mb']:8} {peak:8}"
    )


def main() -> None:
    print(" side  network s: planned, measured, error   physics   total  memory MB: planned, peak growth")
    for side in [int(a) for a in sys.argv[1:]] or [128, 256]:
        print(measure(side), flush=True)


if __name__ == "__main__":
    main()
