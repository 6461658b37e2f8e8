"""Results in the 3D view: volume rendering for volumes, closed surfaces for segmentations."""

from __future__ import annotations

import numpy as np
import slicer
import vtk

from . import layouts

FOUR_UP = 3  # the layout with three slice views and a 3D view
LUNG_HU = (-950.0, -600.0)
LUNG_SHARE = 0.12  # a volume with more of it is a chest
# Own transfer functions, used where the application lacks the preset: value -> red, green, blue, opacity.
HU_POINTS = {
    "CT-Bone": ((-3024, 0, 0, 0, 0), (150, 0.5, 0.2, 0.1, 0), (400, 0.8, 0.6, 0.4, 0.25), (1500, 1, 1, 0.95, 0.85)),
    "CT-Lung": ((-3024, 0, 0, 0, 0), (-900, 0, 0, 0, 0), (-600, 0.8, 0.5, 0.4, 0.1), (-400, 0.8, 0.6, 0.5, 0)),
}
# The same for values without a scale of their own, as parts of the range of the volume.
FREE_POINTS = ((0.0, 0, 0, 0, 0), (0.3, 0.2, 0.2, 0.2, 0), (0.6, 0.7, 0.65, 0.6, 0.12), (1.0, 1, 1, 1, 0.6))


def show(node, *, unit: str = "", preset: str = "", force: bool = False) -> None:
    """Show a volume or segmentation in the 3D view.

    unit : unit of the volume; "HU" takes the CT presets, everything else is scaled by the volume's own range.
    preset : name of a volume rendering preset, else one is chosen. Without a main window only the nodes are made.
    """
    if node.IsA("vtkMRMLSegmentationNode"):
        surface(node)
    else:
        render(node, unit, preset)
    if layouts.may_switch(force):
        if not layouts.shows("vtkMRMLViewNode"):
            layouts.switch(FOUR_UP)
        slicer.util.resetThreeDViews()


def surface(node) -> None:
    """Closed surfaces of all segments, visible in 3D."""
    node.CreateDefaultDisplayNodes()
    node.CreateClosedSurfaceRepresentation()
    node.GetDisplayNode().SetVisibility(True)
    node.GetDisplayNode().SetVisibility3D(True)


def render(node, unit: str = "", preset: str = ""):
    """Volume rendering of a volume; returns its display node."""
    logic = slicer.modules.volumerendering.logic()
    display = logic.GetFirstVolumeRenderingDisplayNode(node) or logic.CreateDefaultVolumeRenderingNodes(node)
    name = preset or (_ct_preset(node) if unit == "HU" else "")
    stored = logic.GetPresetByName(name) if name else None
    properties = display.GetVolumePropertyNode()
    if stored is not None:
        properties.Copy(stored)
    else:
        _transfer(properties, _points(node, name))
    display.SetVisibility(True)
    return display


def _ct_preset(node) -> str:
    """"CT-Lung" for a chest, "CT-Bone" for everything else."""
    sample = slicer.util.arrayFromVolume(node)[::2, ::8, ::8]
    lung = np.mean((sample > LUNG_HU[0]) & (sample < LUNG_HU[1]))
    return "CT-Lung" if lung > LUNG_SHARE else "CT-Bone"


def _points(node, name: str):
    """(value, red, green, blue, opacity) of an own transfer function."""
    if name in HU_POINTS:
        return HU_POINTS[name]
    sample = slicer.util.arrayFromVolume(node)[::2, ::4, ::4]
    low, high = (float(v) for v in np.percentile(sample, (1, 99.9)))
    return [(low + part * max(high - low, 1e-6), *rest) for part, *rest in FREE_POINTS]


def _transfer(properties, points) -> None:
    """Fill a volume property node."""
    colours, opacity = vtk.vtkColorTransferFunction(), vtk.vtkPiecewiseFunction()
    for value, red, green, blue, opaque in points:
        colours.AddRGBPoint(value, red, green, blue)
        opacity.AddPoint(value, opaque)
    properties.SetColor(colours)
    properties.SetScalarOpacity(opacity)
    inner = properties.GetVolumeProperty()
    inner.SetInterpolationTypeToLinear()
    inner.ShadeOn()
    inner.SetAmbient(0.2)
    inner.SetDiffuse(0.9)
    inner.SetSpecular(0.2)
