"""Maps and segmentations over the image."""

from __future__ import annotations

import slicer

from . import layouts

OPACITY = 0.6


def show(background, foreground) -> None:
    """Lay a map over an image in all slice views; the user's layout and place stay. `background` may be None."""
    if layouts.manager() is None:
        return
    if background is None:
        slicer.util.setSliceViewerLayers(background=foreground, foreground=None, fit=True)
    else:
        slicer.util.setSliceViewerLayers(background=background, foreground=foreground, foregroundOpacity=OPACITY)


def segmentation(node, *, filled: bool) -> None:
    """Show a segmentation in the slice views: outlines alone (the grey values stay visible) or filled as well."""
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    with slicer.util.NodeModify(display):
        display.SetVisibility(True)
        display.SetVisibility2DOutline(True)
        display.SetVisibility2DFill(filled)
        display.SetOpacity2DFill(0.35)
