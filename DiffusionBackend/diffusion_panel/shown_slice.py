"""Which slice of a volume the Red view shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer

from . import geometry, roi

VIEW = "vtkMRMLSliceNodeRed"


def number(inputs: dict[str, Any]) -> int | None:
    """Index of the shown slice of the first volume among `inputs`, along its slices as acquired; None outside.

    Inputs without a place in the patient, such as projections alone, give their middle slice."""
    nodes = [v for v in inputs.values() if hasattr(v, "GetImageData") and v.GetImageData() is not None]
    if not nodes:
        return 0
    volume = nodes[0]
    size = volume.GetImageData().GetDimensions()
    view = slicer.mrmlScene.GetNodeByID(VIEW)
    if view is None or volume.GetAttribute("DiffusionModels.Geometry"):
        return size[2] // 2
    centre = geometry.array_of(view.GetSliceToRAS())[:, 3]
    ijk = np.linalg.solve(geometry.placed(volume).matrix, centre)
    axis = 2 - roi.axial_axis(volume)
    index = int(np.floor(ijk[axis] + 0.5))
    return index if 0 <= index < size[axis] else None
