"""The image grid that belongs to projections: pixels, and where the volume lies in the patient."""

from __future__ import annotations

import math

import numpy as np

from .data import Grid, PatientGeometry
from .physics.ct import Geometry, ImageGrid

DEFAULT_SIZE = 256


def field_of_view_mm(geometry: Geometry) -> float:
    """Radius of the circle that every view sees, mm: R sin(fan angle) on the narrower side of the detector."""
    narrow = float(min(abs(geometry.positions_mm()[0]), abs(geometry.positions_mm()[-1])))
    if geometry.type == "parallel":
        return narrow
    angles = geometry.fan_angles()
    return float(geometry.source_axis_mm or 0.0) * math.sin(float(min(abs(angles[0]), abs(angles[-1]))))


def reconstruction_grid(
    measured: Grid, geometry: Geometry, size: int = 0, pixel_mm: float = 0.0
) -> tuple[ImageGrid, PatientGeometry]:
    """Grid for `size` x `size` pixels; 0 takes what the projections say, else 256 pixels over the field of view. Pixels
    of 0 mm fill the field that the projections tell, else that every view sees.

    Projections may carry `image: {"size", "pixel_mm"}` in their acquisition and the place of that volume in the
    patient. Otherwise
    the volume is centred on the rotation axis, row 0 anterior, first slice at 0, slices 1 mm apart.
    """
    hint = measured.acquisition.get("image") or {}
    as_hinted = bool(hint) and size in (0, hint["size"]) and pixel_mm in (0, hint["pixel_mm"])
    size = size or hint.get("size", DEFAULT_SIZE)
    pixel = pixel_mm or (hint["pixel_mm"] * (hint["size"] / size) if hint else 2 * field_of_view_mm(geometry) / size)
    grid = ImageGrid(size, size, pixel)
    if as_hinted and measured.geometry is not None:
        return grid, measured.geometry
    corner = -(size - 1) / 2 * pixel
    return grid, PatientGeometry.from_itk((pixel, pixel, 1.0), (corner, corner, 0.0), np.eye(3).ravel())
