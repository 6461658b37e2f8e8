"""Items to and from a job or result folder: `.npy` in the array's own type plus a JSON description; read
memory-mapped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..data import Axis, Grid, Item, PatientGeometry, Segmentation, Table, Text
from ..errors import InputError
from .folders import disk_errors


def save_item(folder: Path, name: str, item: Item) -> dict[str, Any]:
    """Write `item` into `folder`; returns its description for `job.json` or `result.json`."""
    if isinstance(item, Text):
        return {"text": item.text}
    if isinstance(item, Table):
        return {"columns": list(item.columns), "rows": [list(row) for row in item.rows]}
    with disk_errors(folder):
        np.save(folder / f"{name}.npy", np.ascontiguousarray(item.array), allow_pickle=False)
    described: dict[str, Any] = {"file": f"{name}.npy"}
    if item.geometry is not None:
        described |= item.geometry.to_dict()
    if isinstance(item, Segmentation):
        return described | {"labels": item.labels}
    described |= {"unit": item.unit, "axes": [vars(a) for a in item.axes]}
    return described | ({"acquisition": item.acquisition} if item.acquisition else {})


def load_item(folder: Path, described: dict[str, Any]) -> Item:
    """The item of a description, its array memory-mapped and read-only."""
    if "text" in described:
        return Text(described["text"])
    if "columns" in described:
        return Table(tuple(described["columns"]), [tuple(row) for row in described["rows"]])
    array = _load(folder, described["file"])
    geometry = PatientGeometry.from_dict(described) if "ijkToRAS" in described else None
    if "labels" in described:
        return Segmentation(array, geometry, described["labels"])
    axes = tuple(Axis(**a) for a in described.get("axes") or _axes(array, geometry, described.get("kind", "volume")))
    return Grid(array, axes, described.get("unit", ""), geometry, described.get("acquisition", {}))


def _load(folder: Path, file: str) -> np.ndarray:
    if Path(file).name != file:
        raise InputError(f"The job names the file '{file}', but only files inside the job folder are allowed.")
    try:
        array = np.load(folder / file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"The array '{file}' of the job can't be read ({error}).") from None
    return array


def _axes(array: np.ndarray, geometry: PatientGeometry | None, kind: str) -> list[dict[str, Any]]:
    """Axes of a description that leaves them out, from the kind."""
    if kind == "projections":
        return [{"name": n} for n in ("slice", "view", "bin")[3 - array.ndim :]]
    steps = list(reversed(geometry.spacing)) if geometry else [0.0] * 3
    axes: list[dict[str, Any]] = [{"name": n, "unit": "mm", "step": s} for n, s in zip("kji", steps)]
    return axes + [{"name": "component"}] * (array.ndim - 3)
