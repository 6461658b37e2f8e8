"""After the run: `metrics.csv` against a reference and `preview.png`, made from the result alone. The method never
sees the reference."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .data import Grid, Item
from .errors import InputError
from .metrics import image as metrics

COLUMNS = ("image", "slice", "rmse", "mae", "bias", "psnr_db", "ssim", "pixels")
METAL_HU = 2500.0
WINDOW_HU = (-160.0, 240.0)  # soft tissue: width 400, level 40
CHANGE_HU = (-200.0, 200.0)


def metrics_rows(
    inputs: Mapping[str, Item], outputs: Mapping[str, Item], reference: Grid, metal_hu: float
) -> list[dict[str, Any]]:
    """One row per image and slice and a row "all" per image: inputs and outputs that lie on the reference's grid in
    its unit.

    Region: the body of the reference outside metal (above `metal_hu` in an input or the reference); for units other
    than HU everything.
    """
    images = {n: i for n, i in {**inputs, **outputs}.items() if _comparable(i, reference) and n != "std"}
    if not any(n in outputs for n in images):
        shape = " × ".join(str(n) for n in reference.array.shape)
        raise InputError(
            f"No output lies on the grid of the reference ({shape}). Give a reference of the same size as the result."
        )
    rows = []
    regions = [_region(k, images, inputs, reference, metal_hu) for k in range(len(reference.array))]
    for name, item in images.items():
        rows += _rows(name, np.asarray(item.array), np.asarray(reference.array), regions)  # type: ignore[union-attr]
    return rows


def write_metrics(rows: list[dict[str, Any]], path: Path) -> None:
    """Write the table as CSV."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def write_preview(inputs: Mapping[str, Item], outputs: Mapping[str, Item], path: Path) -> None:
    """PNG of one slice (the one that changed most): input, outputs, difference, same window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = _panels(inputs, outputs)
    figure = Figure(figsize=(3 * max(len(panels), 1), 3.3), layout="constrained")
    FigureCanvasAgg(figure)
    for n, (title, image, window) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), n + 1)
        axes.imshow(image, cmap="gray", vmin=window[0], vmax=window[1], interpolation="nearest")
        axes.set_title(title, fontsize=9)
        axes.set_axis_off()
    figure.savefig(path, dpi=100)


def _comparable(item: Item, reference: Grid) -> bool:
    return isinstance(item, Grid) and item.array.shape == reference.array.shape and item.unit == reference.unit


def _region(
    k: int, images: Mapping[str, Any], inputs: Mapping[str, Item], reference: Grid, metal_hu: float
) -> np.ndarray:
    slice_ = np.asarray(reference.array[k])
    if reference.unit != "HU":
        return np.ones(slice_.shape, bool)
    region = metrics.body_mask(slice_) & (slice_ <= metal_hu)
    for name, item in images.items():
        if name in inputs:
            region &= np.asarray(item.array[k]) <= metal_hu
    return region


def _rows(name: str, array: np.ndarray, reference: np.ndarray, regions: list[np.ndarray]) -> list[dict[str, Any]]:
    rows, span = [], metrics.DATA_RANGE
    for k, region in enumerate(regions):
        rows.append(
            {
                "image": name,
                "slice": k,
                **metrics.compare(array[k], reference[k], region, span),
                "pixels": int(region.sum()),
            }
        )
    weights = np.array([r["pixels"] for r in rows], float)
    mean = {
        m: float(np.average([r[m] for r in rows if r["pixels"]], weights=weights[weights > 0]))
        for m in ("mae", "bias", "ssim")
    }
    mse = float(np.average([r["rmse"] ** 2 for r in rows if r["pixels"]], weights=weights[weights > 0]))
    mean |= {"rmse": mse**0.5, "psnr_db": metrics.psnr(mse, span)}
    return [*rows, {"image": name, "slice": "all", **mean, "pixels": int(weights.sum())}]


def _panels(
    inputs: Mapping[str, Item], outputs: Mapping[str, Item]
) -> list[tuple[str, np.ndarray, tuple[float, float]]]:
    # type: ignore[union-attr]
    shown = {n: i for n, i in {**inputs, **outputs}.items() if hasattr(i, "array") and i.array.ndim in (2, 3)}
    first = next((i for n, i in outputs.items() if n in shown and isinstance(i, Grid)), None)
    before = next((i for n, i in inputs.items() if n in shown and first is not None and _comparable(i, first)), None)
    k = _most_changed(first, before)
    panels = [(n, *_slice(i, k)) for n, i in shown.items()]
    if first is not None and isinstance(before, Grid):
        change = np.asarray(first.array[k], float) - np.asarray(before.array[k], float)
        panels.append(("change", change, CHANGE_HU if first.unit == "HU" else _span(change)))
    return panels


def _most_changed(first: Grid | None, before: Any) -> int:
    if first is None or first.array.ndim == 2:
        return 0
    if before is None:
        return len(first.array) // 2
    return int(np.argmax([np.abs(np.asarray(a, float) - b).mean() for a, b in zip(first.array, before.array)]))


def _slice(item: Any, k: int) -> tuple[np.ndarray, tuple[float, float]]:
    array = np.asarray(item.array if item.array.ndim == 2 else item.array[min(k, len(item.array) - 1)], float)
    spread = getattr(item, "unit", "") == "HU" and array.min() < 0
    return array, WINDOW_HU if spread else _span(array)


def _span(array: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(array, [1, 99])
    return float(low), float(high) if high > low else float(low) + 1
