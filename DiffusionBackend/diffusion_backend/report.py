"""After the run: metrics against a reference and `preview.png`, made from the result alone. The method never
sees the reference."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .data import Grid, Item, Segmentation, Table
from .metrics import image as metrics
from .pictures import CHANGE_HU, SOFT_TISSUE_HU

COLUMNS: tuple[str, ...] = ("image", "slice", "rmse", "mae", "bias", "psnr_db", "ssim", "pixels")
METAL_HU = 2500.0
AIR_BELOW_HU = -500.0
MEANS = ("mae", "bias", "ssim")

Rows = list[dict[str, Any]]
Panel = tuple[str, np.ndarray, tuple[float, float]]


def metrics_rows(inputs: Mapping[str, Item], outputs: Mapping[str, Item], reference: Grid, metal_hu: float) -> Rows:
    """One row per image and slice and a row "all" per image: what lies on the reference's grid in its unit.

    Region: the body of the reference outside metal (above `metal_hu` in an input or the reference); for units other
    than HU everything. No rows when no output can be compared.
    """
    before, after = (_grids_like(reference, items) for items in (inputs, outputs))
    if not after:
        return []
    regions = [_region(k, before, reference, metal_hu) for k in range(len(reference.array))]
    return [row for name, item in {**before, **after}.items() for row in _rows(name, item, reference, regions)]


def metrics_table(
    inputs: Mapping[str, Item], outputs: Mapping[str, Item], reference: Item, parameters: Mapping[str, Any]
) -> Table | None:
    """The rows of `metrics_rows` as a table, figures to six digits; None where nothing can be compared."""
    if not isinstance(reference, Grid):
        return None
    rows = metrics_rows(inputs, outputs, reference, float(parameters.get("metal_threshold", METAL_HU)))
    return Table(COLUMNS, [tuple(_six_digits(row[c]) for c in COLUMNS) for row in rows]) if rows else None


def _six_digits(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def write_metrics(rows: Rows, path: Path) -> None:
    """Write the table as CSV."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows({k: _six_digits(v) for k, v in row.items()} for row in rows)


def write_preview(inputs: Mapping[str, Item], outputs: Mapping[str, Item], path: Path) -> None:
    """PNG of one slice (the one that changed most): inputs, outputs and, unless an output shows it, the change."""
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


def _grids_like(reference: Grid, items: Mapping[str, Item]) -> dict[str, Grid]:
    return {n: i for n, i in items.items() if isinstance(i, Grid) and comparable(i, reference)}


def comparable(item: Item, reference: Grid) -> bool:
    """Whether both have the same unit, size and (to 0.1 %) voxel size."""
    if not isinstance(item, Grid) or item.array.shape != reference.array.shape or item.unit != reference.unit:
        return False
    if item.geometry is None or reference.geometry is None:
        return True
    return bool(np.allclose(item.spacing, reference.spacing, rtol=1e-3))


def _region(k: int, inputs: Mapping[str, Grid], reference: Grid, metal_hu: float) -> np.ndarray:
    truth = np.asarray(reference.array[k])
    if reference.unit != "HU":
        return np.ones(truth.shape, bool)
    region = metrics.body_mask(truth) & (truth <= metal_hu)
    for item in inputs.values():
        region &= np.asarray(item.array[k]) <= metal_hu
    return region


def _rows(name: str, item: Grid, reference: Grid, regions: list[np.ndarray]) -> Rows:
    """A row per slice, and the row "all": figures over all pixels of all regions."""
    rows: Rows = []
    for k, region in enumerate(regions):
        figures = metrics.compare(np.asarray(item.array[k]), np.asarray(reference.array[k]), region)
        rows.append({"image": name, "slice": k, **figures, "pixels": int(region.sum())})
    full = [row for row in rows if row["pixels"]]
    if not full:
        return rows
    pixels = [row["pixels"] for row in full]
    mean = {figure: float(np.average([row[figure] for row in full], weights=pixels)) for figure in MEANS}
    mse = float(np.average([row["rmse"] ** 2 for row in full], weights=pixels))
    overall = mean | {"rmse": mse**0.5, "psnr_db": metrics.psnr(mse)}
    return [*rows, {"image": name, "slice": "all", **overall, "pixels": sum(pixels)}]


def _panels(inputs: Mapping[str, Item], outputs: Mapping[str, Item]) -> list[Panel]:
    """Title, slice and window of each image."""
    shown = {n: i for n, i in {**inputs, **outputs}.items() if _is_image(i)}
    first = next((i for n, i in outputs.items() if n in shown and isinstance(i, Grid)), None)
    before = next((i for n, i in inputs.items() if n in shown and first is not None and comparable(i, first)), None)
    k = _most_changed(first, before)
    panels = [(n, *_slice(i, k)) for n, i in shown.items()]
    if first is not None and isinstance(before, Grid) and "difference" not in outputs:
        change = np.asarray(first.array[k], float) - np.asarray(before.array[k], float)
        panels.append(("difference", change, _window(change, first.unit)))
    return panels


def _is_image(item: Item) -> bool:
    return isinstance(item, (Grid, Segmentation)) and item.array.ndim in (2, 3) and not np.iscomplexobj(item.array)


def _most_changed(first: Grid | None, before: Any) -> int:
    if first is None or first.array.ndim == 2:
        return 0
    if before is None:
        return len(first.array) // 2
    return int(np.argmax([np.abs(np.asarray(a, float) - b).mean() for a, b in zip(first.array, before.array)]))


def _slice(item: Any, k: int) -> tuple[np.ndarray, tuple[float, float]]:
    array = np.asarray(item.array if item.array.ndim == 2 else item.array[min(k, len(item.array) - 1)], float)
    return array, _window(array, getattr(item, "unit", ""))


def _window(array: np.ndarray, unit: str) -> tuple[float, float]:
    """Soft tissue for images in HU (they contain air), +- 200 HU for differences, else nearly the whole range."""
    low, high = np.percentile(array, [1, 99])
    if unit == "HU" and low < AIR_BELOW_HU:
        return SOFT_TISSUE_HU
    if unit == "HU" and low < 0:
        return CHANGE_HU
    return float(low), float(high) if high > low else float(low) + 1
