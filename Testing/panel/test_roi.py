"""Regions of interest: the slices that a box covers, and results that equal the input outside of it."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
import vtk

from diffusion_panel import exchange, roi
from diffusion_panel.geometry import ExchangeError

from . import exchanging as ex

SHAPE = (9, 10, 11)
BOXES = {"straight": np.eye(4), "turned": ex.rotation((30, (1, 2, 0.5)))}
PARENTS = {"none": None, "scaled": np.diag([1.3, 0.8, 1.1, 1.0]), "moved": ex.rotation((-20, (0, 1, 1)))}


def box(volume, size=(4.1, 3.3, 9.7), turn=None, parent=None, offset=(0.31, -0.23, 1.17)):
    """A ROI node around the middle of a volume."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "box")
    if parent is not None:
        node.SetAndObserveTransformNodeID(ex.transform(parent, name="of the box").GetID())
    matrix = np.eye(4) if turn is None else turn.copy()
    node.SetAndObserveObjectToNodeMatrix(ex.node_matrix(matrix))
    node.SetSize(*size)
    node.SetCenterWorld(*(ex.ras(volume, SHAPE).mean(axis=0) + offset))
    return node


def inside(node, volume):
    """Which voxels of a volume lie in the box that the 3D view draws, one by one.

    The node's planes aren't used: they leave the scale of a parent transform out."""
    surface = vtk.vtkImplicitPolyDataDistance()
    surface.SetInput(node.CreateROIBoxPolyDataWorld())
    corner = ex.ras(volume, (2, 2, 2))  # indices (i, j, k) of 0 and 1: the first voxel and its three neighbours
    first, steps = corner[0], np.array([corner[4], corner[2], corner[1]]) - corner[0]
    mask = np.zeros(SHAPE, bool)
    for k, j, i in np.ndindex(SHAPE):
        mask[k, j, i] = surface.FunctionValue(first + np.array([i, j, k]) @ steps) <= 0
    return mask


@pytest.mark.parametrize("turn", BOXES)
@pytest.mark.parametrize("parent", PARENTS)
@pytest.mark.parametrize("moved", [False, True])
def test_outside_the_box_the_result_is_the_input(turn, parent, moved):
    array = ex.values(SHAPE)
    above = ex.transform(ex.rotation((15, (1, 0, 0)))) if moved else None
    volume = ex.volume(array, ex.grid(oblique=turn == "turned"), parent=above)
    node = box(volume, turn=BOXES[turn], parent=PARENTS[parent])
    slab = roi.slab_of(node, volume)
    exported = exchange.export("volume", volume, slab=slab)
    result = exported.array.astype(np.float32) + 1000.5
    expected = inside(node, volume)
    description, whole = roi.paste(exported.description, result, volume, slab=slab, roi=node)
    assert 10 < expected.sum() < expected.size // 2 and whole.dtype == np.float32
    assert np.array_equal(whole[~expected], array[~expected])
    assert np.array_equal(whole[expected], array[expected] + np.float32(1000.5))
    back = exchange.create(description, whole, name="back", like=volume)
    np.testing.assert_array_equal(ex.ras(back, SHAPE), ex.ras(volume, SHAPE))
    assert np.array_equal(slicer.util.arrayFromVolume(volume), array)
    _description, difference = roi.paste(exported.description, result, volume, slab=slab, roi=node, keep=False)
    assert not difference[~expected].any() and difference[expected].all()


@pytest.mark.parametrize("turn", BOXES)
def test_the_slices_of_a_box_are_those_with_a_voxel_in_it(turn):
    for directions in list(ex.orientations())[::5]:
        volume = ex.volume(ex.values(SHAPE), ex.grid(directions, (0.9, 1.1, 1.3)))
        node = box(volume, turn=BOXES[turn])
        axis, start, stop = roi.slab_of(node, volume)
        assert axis == 2 - int(np.argmax(np.abs(directions[2])))  # the axis along the patient's long axis
        covered = np.flatnonzero(inside(node, volume).any(axis=tuple(a for a in range(3) if a != axis)))
        assert (start, stop) == (covered[0], covered[-1] + 1)
        slicer.mrmlScene.Clear(0)


def test_a_box_beyond_the_volume_covers_what_is_there_and_one_outside_is_refused():
    volume = ex.volume(ex.values(SHAPE))
    assert roi.slab_of(box(volume, size=(900, 900, 900)), volume) == (0, 0, SHAPE[0])
    with pytest.raises(ExchangeError, match="The ROI 'box' holds no voxel of 'ct'. Move or enlarge it"):
        roi.slab_of(box(volume, offset=(0, 0, 400)), volume)
    with pytest.raises(ExchangeError, match="The ROI 'box' holds no voxel"):
        roi.slab_of(box(volume, size=(0.1, 0.1, 0.1), offset=(0.2, 0.2, 1.3)), volume)
    with pytest.raises(ExchangeError, match="A ROI is needed"):
        roi.slab_of(volume, volume)


def test_slices_alone_are_pasted_without_a_box():
    array = ex.values(SHAPE)
    volume = ex.volume(array)
    exported = exchange.export("volume", volume, slab=(1, 4, 6))
    description, whole = roi.paste(exported.description, exported.array + 1, volume, slab=(1, 4, 6))
    assert np.array_equal(whole[:, 4:6], array[:, 4:6] + 1) and whole.dtype == array.dtype
    rest = np.delete(np.arange(SHAPE[1]), [4, 5])
    assert np.array_equal(whole[:, rest], array[:, rest])
    assert description["ijkToRAS"] == exchange.export("volume", volume).description["ijkToRAS"]
    with pytest.raises(ExchangeError, match=r"\(9, 3, 11\) voxels doesn't fit into 'ct'"):
        roi.paste(exported.description, np.zeros((9, 3, 11)), volume, slab=(1, 4, 6))
