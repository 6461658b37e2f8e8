"""Metal methods: time per slice, growth, memory, overhead over bare network and projector calls, operation counts.

    python Testing/benchmarks/mar.py [--rounds 3] [--threads 1] [--output mar-speed.csv] [--only counts speed ...]

One generated pelvis with simulated metal, 256 x 256, the bundled weights. Slices are copies of one slice, so that each
means the same work. Candidates take turns; minimum and median over the rounds. Only ratios within one run are
comparable. "cpu" is processor time of all threads: with one thread what a quiet machine would take, however busy this
one is.

Overhead: every call of the network, the projector and FBP inside a method's stage is repeated bare right behind it
(`bare.py`). The stage without the repetitions, divided by them, is the overhead: neighbours in time meet the same load.
"""

from __future__ import annotations

import argparse
import csv
import functools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "DiffusionBackend")]

from bare import Bare, watching  # noqa: E402
from roundrobin import load_markers, medians  # noqa: E402

from diffusion_backend import checks, memory, methods, models  # noqa: E402
from diffusion_backend.anatomy.phantoms import phantom  # noqa: E402
from diffusion_backend.data import Grid, Item, PatientGeometry, projections, volume  # noqa: E402
from diffusion_backend.execute import Request, Surroundings, execute  # noqa: E402
from diffusion_backend.networks.dudodp import DuDoDpConfig, DuDoDpNet  # noqa: E402
from diffusion_backend.params import validate  # noqa: E402
from diffusion_backend.run import Batch  # noqa: E402
from diffusion_backend.simulate import metal as simulated  # noqa: E402

AIM = 1.05                                            # stage / bare calls
METHODS, NETWORK_METHODS, MODES = ("li", "nmar", "a10", "a11"), ("a10", "a11"), ("image", "projections")
PARTS = ("network", "physics", "io", "other")
SLICES, STEPS = (1, 2, 4, 8), (10, 20, 40)
SIZE = 256
SHORT = {"a10": {"steps": 5, "repeats": 1}, "a11": {"steps": 5}}         # five network calls
BATCH = 4                                             # slices at once where the peak memory is measured
Rows = list[dict[str, Any]]


# ---- inputs and models ----

def clean_slice() -> Grid:
    """One slice of a generated pelvis without metal, HU (k, j, i)."""
    made = phantom("pelvis", seed=1, slices=1, size=SIZE)
    spacing = (made.pixel_mm, made.pixel_mm, made.slice_mm)
    return volume(made.hu, PatientGeometry.from_itk(spacing, (0, 0, 0), np.eye(3).ravel()))


@functools.lru_cache(maxsize=1)
def measured_slice() -> tuple[Grid, Grid]:
    """The slice with a simulated implant, and its projections by the simulated clinical scanner."""
    ct = clean_slice()
    files = simulated.simulate({"ct": ct}, validate(simulated.PARAMETERS, {"keep_projections": True}), seed=1)
    return files["ct.nrrd"], files["projections.npz"]  # type: ignore[return-value]


def inputs(mode: str, slices: int = 1) -> dict[str, Item]:
    """The slice `slices` times over, in mode "projections" with its sinogram."""
    ct, sinogram = measured_slice()
    items: dict[str, Item] = {"ct": volume(np.repeat(ct.array, slices, 0), ct.geometry)}
    if mode == "projections":
        items["sinogram"] = projections(np.repeat(sinogram.array, slices, 0), sinogram.acquisition, ct.geometry)
    return items


def card(model: str) -> Mapping[str, Any]:
    """The card of an installed model."""
    return models.read_card(models.find(model))


# ---- time per slice and growth ----

def timed(method: str, items: dict[str, Item], *, samples: int = 1, batch: int | None = None, **parameters: Any
          ) -> dict[str, float]:
    """Seconds of one run: in all ("total", "cpu"), of each clock, and until the plan stood ("plan": weights, trial
    calls)."""
    cpu, start, plan = time.process_time(), time.perf_counter(), [0.0]

    def report(event: dict[str, Any]) -> None:
        if event["event"] == "plan":
            plan[0] = time.perf_counter() - start

    request = Request(method, parameters, samples=samples, batch=batch, device="cpu")
    result = execute(methods.load(method), request, items, Surroundings(report, card=card, load=models.load_denoiser))
    assert result is not None
    seconds = {"total": time.perf_counter() - start, "cpu": time.process_time() - cpu, "plan": plan[0],
               "evaluations": result.record["evaluations"]}  # fmt: skip
    return seconds | {part: result.record["timings"][part] for part in PARTS}


