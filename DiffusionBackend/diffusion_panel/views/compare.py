"""Input, result and change side by side: linked, at the same place, in the same window."""

from __future__ import annotations

import numpy as np
import qt
import slicer
import vtk

from . import layouts
from .overlay import OPACITY


def show(volumes: list[tuple[str, object]], below: tuple[str, ...] = (), over=None) -> None:
    """Show up to three (label, volume node) side by side; the first one gives orientation and place.

    below : what stands beneath, see `layouts.description`. over : a map to lay over the volumes.
    The user's own slice position is kept where the red view shows one of these volumes; else the slice is the one
    with the largest change (when the third volume is given) or the middle one.
    """
    xml = layouts.description(len(volumes), below)
    if not volumes:
        layouts.switch(layouts.LAYOUT, xml)
        return
    place = _place(volumes)  # before the user's views are gone
    layouts.switch(layouts.LAYOUT, xml)
    first = volumes[0][1]
    for (label, node), name in zip(volumes, layouts.VIEWS):
        widget = layouts.manager().sliceWidget(name)
        _fill(widget.mrmlSliceCompositeNode(), node, over)
        slice_node = widget.mrmlSliceNode()
        slice_node.SetLayoutLabel(label)
        slice_node.SetOrientation("Axial")
        slice_node.RotateToVolumePlane(first)  # the slices that the method worked on, not resampled ones
    fit()
    _jump(place)
    qt.QTimer.singleShot(0, fit)  # again once the new views have their size


def fit() -> None:
    """Fit the views of the compare layout to their volumes; every view keeps its slice."""
    if layouts.manager() is None:
        return
    for name in layouts.VIEWS:
        widget = layouts.manager().sliceWidget(name)
        if widget is not None:
            logic = widget.sliceLogic()
            offset = logic.GetSliceOffset()
            logic.FitSliceToBackground()
            logic.SetSliceOffset(offset)


def largest_change(node) -> int:
    """The slice (k) of a volume in which the sum of absolute values is largest; every fourth voxel is looked at."""
    array = slicer.util.arrayFromVolume(node)[:, ::4, ::4]
    return int(np.argmax([np.abs(plane.astype(np.float32)).sum() for plane in array]))


def centre_of_slice(node, k: int) -> tuple[float, float, float]:
    """The centre of the slice `k` of a volume in patient space (RAS, mm), parent transforms applied."""
    columns, rows, _slices = node.GetImageData().GetDimensions()
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    local = matrix.MultiplyPoint(((columns - 1) / 2, (rows - 1) / 2, k, 1))[:3]
    to_world = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(node.GetParentTransformNode(), None, to_world)
    return to_world.TransformPoint(local)


def _place(volumes):
    """Where to look in patient space (RAS, mm)."""
    red = layouts.manager().sliceWidget("Red")
    shown = {node.GetID() for _label, node in volumes}
    if red is not None and red.mrmlSliceCompositeNode().GetBackgroundVolumeID() in shown:
        to_ras = red.mrmlSliceNode().GetSliceToRAS()
        return tuple(to_ras.GetElement(axis, 3) for axis in range(3))
    first = volumes[0][1]
    if volumes[2:]:
        return centre_of_slice(volumes[2][1], largest_change(volumes[2][1]))
    return centre_of_slice(first, first.GetImageData().GetDimensions()[2] // 2)


def _jump(place) -> None:
    """Show the slices through this patient position (RAS, mm)."""
    for name in layouts.VIEWS:
        widget = layouts.manager().sliceWidget(name)
        if widget is not None:
            widget.mrmlSliceNode().JumpSliceByOffsetting(*place)


def _fill(composite, node, over) -> None:
    """One volume, with the map `over` it if there is one, in a view that follows the others."""
    with slicer.util.NodeModify(composite):
        composite.SetBackgroundVolumeID(node.GetID())
        composite.SetForegroundVolumeID(None if over is None else over.GetID())
        composite.SetForegroundOpacity(OPACITY)
        composite.SetLabelVolumeID(None)
        composite.SetLinkedControl(True)
        composite.SetHotLinkedControl(True)
