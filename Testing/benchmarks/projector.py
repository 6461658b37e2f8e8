"""Projector and FBP beside ASTRA's CPU projector, scikit-image and the memory gate, all in one run.

    python Testing/benchmarks/projector.py [--rounds 7] [--threads 1] [--large] [--memory]

--large adds 512 x 512 with 360 views, --memory the peak memory of 512 x 512 with 984 views x 888 bins. Only ratios of
medians within one run are comparable. Exit code 1 if an aim of the project is missed by more than a factor of 2."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "DiffusionBackend")]

from roundrobin import load_markers, medians  # noqa: E402

from diffusion_backend import memory  # noqa: E402
from diffusion_backend.physics.ct import Geometry, ImageGrid, Projector, projector  # noqa: E402
from diffusion_backend.physics.reconstruct import fbp  # noqa: E402

MEMORY_GATE = 2 * 2**30


def test_scan(size: int, views: int) -> tuple[Geometry, ImageGrid]:
    """Pixel 1, flat detector, source and detector 2 N from the axis, 1.5 N bins of width 2, 360 degrees."""
    angles = tuple(360.0 * k / views for k in range(views))
    bins = 3 * size // 2
    return Geometry("fan-flat", angles, bins, 2.0, 0.0, 2.0 * size, 4.0 * size), ImageGrid(size, size, 1.0)


def astra_calls(geometry: Geometry, grid: ImageGrid, slices: int) -> dict[str, Callable[[], object]]:
    """Forward and backprojection of `slices` slices by ASTRA's line_fanflat, copies in and out included."""
    import astra

    n, distance = grid.rows, float(geometry.source_axis_mm or 0)
    pg = astra.create_proj_geom("fanflat", geometry.bin_mm, geometry.bins, np.deg2rad(geometry.angles_deg),
                                distance, (geometry.source_detector_mm or 0) - distance)
    vg = astra.create_vol_geom(n, n)
    projector_id = astra.create_projector("line_fanflat", pg, vg)
    volume, sino = astra.data2d.create("-vol", vg), astra.data2d.create("-sino", pg)
    image = np.random.default_rng(0).random((n, n), dtype=np.float32)
    projections = np.random.default_rng(1).random((geometry.views, geometry.bins), dtype=np.float32)

    def algorithm(kind: str, key: str) -> int:
        config = astra.astra_dict(kind)
        config.update({"ProjectorId": projector_id, "ProjectionDataId": sino, key: volume})
        return astra.algorithm.create(config)

    forward, back = algorithm("FP", "VolumeDataId"), algorithm("BP", "ReconstructionDataId")

    def run(job: int, into: int, data: np.ndarray, out: int) -> None:
        for _ in range(slices):
            astra.data2d.store(into, data)
            astra.algorithm.run(job)
            astra.data2d.get(out)

    return {"astra forward": lambda: run(forward, volume, image, sino),
            "astra adjoint": lambda: run(back, sino, projections, volume)}


def compare(size: int, views: int, slices: int, rounds: int) -> dict[str, float]:
    """Prints the times of one case; returns ASTRA's time divided by ours, by direction."""
    geometry, grid = test_scan(size, views)
    ours = projector(geometry, grid)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(slices, size, size, generator=generator)
    y = torch.randn(slices, views, geometry.bins, generator=generator)
    calls: dict[str, Callable[[], object]] = {"ours forward": lambda: ours.forward(x),
                                              "ours adjoint": lambda: ours.adjoint(y)}
    calls.update(astra_calls(geometry, grid, slices))
    calls.update(load_markers())
    t = medians(calls, rounds)
    ratios = {way: t[f"astra {way}"] / t[f"ours {way}"] for way in ("forward", "adjoint")}
    for way, ratio in ratios.items():
        print(f"{size:4d}^2 {views:4d} views {slices:3d} slices  {way}: ours {1e3 * t[f'ours {way}']:8.2f} ms, "
              f"ASTRA {1e3 * t[f'astra {way}']:9.2f} ms, ratio {ratio:5.1f}")
    print(f"     load: {', '.join(f'{k} {1e3 * t[k]:.1f} ms' for k in ('matmul 1024^2', 'copy 157 MB'))}")
    return ratios


def table_time(size: int, views: int, rounds: int) -> None:
    """Prints the time to build both tables in units of a forward projection of 16 slices."""
    geometry, grid = test_scan(size, views)
    x = torch.zeros(16, size, size)
    warm = projector(geometry, grid)

    def build() -> None:
        fresh = Projector(geometry, grid)
        fresh.adjoint(fresh.forward(x[:1]))

    t = medians({"build": build, "apply": lambda: warm.forward(x)}, rounds)
    print(f"tables of a new geometry, {size}^2, {views} views: {t['build']:.2f} s = {t['build'] / t['apply']:.0f} "
          "forward projections of 16 slices")


def compare_fbp(rounds: int) -> None:
    """Prints FBP of 16 slices (parallel, 180 views, 256^2) beside scikit-image's iradon."""
    from skimage.transform import iradon

    angles = tuple(float(a) for a in range(180))
    geometry, grid = Geometry("parallel", angles, 256, 1.0), ImageGrid(256, 256, 1.0)
    y = torch.rand(16, 180, 256, generator=torch.Generator().manual_seed(0))
    columns = np.ascontiguousarray(y.numpy().transpose(0, 2, 1))
    t = medians({"ours": lambda: fbp(y, geometry, grid),
                 "skimage": lambda: [iradon(s, theta=np.array(angles)) for s in columns]}, max(3, rounds // 2))
    print(f"FBP 256^2, 180 views, 16 slices: ours {1e3 * t['ours']:.1f} ms, scikit-image {1e3 * t['skimage']:.0f} ms, "
          f"ratio {t['skimage'] / t['ours']:.1f}")


def memory_gate() -> bool:
    """Peak memory of forward, adjoint and FBP of 16 slices, 512 x 512, arc with 984 views x 888 bins."""
    geometry = Geometry("fan-arc", tuple(360.0 * k / 984 for k in range(984)), 888, 1.0, 0.25, 540.0, 950.0)
    grid = ImageGrid(512, 512, 0.8)
    x = torch.rand(16, 512, 512, generator=torch.Generator().manual_seed(0))
    ours = projector(geometry, grid)
    for name, call in (("forward", lambda: ours.forward(x)), ("forward again", lambda: ours.forward(x)),
                       ("adjoint", lambda: ours.adjoint(ours.forward(x)))):
        start = time.perf_counter()
        y = call()
        print(f"984 x 888, 512^2, 16 slices, {name}: {time.perf_counter() - start:.1f} s")
        y = ours.forward(x) if name == "adjoint" else y
    fbp(y, geometry, grid)
    print(f"peak memory {memory.peak_bytes() / 2**30:.2f} GiB (gate {MEMORY_GATE / 2**30:.0f} GiB), tables "
          f"{ours.tables.held_bytes / 2**30:.2f} GiB")
    return memory.peak_bytes() <= MEMORY_GATE


def main() -> int:
    """Prints the tables; 0 if all aims hold with a slack of 2, else 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--memory", action="store_true", help="measure the memory gate only")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with torch.inference_mode():
        if options.memory:
            return 0 if memory_gate() else 1
        good = all(r >= 5 for r in compare(256, 60, 16, options.rounds).values())
        good &= all(r >= 0.75 for r in compare(256, 60, 1, options.rounds).values())
        if options.large:
            good &= all(r >= 2.5 for r in compare(512, 360, 16, 3).values())
            compare(512, 360, 1, 3)
        table_time(256, 60, 3)
        compare_fbp(options.rounds)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
