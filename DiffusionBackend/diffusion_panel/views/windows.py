"""Window and level: the same numbers for what is compared, presets for CT."""

from __future__ import annotations

import slicer
from slicer.i18n import tr as _

# Window and level in HU: the usual ones of a CT console.
CT_WINDOWS = {
    "soft tissue": (350.0, 40.0),
    "brain": (100.0, 50.0),
    "bone": (1000.0, 400.0),
    "lung": (1400.0, -500.0),
    "air": (1000.0, -426.0),
}
TRUE_COLOURS = (255.0, 127.5)  # shows 8-bit colours as they are


def names() -> dict[str, str]:
    """Names of the CT presets -> words for the user."""
    words = (_("Soft tissue"), _("Brain"), _("Bone"), _("Lung"), _("Air"))
    return dict(zip(CT_WINDOWS, words))


def display_of(node):
    """The display node of a volume, made where it is missing."""
    if node.GetDisplayNode() is None:
        node.CreateDefaultDisplayNodes()
    return node.GetDisplayNode()


def window_of(node) -> tuple[float, float]:
    """(window, level) of a volume."""
    display = display_of(node)
    return display.GetWindow(), display.GetLevel()


def set_window(nodes, window: float, level: float) -> None:
    """Give every volume this window and level, automatic window off."""
    for node in nodes:
        display = display_of(node)
        with slicer.util.NodeModify(display):
            display.SetAutoWindowLevel(0)
            display.SetWindowLevel(window, level)


def set_ct(nodes, name: str) -> None:
    """Give every CT volume the preset `name` of CT_WINDOWS. KeyError for another name."""
    set_window(nodes, *CT_WINDOWS[name])


def like(node, reference) -> None:
    """Show `node` with the window and level of `reference`; from then on neither changes by itself."""
    set_window((reference, node), *window_of(reference))
