"""Resampling in patient space: linear functions of the place are exact on any pair of grids."""

from __future__ import annotations

import numpy as np
import pytest

from diffusion_backend.data import PatientGeometry
from diffusion_backend.resampling import axial_grid, resample

TILT = np.array([[0.8, 0.6, 0.0], [-0.6, 0.8, 0.0], [0.0, 0.0, 1.0]]) @ np.array(
    [[1, 0, 0], [0, 0.96, -0.28], [0, 0.28, 0.96]]
)
GRIDS = {
    "axial": np.eye(3),
    "oblique": TILT,
    "sagittal": np.array([[0.0, 0, 1], [1, 0, 0], [0, -1, 0]]),
    "flipped": np.diag([-1.0, 1, -1]),
}


def place(direction, spacing=(0.8, 1.1, 2.5), origin=(-20.0, 30.0, 7.0)):
    return PatientGeometry.from_itk(spacing, origin, np.asarray(direction, float).ravel())


def coordinates(geometry, shape):
    """LPS millimetres of every voxel [k, j, i, 3]."""
    k, j, i = np.indices(shape)
    matrix = np.asarray(geometry.direction).reshape(3, 3) * np.asarray(geometry.spacing)
    return np.stack([i, j, k], -1) @ matrix.T + np.asarray(geometry.origin)


def between(points, geometry, shape):
    """Where the points lie between voxel centres of a grid; in the half voxel at its border the edge value counts."""
    matrix = np.asarray(geometry.direction).reshape(3, 3) * np.asarray(geometry.spacing)
    index = (points - np.asarray(geometry.origin)) @ np.linalg.inv(matrix).T
    return ((index >= 0) & (index <= np.array(shape[::-1]) - 1)).all(-1)


def ramp(points):
    return points @ np.array([1.5, -2.0, 0.7]) + 11


@pytest.mark.parametrize("direction", GRIDS.values(), ids=GRIDS)
def test_the_axial_grid_covers_every_voxel_and_not_much_more(direction):
    shape, spacing = (9, 30, 40), (3.5, 3.5, 3.0)
    geometry = place(direction)
    grid, size = axial_grid(geometry, shape, spacing, multiple=8)
    points = coordinates(geometry, shape).reshape(-1, 3)
    inside = (points - np.asarray(grid.origin)) / np.asarray(spacing)
    assert (inside >= -0.5).all() and (inside <= np.array(size[::-1]) - 0.5).all()
    assert size[1] % 8 == 0 and size[2] % 8 == 0
    extent = np.array(size[::-1]) * spacing - np.ptp(points, axis=0)
    assert (extent < np.array([8 * 3.5, 8 * 3.5, 3]) + 2.5 * 3).all()


@pytest.mark.parametrize("direction", GRIDS.values(), ids=GRIDS)
def test_a_ramp_of_the_place_is_exact_to_the_axial_grid_and_back(direction):
    shape, geometry = (16, 40, 50), place(direction)
    array = ramp(coordinates(geometry, shape)).astype(np.float32)
    grid, size = axial_grid(geometry, shape, (3.5, 3.5, 3.0), 8)
    there = resample(array, geometry, grid, size, outside=-9999, smooth=False)
    points = coordinates(grid, size)
    seen = between(points, geometry, shape)
    assert seen.sum() > 300 and (there[~seen] == -9999).any()
    assert np.abs(there - ramp(points))[seen].max() < 1e-2
    smoothed = resample(array, geometry, grid, size, outside=-9999)
    middle = tuple(slice(n // 2 - 1, n // 2 + 1) for n in size)
    assert np.abs(smoothed - ramp(coordinates(grid, size)))[middle].max() < 0.05
    back = resample(ramp(coordinates(grid, size)).astype(np.float32), grid, geometry, shape, outside=-9999)
    kept = between(coordinates(geometry, shape), grid, size)
    assert kept.mean() > 0.6 and np.abs(back - array)[kept].max() < 1e-2


def test_smoothing_takes_away_what_larger_voxels_cannot_hold():
    """White noise of standard deviation 1 on 1 mm voxels, on voxels of 3.5 mm: much quieter than by picking voxels."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((24, 96, 96)).astype(np.float32)
    geometry = place(np.eye(3), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    grid, size = axial_grid(geometry, noise.shape, (3.5, 3.5, 3.5))
    quiet = resample(noise, geometry, grid, size, outside=0)[1:-1, 1:-1, 1:-1].std()
    picked = resample(noise, geometry, grid, size, outside=0, smooth=False)[1:-1, 1:-1, 1:-1].std()
    assert quiet < 0.35 < picked
