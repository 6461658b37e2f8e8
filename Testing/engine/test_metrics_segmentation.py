"""Metrics of masks: closed forms of boxes, and a search over all pairs of surface voxels as an independent way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from diffusion_backend.metrics import segmentation as metrics

SPACING = (0.7, 1.3, 2.5)  # mm (i, j, k)


def box(shape, k, j, i):
    mask = np.zeros(shape, bool)
    mask[slice(*k), slice(*j), slice(*i)] = True
    return mask


def test_a_box_that_is_moved_along_each_axis():
    """A single plane moved by n voxels: every surface voxel is n voxels away, in the axis' own millimetres."""
    for axis, mm in zip(range(3), reversed(SPACING)):
        a = np.zeros((12, 12, 12), bool)
        b = a.copy()
        a[tuple(slice(3, 9) if n != axis else 2 for n in range(3))] = True
        b[tuple(slice(3, 9) if n != axis else 6 for n in range(3))] = True
        row = metrics.compare(a, b, SPACING)
        assert row["hd95_mm"] == pytest.approx(4 * mm) and row["asd_mm"] == pytest.approx(4 * mm)
        assert row["dice"] == 0 and row["volume_ml"] == pytest.approx(36 * np.prod(SPACING) / 1000)


def test_dice_and_volumes_of_overlapping_boxes():
    a, b = box((10, 10, 10), (2, 6), (2, 6), (2, 6)), box((10, 10, 10), (4, 8), (2, 6), (2, 6))
    row = metrics.compare(a, b, (1, 1, 1))
    assert row["dice"] == 0.5
    larger = metrics.compare(box((10, 10, 10), (2, 6), (2, 6), (2, 7)), a, (2, 1, 1))
    assert larger["volume_difference_ml"] == pytest.approx(16 * 2 / 1000) and larger["reference_ml"] == 0.128
    same = metrics.compare(a, a, SPACING)
    assert (same["dice"], same["hd95_mm"], same["asd_mm"], same["volume_difference_ml"]) == (1, 0, 0, 0)


def test_empty_masks_have_no_distance_and_two_of_them_no_overlap():
    """Trap 19 of A14: nothing is invented where a mask is empty."""
    a, empty = box((4, 4, 4), (1, 3), (1, 3), (1, 3)), np.zeros((4, 4, 4), bool)
    one, none = metrics.compare(a, empty, SPACING), metrics.compare(empty, empty, SPACING)
    assert one["dice"] == 0 and np.isnan(one["hd95_mm"]) and np.isnan(one["asd_mm"])
    assert np.isnan(none["dice"]) and none["volume_difference_ml"] == 0


def test_sizes_must_agree():
    with pytest.raises(ValueError, match="one size"):
        metrics.compare(np.ones((2, 2, 2)), np.ones((2, 2, 3)), SPACING)


def surface_points(mask):
    """Centres in mm of the voxels with a neighbour outside, found by looking at each neighbour."""
    padded = np.pad(mask, 1)
    inside = np.ones(mask.shape, bool)
    for axis in range(3):
        for step in (-1, 1):
            inside &= np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1]
    return np.argwhere(mask & ~inside) * np.array(SPACING[::-1])


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 10**6))
def test_any_masks_against_a_search_over_all_surface_voxels(seed):
    rng = np.random.default_rng(seed)
    a, b = (rng.random((6, 7, 8)) < p for p in rng.uniform(0.02, 0.9, 2))
    if not (a.any() and b.any()):
        return
    pa, pb = surface_points(a), surface_points(b)
    ab, ba = cKDTree(pb).query(pa)[0], cKDTree(pa).query(pb)[0]
    row = metrics.compare(a, b, SPACING)
    assert row["hd95_mm"] == pytest.approx(max(np.percentile(ab, 95), np.percentile(ba, 95)), abs=1e-9)
    assert row["asd_mm"] == pytest.approx((ab.sum() + ba.sum()) / (len(ab) + len(ba)), abs=1e-9)
    assert row["dice"] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
