"""Colour tables and ranges of maps: differences about zero, standard deviations and other amounts from zero, shares."""

from __future__ import annotations

import numpy as np
import slicer
from slicer.i18n import tr as _

from .windows import display_of

ATTRIBUTE = "DiffusionModels.ColorTable"
COUNT = 255  # odd: one entry lies exactly at zero
CLEAR = 0.03  # part of the range about zero which an overlay leaves transparent
BLUE, RED = (0.25, 0.55, 1.0), (1.0, 0.35, 0.15)


def kind_of(output: dict, low: float, high: float) -> str:
    """"difference" (signed), "share" (0 to 1 without unit) or "amount" (from 0) of a declared map with these values."""
    if low < 0 or "difference" in output.get("name", ""):
        return "difference"
    return "share" if not output.get("unit") and high <= 1 else "amount"


def limits(kind: str, array: np.ndarray) -> tuple[float, float]:
    """The range to show: symmetric about 0 for differences, 0 to the maximum for amounts, 0 to 1 for shares.

    The range of a difference holds 99.5 % of the voxels that changed, rounded up to 1, 2 or 5 times a power of ten:
    a few voxels in metal would hide the rest otherwise.
    """
    if kind == "share":
        return 0.0, 1.0
    if kind == "amount":
        high = float(np.nanmax(array))
        return 0.0, high if high > 0 else 1.0
    sample = np.abs(array.ravel()[:: max(1, array.size // 2_000_000)])
    changed = sample[sample > 0]
    reach = _round_up(float(np.quantile(changed, 0.995))) if changed.size else 1.0
    return -reach, reach


def dress(node, output: dict) -> None:
    """Colours and range of a map; `output` is its declaration (name, unit)."""
    array = slicer.util.arrayFromVolume(node)
    kind = kind_of(output, float(np.nanmin(array)), float(np.nanmax(array)))
    low, high = limits(kind, array)
    display = display_of(node)
    with slicer.util.NodeModify(display):
        display.SetAutoWindowLevel(0)
        display.SetWindowLevelMinMax(low, high)
        display.SetAndObserveColorNodeID(table("diverging" if kind == "difference" else "sequential").GetID())


def legend(node, output: dict) -> None:
    """A colour legend with name and unit wherever the map is shown; views that come later don't show it."""
    bar = slicer.modules.colors.logic().AddDefaultColorLegendDisplayNode(node)
    unit = output.get("unit")
    bar.SetTitleText(f"{output['name']} ({unit})" if unit else output["name"])
    bar.SetLabelFormat("%.3g")
    bar.SetNumberOfLabels(5)


def table(kind: str):
    """The colour table "diverging" (blue, clear at zero, red) or "sequential" (clear, violet, orange, yellow)."""
    for node in slicer.util.getNodesByClass("vtkMRMLColorTableNode"):
        if node.GetAttribute(ATTRIBUTE) == kind:
            return node
    names = {"diverging": _("Difference (blue to red)"), "sequential": _("Amount (violet to yellow)")}
    node = slicer.vtkMRMLColorTableNode()
    node.SetName(names[kind])
    node.SetTypeToUser()
    node.SetAttribute(ATTRIBUTE, kind)
    node.SetNumberOfColors(COUNT)
    for index, rgba in enumerate(_diverging() if kind == "diverging" else _sequential()):
        node.SetColor(index, f"{index}", *rgba)
    return slicer.mrmlScene.AddNode(node)


def _diverging() -> np.ndarray:
    """RGBA [COUNT, 4]: brightness grows with the distance from zero, alpha is 0 near zero."""
    place = np.linspace(-1, 1, COUNT)
    strength = np.abs(place)[:, None] ** 0.7
    hue = np.where(place[:, None] < 0, BLUE, RED)
    return np.hstack([strength * hue, (np.abs(place) > CLEAR)[:, None]])


def _sequential() -> np.ndarray:
    """RGBA [COUNT, 4]: brighter throughout (not black at first, which would darken an image), alpha 0 near zero."""
    place = np.linspace(0, 1, COUNT)
    stops = (0, 0.25, 0.5, 0.75, 1)
    red, green, blue = (0.2, 0.45, 0.8, 1, 1), (0.05, 0.1, 0.25, 0.6, 1), (0.5, 0.6, 0.4, 0.1, 0.6)
    channels = [np.interp(place, stops, channel) for channel in (red, green, blue)]
    return np.stack([*channels, place > CLEAR], axis=1)


def _round_up(value: float) -> float:
    """The next 1, 2 or 5 times a power of ten."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(step * power for step in (1, 2, 5, 10) if step * power >= value * (1 - 1e-9)))
