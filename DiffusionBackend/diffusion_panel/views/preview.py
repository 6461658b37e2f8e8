"""The running estimate as a small picture for the panel."""

from __future__ import annotations

import numpy as np
import qt

from . import windows

NARROWEST = 0.02  # an estimate which spans less of the window than this has other values than the input (a sinogram)


def preview(array: np.ndarray, like=None):
    """A grey picture (qt.QPixmap) of one slice of the running estimate.

    array : [rows, columns], any number type. like : the input volume; its window and level are used, and the picture
    is turned as a slice view shows it (patient right on the left, anterior up). Without it, or where the values are
    no image values of that input, the values themselves give the range.
    """
    values = np.asarray(array, np.float32)
    low, high = _spread(values)
    if like is not None:
        window, level = windows.window_of(like)
        if min(high, level + window / 2) - max(low, level - window / 2) > NARROWEST * window:
            low, high = level - window / 2, level + window / 2
            values = _upright(values, like)
    return _pixmap(grey(values, low, high))


def grey(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """uint8 [rows, columns]: `low` and less is 1, `high` and more is 255. Never 0: the bytes pass through Qt."""
    scaled = (np.nan_to_num(values) - low) / max(high - low, 1e-12)
    return (1.5 + 254 * np.clip(scaled, 0, 1)).astype(np.uint8)


def _spread(values: np.ndarray) -> tuple[float, float]:
    """The 1st and 99th percentile of the finite values."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = np.percentile(finite, (1, 99))
    return float(low), float(high)


def _upright(values: np.ndarray, like) -> np.ndarray:
    """Turn rows and columns of an axial slice as a slice view does: towards left, posterior and inferior."""
    axes = np.zeros((3, 3))
    like.GetIJKToRASDirections(axes)
    for array_axis, voxel_axis in ((1, 0), (0, 1)):
        direction = axes[:, voxel_axis]
        if direction[np.argmax(np.abs(direction))] > 0:
            values = np.flip(values, array_axis)
    return values


def _pixmap(image: np.ndarray):
    """A portable grey map in memory is the one form that PythonQt takes without a copy per pixel."""
    rows, columns = image.shape
    pixmap = qt.QPixmap()
    pixmap.loadFromData(b"P5 %d %d 255\n" % (columns, rows) + image.tobytes())
    return pixmap
