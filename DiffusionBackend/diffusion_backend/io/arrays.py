"""Items to and from a job or result folder: `.npy` in the array's own type plus a JSON description; read
memory-mapped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..data import Axis, Grid, Item, PatientGeometry, Segmentation, Table, Text
from ..errors import InputError
from .folders import disk_errors

EMPTY = 1 << 16  # no axis of an array without values is longer: nobody loops over what isn't there


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


def load_item(folder: Path, described: Any) -> Item:
    """The item of a description, its array memory-mapped and read-only. InputError where the description or its file
    isn't what `save_item` makes."""
    try:
        return _item(folder, described)
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise InputError(f"The job describes its data wrongly: {reason}.") from None


def _item(folder: Path, described: Any) -> Item:
    if "text" in described:
        return Text(_typed(described, "text", str))
    if "columns" in described:
        return _table(described)
    array = _load(folder, _typed(described, "file", str))
    geometry = PatientGeometry.from_dict(described) if "ijkToRAS" in described else None
    if "labels" in described:
        return _segmentation(array, geometry, _typed(described, "labels", dict))
    known = described.get("axes") or _axes(array, geometry, described.get("kind", "volume"))
    axes = tuple(Axis(str(a["name"]), str(a.get("unit", "")), float(a.get("step", 0.0))) for a in known)
    if len(axes) != array.ndim:
        raise ValueError(f"{len(axes)} axes are named for an array with {array.ndim}")
    acquisition = _typed(described | {"acquisition": described.get("acquisition", {})}, "acquisition", dict)
    if axes and axes[-1].name == "bin":
        check_acquisition(acquisition, "the job")
    return Grid(array, axes, _typed({"unit": "", **described}, "unit", str), geometry, acquisition)


def check_acquisition(acquisition: Any, where: str) -> dict[str, Any]:
    """The geometry of projections as it came. InputError where entries are missing or of the wrong type; their values
    are checked against the projections by a predicate, and by `physics.ct.Geometry`."""
    needed = ("type", "angles_deg", "bins", "bin_mm")
    missing = [k for k in needed if k not in acquisition] if isinstance(acquisition, dict) else list(needed)
    if missing:
        raise InputError(f"The geometry of {where} lacks {', '.join(missing)}.")
    angles, numbers = acquisition["angles_deg"], (acquisition["bins"], acquisition["bin_mm"])
    if not isinstance(angles, list) or not all(_is_number(n) for n in (*angles, *numbers)):
        raise InputError(
            f"The geometry of {where} needs a list of numbers as angles_deg, and numbers as bins and bin_mm."
        )
    return acquisition


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _table(described: Any) -> Table:
    columns = tuple(str(c) for c in _typed(described, "columns", list))
    rows = [tuple(row) for row in _typed(described, "rows", list)]
    if any(len(row) != len(columns) for row in rows):
        raise ValueError(f"a row of the table hasn't {len(columns)} cells")
    return Table(columns, rows)


def _segmentation(array: np.ndarray, geometry: PatientGeometry | None, labels: dict[str, Any]) -> Segmentation:
    if array.ndim != 3 or array.dtype.kind not in "iu" or not all(type(v) is int for v in labels.values()):
        raise ValueError("labels need a three-dimensional array of whole numbers, and a whole number for each name")
    return Segmentation(array, geometry, labels)


def _typed(described: Any, key: str, wanted: type) -> Any:
    if not isinstance(described[key], wanted):
        raise TypeError(f"'{key}' is no {wanted.__name__}")
    return described[key]


def _load(folder: Path, file: str) -> np.ndarray:
    """The array in a file of the folder itself: no link, and no pipe that would never end."""
    if Path(file).name != file or (folder / file).is_symlink():
        raise InputError(f"The job names the file '{file}', but only files inside the job folder are allowed.")
    if not (folder / file).is_file():
        raise InputError(f"The array '{file}' of the job is missing.")
    try:
        array = np.load(folder / file, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy raises what its parsers raise
        raise InputError(f"The array '{file}' of the job can't be read ({error}).") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biufc" or not array.ndim:
        raise InputError(f"The file '{file}' of the job holds no array of numbers.")
    if not array.size and max(array.shape) > EMPTY:
        raise InputError(f"The array '{file}' of the job is empty.")
    return array


def _axes(array: np.ndarray, geometry: PatientGeometry | None, kind: str) -> list[dict[str, Any]]:
    """Axes of a description that leaves them out, from the kind."""
    if kind == "projections":
        return [{"name": n} for n in ("slice", "view", "bin")[3 - array.ndim :]]
    steps = list(reversed(geometry.spacing)) if geometry else [0.0] * 3
    axes: list[dict[str, Any]] = [{"name": n, "unit": "mm", "step": s} for n, s in zip("kji", steps)]
    return axes + [{"name": "component"}] * (array.ndim - 3)
