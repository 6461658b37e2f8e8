"""Volumes onto other grids in patient space, through SimpleITK."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk

from .data import Grid, PatientGeometry

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)  # i to left, j to posterior, k to superior


def axial_grid(
    geometry: PatientGeometry, shape: Sequence[int], spacing: Sequence[float], multiple: int = 1
) -> tuple[PatientGeometry, tuple[int, int, int]]:
    """The axial grid of voxels `spacing` (mm, i j k) that covers a volume of `shape` (k, j, i), and its shape.

    Centred on the volume; rows and columns are multiples of `multiple`."""
    corners = np.array([[(n - 0.5) if c >> axis & 1 else -0.5 for axis, n in enumerate(reversed(shape))]
                        for c in range(8)])  # fmt: skip
    placed = np.asarray(geometry.direction).reshape(3, 3) * np.asarray(geometry.spacing)
    points = corners @ placed.T + np.asarray(geometry.origin)
    low, high = points.min(0), points.max(0)
    counts = np.maximum(np.ceil((high - low) / spacing - 1e-6), 1).astype(int)
    counts[:2] = -(-counts[:2] // multiple) * multiple
    origin = (low + high) / 2 - (counts - 1) / 2 * np.asarray(spacing)
    i, j, k = (int(n) for n in counts)
    return PatientGeometry.from_itk(spacing, origin, AXIAL), (k, j, i)


def resample(
    array: np.ndarray,
    geometry: PatientGeometry,
    target: PatientGeometry,
    shape: Sequence[int],
    *,
    outside: float,
    smooth: bool = True,
) -> np.ndarray:
    """A volume (k, j, i) on another grid of `shape` (k, j, i), linear, float32; `outside` where the volume isn't.

    smooth : where the new voxels are larger, what they can't hold is averaged out first (a Gaussian whose variance is
    that of the larger voxel minus that of the smaller)."""
    image = _image(np.asarray(array, np.float32), geometry)
    if smooth:
        image = _smoothed(image, geometry, target)
    reference = sitk.Image([int(n) for n in reversed(shape)], sitk.sitkUInt8)
    reference.SetSpacing(target.spacing)
    reference.SetOrigin(target.origin)
    reference.SetDirection(target.direction)
    moved = sitk.Resample(image, reference, sitk.Transform(), sitk.sitkLinear, float(outside), sitk.sitkFloat32)
    return sitk.GetArrayFromImage(moved)


def volume_on(grid: Grid, target: PatientGeometry, shape: Sequence[int], *, outside: float) -> np.ndarray:
    """A scalar volume on another grid, see `resample`. ValueError without patient geometry."""
    if grid.geometry is None:
        raise ValueError("This volume has no patient geometry and can't be resampled.")
    return resample(grid.array, grid.geometry, target, shape, outside=outside)


def _image(array: np.ndarray, geometry: PatientGeometry) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    return image


def _smoothed(image: sitk.Image, geometry: PatientGeometry, target: PatientGeometry) -> sitk.Image:
    """Each axis is smoothed for the step of the target axis that runs along it most."""
    own, other = (np.asarray(g.direction).reshape(3, 3) for g in (geometry, target))
    along = np.abs(own.T @ other).argmax(1)
    coarse = np.asarray(target.spacing)[along]
    variances = np.maximum(coarse**2 - np.asarray(geometry.spacing) ** 2, 0) / 12  # of a uniform voxel: step^2 / 12
    for axis, variance in enumerate(variances):
        if variance > 0 and image.GetSize()[axis] > 3:
            order = sitk.RecursiveGaussianImageFilter.ZeroOrder
            image = sitk.RecursiveGaussian(image, float(variance**0.5), False, order, axis)
    return image
