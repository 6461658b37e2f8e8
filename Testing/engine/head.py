"""A small generated CT with metal for tests of the way through the engine: fast, and never a patient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk


def hu(slices: int = 2, size: int = 64, metal: bool = True, top: float = 6000.0) -> np.ndarray:
    """A disc of tissue with a bone and, in the middle slice, metal: float32 (k, j, i) in HU."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    image = np.where(np.hypot(x, y) < 0.4 * size, 40.0, -1000.0)
    image = np.where(np.hypot(x - 0.15 * size, y) < 0.08 * size, 700.0, image)
    volume = np.repeat(image[None], slices, 0).astype(np.float32)
    if metal:
        volume[slices // 2][np.hypot(x + 0.12 * size, y - 0.05 * size) < 2.6] = top
    return volume


def write(path: Path, array: np.ndarray, spacing=(2.0, 2.0, 3.0), origin=(-30.0, 12.5, 7.25), direction=None) -> Path:
    """Write an array (k, j, i[, component]) as an image with this geometry (LPS)."""
    image = sitk.GetImageFromArray(array, isVector=array.ndim == 4)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    if direction is not None:
        image.SetDirection(direction)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))
    return path


def rotation(angles=(0.2, -0.35, 0.5)) -> tuple[float, ...]:
    """An exact oblique direction matrix, row by row."""
    a, b, c = angles
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return tuple(float(v) for v in (x @ y @ z).ravel())