def in_turns(jobs: Mapping[Any, Callable[[], dict[str, float]]], rounds: int) -> dict[Any, dict[str, float]]:
    """Medians of the figures of each job over rounds of A, B, C, A, B, C ..., and "min" of the total."""
    found: dict[Any, list[dict[str, float]]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            found[name].append(job())
    return {name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            | {"min": min(run["total"] for run in runs)} for name, runs in found.items()}  # fmt: skip


def speed(rounds: int) -> Rows:
    """Seconds of one slice, by method and mode."""
    print("\nOne slice, standard preset, seconds (medians); 'plan' (weights, trial calls) is part of the rest")
    print(f"{'':5}{'mode':13}{'calls':>6}{'total':>9}{'min':>8}{'cpu':>8}"
          + "".join(f"{part:>9}" for part in (*PARTS, "plan")))
    rows: Rows = []
    for mode in MODES:
        items = inputs(mode)
        timed("li", items)                # tables of the projector, once per geometry
        jobs = {m: functools.partial(timed, m, items) for m in METHODS}
        found = in_turns(jobs, rounds)
        for method, t in found.items():
            print(f"{method:5}{mode:13}{t['evaluations']:6.0f}{t['total']:9.2f}{t['min']:8.2f}{t['cpu']:8.2f}"
                  + "".join(f"{t[part]:9.2f}" for part in (*PARTS, "plan")))
            rows += entries("speed", method, mode, "1 slice", t)
    return rows


def growth() -> Rows:
    """Processor seconds against slices, steps and samples, and their ratio to proportional growth from the first."""
    print("\nGrowth, image mode, processor seconds (ratio to proportional growth), slope between first and last entry;"
          "\nslices and samples: with 5 network calls each")
    rows: Rows = []
    for method in METHODS:
        short, one = SHORT.get(method, {}), inputs("image")
        series: dict[str, dict[int, Callable[[], dict[str, float]]]] = {
            "slices": {n: functools.partial(timed, method, inputs("image", n), **short) for n in SLICES}}
        if method in NETWORK_METHODS:
            series["steps"] = {n: functools.partial(timed, method, one, steps=n) for n in STEPS}
            series["samples"] = {n: functools.partial(timed, method, one, samples=n, **short) for n in (1, 2)}
        for what, jobs in series.items():
            found = {n: t["cpu"] for n, t in in_turns(jobs, 1).items()}
            first, last = min(found), max(found)
            ratio = {n: s / found[first] * first / n for n, s in found.items()}
            slope = (found[last] - found[first]) / (last - first)
            print(f"{method:5}{what:8} " + "  ".join(f"{n:2}: {s:6.2f} ({ratio[n]:.2f})" for n, s in found.items())
                  + f"  slope {slope:.3f}")
            for n, s in found.items():
                rows += entries("growth", method, "image", f"{n} {what}", {"cpu": s, "ratio to linear": ratio[n]})
            rows += entries("growth", method, "image", f"one of {what}", {"slope": slope})
    return rows


def memory_growth() -> Rows:
    """Peak memory of a run in a process of its own, above what the process held with the slices read and no run yet."""
    print(f"\nPeak memory in MB above the loaded inputs, image mode, at most {BATCH} slices at once, 5 network calls")
    rows: Rows = []
    for method in ("nmar", *NETWORK_METHODS):
        peaks = {}
        for n in SLICES:
            command = [sys.executable, __file__, "--peak", method, str(n), "--threads", str(torch.get_num_threads())]
            peaks[n] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
            rows += entries("memory", method, "image", f"{n} slices", {"peak_mb": peaks[n]})
        print(f"{method:5}" + "   ".join(f"{n} slices: {mb}" for n, mb in peaks.items()))
    return rows


def peak(method: str, slices: int) -> int:
    """MB by which the memory of this process peaks in a short run of `method`."""
    ct = clean_slice()
    hu = np.repeat(ct.array, slices, 0)
    hu[:, 120:136, 70:86] = 8000          # metal without a simulation, whose tables would hide the peak
    items: dict[str, Item] = {"ct": volume(hu, ct.geometry)}
    before = memory.resident_bytes()
    timed(method, items, batch=BATCH, **SHORT.get(method, {}))
    return (memory.peak_bytes() - before) // memory.MB


# ---- overhead and operation counts ----

def stage_over_bare(method: str, items: dict[str, Item], preset: str) -> dict[str, float]:
    """Ratios of one run: the stage to its bare calls, and what network, physics and the rest add to them."""
    bare = Bare(repeat=True)
    with watching(bare):
        around = Surroundings(card=card, load=lambda model, device: bare.network(models.load_denoiser(model, device)))
        execute(methods.load(method), Request(method, {}, preset, device="cpu"), items, around)
    s = bare.stage
    network, physics = s.get("bare network", 0.0), s["bare physics"]
    total = network + physics
    return {"total": (sum(s[part] for part in PARTS)) / total, "cpu": s["cpu"] / bare.cpu,
            "clocks": 1 + (s["other"] + s["io"] + s["physics"] - physics) / total,
            "network": (s["network"] - network) / total, "physics": (s["physics"] - physics) / total,
            "other": (s["other"] + s["io"]) / total, "physics share": physics / total,
            "bare seconds": total}  # fmt: skip


def overhead(rounds: int) -> tuple[Rows, bool]:
    """Stage over bare calls; False where a network method misses twice the aim."""
    print(f"\nStage / bare calls (aim {AIM}); by wall clock, by processor time, by the run's clocks of"
          "\nphysics and other; what is added around network, projector and elsewhere, in % of the bare calls")
    rows, good = [], True
    cases = [(1, "quick", MODES, rounds, NETWORK_METHODS), (1, "standard", MODES, rounds, METHODS[:2]),
             (1, "standard", MODES[:1], 1, NETWORK_METHODS), (4, "quick", MODES[:1], 1, NETWORK_METHODS)]
    for slices, preset, modes, turns, names in cases:  # one turn where a run holds many pairs of neighbours
        for mode in modes:
            timed("li", inputs(mode))     # tables
        jobs = {(m, mode): functools.partial(stage_over_bare, m, inputs(mode, slices), preset)
                for mode in modes for m in names}  # fmt: skip
        for (method, mode), r in in_turns(jobs, turns).items():
            parts = "  ".join(f"{part} {100 * r[part]:+5.1f} %" for part in ("network", "physics", "other"))
            print(f"{method:5}{mode:12} {slices} x {preset:9} wall {r['total']:.3f} (min {r['min']:.3f})  processor "
                  f"{r['cpu']:.3f}  clocks {r['clocks']:.3f}   {parts}   physics {100 * r['physics share']:.0f} %")
            rows += entries("overhead", method, mode, f"{slices} slices, {preset}", r)
            good &= method not in NETWORK_METHODS or r["min"] - 1 <= 2 * (AIM - 1)
    return rows, good


def counts() -> Rows:
    """Network, projector and FBP calls for the slice in image mode, counted with an identity for the network, beside
    `plan()` and the published loops (notes of A10 and A11)."""
    print(f"\nOperations per slice of {SIZE}^2\n{'':19}{'calls':>6}{'planned':>8}  {'network sees':14}{'Mpixel':>8}"
          f"{'TFLOP':>8}{'forward':>9}{'FBP':>5}{'adjoint':>8}")
    rows: Rows = []
    for method in METHODS:
        for preset in ("quick", "standard", "published") if method in NETWORK_METHODS else ("standard",):
            rows += counted(method, preset)
    flop = network_flop(DuDoDpNet(DuDoDpConfig()), 512, 512)
    rows += operations("a11", "paper", 100, 100, (512, 512), flop, {"forward": 100, "fbp": 400})
    rows += operations("a10", "paper", 2410, 2410, (1024, 1024), float("nan"), {"forward": 1, "fbp": 3})
    print("paper: A11 as released, 640 x 641 rays, 416^2, 4 FBPs a step of which 1 is needed; A10's network isn't "
          "published in full\n(attention, whole padded sinogram); its FBPs: LI, NMAR, result")
    return rows


def counted(method: str, preset: str) -> Rows:
    """The row of one method and preset."""
    module, items = methods.load(method), inputs("image")
    p = validate(module.METHOD.parameters, {}, module.METHOD.presets[preset])
    planned = module.plan({"ct": checks.facts(items["ct"])}, p)[0].calls
    priors = module.METHOD.models
    bare, seen = Bare(repeat=False, run=method), [(0, 0)]

    def identity(x: torch.Tensor, sigma: Any, cond: Any = None) -> torch.Tensor:
        seen[0] = (x.shape[-2], x.shape[-1])
        return x

    def zeros(batch: Batch, step: Any, shape: Sequence[int]) -> torch.Tensor:
        return torch.zeros(len(batch), *shape)

    with watching(bare), mock.patch.object(Batch, "noise", zeros):  # drawing the noise of 2410 steps takes long
        around = Surroundings(card=card, load=lambda model, device: identity)
        result = execute(module, Request(method, {}, preset, device="cpu"), items, around)
    assert result is not None
    flop = network_flop(models.load_denoiser(priors[0].default).module, *seen[0]) if priors else 0.0
    return operations(method, preset, result.record["evaluations"], planned if priors else 0, seen[0], flop,
                      bare.calls)


def network_flop(module: torch.nn.Module, rows: int, columns: int) -> float:
    """Floating-point operations (2 per multiply-add) of one forward pass, sides rounded up as the denoiser does."""
    stride = getattr(module, "stride", 1)
    x = torch.zeros(1, 1, *(-(-n // stride) * stride for n in (rows, columns)), device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.to("meta")(x, torch.zeros(1, device="meta"))
    return float(counter.get_total_flops())


def operations(method: str, preset: str, calls: int, planned: int, size: tuple[int, int], flop: float,
               physics: Mapping[str, int]) -> Rows:
    """Print and return one row of the table of operations; flop: of one network call."""
    figures = {"calls": calls, "planned": planned, "rows": size[0], "columns": size[1],
               "mpixel": calls * size[0] * size[1] / 1e6, "tflop": calls * flop / 1e12,
               **{name: physics.get(name, 0) for name in ("forward", "fbp", "adjoint")}}  # fmt: skip
    print(f"{method:5}{preset:14}{calls:6}{planned:8}  {f'{size[0]} x {size[1]}':14}{figures['mpixel']:8.1f}"
          f"{figures['tflop']:8.2f}{figures['forward']:9}{figures['fbp']:5}{figures['adjoint']:8}")
    return entries("counts", method, "image", preset, figures)


# ---- table and command line ----

def entries(table: str, method: str, mode: str, setting: str, figures: Mapping[str, float]) -> Rows:
    """One row of the file per figure."""
    place = {"table": table, "method": method, "mode": mode, "setting": setting}
    return [place | {"figure": name, "value": f"{value:.5g}"} for name, value in figures.items()]


def write(path: Path, rows: Rows) -> None:
    """All figures, one a line."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["table", "method", "mode", "setting", "figure", "value"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> int:
    """Prints the tables; 0 unless the overhead of A10 or A11 misses twice the aim."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path)
    tables = ("counts", "speed", "growth", "memory", "overhead")
    parser.add_argument("--only", nargs="+", choices=tables, default=tables, help="which tables")
    parser.add_argument("--peak", nargs=2, metavar=("METHOD", "SLICES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        print(peak(options.peak[0], int(options.peak[1])))
        return 0
    good, rows = True, []
    makers = {"counts": counts, "speed": lambda: speed(options.rounds), "growth": growth, "memory": memory_growth}
    for name in (t for t in tables if t in options.only):
        load_now = medians(load_markers())
        print(f"\n[{name}] load: " + ", ".join(f"{k} {1e3 * s:.1f} ms" for k, s in load_now.items()), flush=True)
        rows += entries("load", "all", "", f"before {name}", {k: 1e3 * s for k, s in load_now.items()})
        if name == "overhead":
            found, good = overhead(options.rounds)
            rows += found
        else:
            rows += makers[name]()
        if options.output:
            write(options.output, rows)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
