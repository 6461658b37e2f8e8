"""Milliseconds that the exchange holds the GUI thread for one CT of 512 x 512 x 300 int16.

    python Testing/benchmarks/exchange.py [--size 512 512 300] [--repeats 5]

Copying is all that happens there: files are written and read by a worker thread. Printed are the median of the repeats
and the fastest, which is nearer to the truth on a machine with other work.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

TESTING = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTING), str(TESTING.parent / "DiffusionBackend")]

import headless  # noqa: E402

headless.start(main_window=False)

import numpy as np  # noqa: E402
import slicer  # noqa: E402

from diffusion_panel import exchange, facts, roi  # noqa: E402


def measured(repeats, function, undo=lambda result: None):
    """Median and shortest duration of `function`, ms; the first call isn't counted."""
    spent = []
    for _n in range(repeats + 1):
        start = time.perf_counter()
        result = function()
        spent.append(1000 * (time.perf_counter() - start))
        undo(result)
    return statistics.median(spent[1:]), min(spent[1:])


def cases(size):
    """(what is measured, function, what undoes it)."""
    array = np.random.default_rng(0).integers(-1000, 3000, size[::-1], np.int16)
    ct = {"kind": "volume", "unit": "HU", "ijkToRAS": np.diag([-0.9, -0.9, 1.0, 1.0]).tolist()}
    node = exchange.create(ct, array, name="ct")
    labels = (array > 2990).astype(np.uint8)
    mask = exchange.create(ct | {"labels": {"metal": 1}}, labels, name="metal", like=node)
    shifted = exchange.create(
        {"labels": {"metal": 1}, "ijkToRAS": np.diag([0.9, -0.95, 1.1, 1.0]).tolist()}, labels, name="elsewhere"
    )
    box = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "roi")
    box.SetSize(200, 200, 100)
    box.SetCenter(-0.45 * size[0], -0.45 * size[1], 0.5 * size[2])
    slab = roi.slab_of(box, node)
    part = exchange.export("volume", node, slab=slab)
    remove = slicer.mrmlScene.RemoveNode
    floats = array.astype(np.float32)
    yield "export volume", lambda: exchange.export("volume", node)
    yield "export segmentation, same grid", lambda: exchange.export("segmentation", mask, reference=node)
    yield "export segmentation, another grid", lambda: exchange.export("segmentation", shifted, reference=node)
    yield "facts, first time", lambda: (facts._known.clear(), facts.facts("volume", node))
    yield "facts, again", lambda: facts.facts("volume", node)
    yield "create volume int16", lambda: exchange.create(ct, array, name="result", like=node), remove
    yield "create volume float32", lambda: exchange.create(ct, floats, name="result", like=node), remove
    yield (
        "create segmentation",
        lambda: exchange.create(ct | {"labels": {"metal": 1}}, labels, name="result", like=node),
        remove,
    )
    yield "slices of a ROI", lambda: roi.slab_of(box, node)
    yield "paste into the whole", lambda: roi.paste(part.description, part.array, node, slab=slab, roi=box)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs=3, default=(512, 512, 300), metavar=("I", "J", "K"))
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(f"{' x '.join(map(str, options.size))} voxels, ms: median of {options.repeats}, fastest")
    for name, *functions in cases(tuple(options.size)):
        median, fastest = measured(options.repeats, *functions)
        print(f"{name:36s} {median:8.1f} {fastest:8.1f}", flush=True)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    headless.leave(0)
