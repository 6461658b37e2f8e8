"""Projections from and to files: `.npz` with `sinogram` and `geometry`, or `.nrrd` with a `.json` of the geometry
beside.

sinogram : (view, bin) or (slice, view, bin), line integrals. geometry : JSON with type, angles_deg, bins, bin_mm,
offset_mm and, for fan
beams, source_axis_mm and source_detector_mm (see `physics.ct.Geometry`). The `.npz` may hold `ijkToRAS` of the
volume to reconstruct.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from .. import memory
from ..data import Grid, PatientGeometry, projections
from ..errors import InputError
from . import headers
from .arrays import check_acquisition


def read_projections(path: Path) -> Grid:
    """Projections with their geometry. Raises InputError when something is missing or unreadable."""
    if not path.is_file():
        raise InputError(f"There is no file '{path}'.")
    array, text, matrix = _read_npz(path) if path.suffix == ".npz" else _read_nrrd(path)
    try:
        acquisition = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"The geometry of '{path.name}' isn't readable JSON ({error}).") from None
    return projections(_checked(array, path), check_acquisition(acquisition, f"'{path.name}'"), matrix)


def write_projections(grid: Grid, path: Path) -> None:
    """Write `.npz` (compressed)."""
    placement: dict[str, Any] = {"ijkToRAS": np.asarray(grid.geometry.ijk_to_ras)} if grid.geometry else {}
    np.savez_compressed(path, sinogram=grid.array, geometry=np.array(json.dumps(grid.acquisition)), **placement)


def _read_npz(path: Path) -> tuple[np.ndarray, str, PatientGeometry | None]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            unpacked = sum(info.file_size for info in archive.zip.infolist())
            if unpacked > memory.available_bytes("cpu"):
                raise InputError(f"'{path.name}' unpacks to {unpacked // memory.MB} MB, more than the memory holds.")
            missing = [name for name in ("sinogram", "geometry") if name not in archive]
            if missing:
                raise InputError(
                    f"'{path.name}' lacks the array '{missing[0]}'; it has: {', '.join(archive.files) or 'none'}."
                )
            matrix = PatientGeometry.from_ijk_to_ras(archive["ijkToRAS"]) if "ijkToRAS" in archive else None
            return archive["sinogram"], str(archive["geometry"]), matrix
    except InputError:
        raise
    except Exception as error:  # a damaged archive shows itself in as many ways as it has parts
        raise InputError(f"'{path.name}' can't be read as projections ({error}).") from None


def _read_nrrd(path: Path) -> tuple[np.ndarray, str, PatientGeometry | None]:
    beside = path.with_suffix(".json")
    if not beside.is_file():
        raise InputError(f"Projections in '{path.name}' need their geometry in '{beside.name}' beside the file.")
    try:
        headers.check(path)
        return sitk.GetArrayFromImage(sitk.ReadImage(str(path))), beside.read_text(encoding="utf-8"), None
    except (RuntimeError, UnicodeDecodeError):
        raise InputError(f"'{path.name}' can't be read as an image. Give projections as .npz or .nrrd.") from None


def _checked(array: np.ndarray, path: Path) -> np.ndarray:
    if array.ndim not in (2, 3) or not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
        raise InputError(
            f"The sinogram in '{path.name}' has {array.ndim} axes of type {array.dtype}, but (view, bin) or "
            "(slice, view, bin) numbers are needed."
        )
    return array
