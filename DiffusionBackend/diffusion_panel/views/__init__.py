"""What a run gave, shown: one way for each *display* that a method declares for its outputs.

    views.present(method, inputs, nodes)   # compare | overlay | plot | table | text | none
    views.restore()                        # back to the user's layout
    views.show_3d(node, unit="HU")
    pixmap = views.preview(array, like=volume)

Without a main window, and in testing mode unless `force` is given, only display nodes are set; no view changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import slicer
from slicer.i18n import tr as _

from . import colors, compare, layouts, overlay, plot, table, windows
from .layouts import former, register, restore
from .preview import preview
from .three_d import show as show_3d

__all__ = ["former", "present", "preview", "register", "restore", "show_3d"]

VOLUME = "vtkMRMLVolumeNode"
SEGMENTATION = "vtkMRMLSegmentationNode"
TABLE = "vtkMRMLTableNode"
MEASURE = "rmse"  # the measure of a table of metrics that is plotted against the slice


def present(method: Mapping[str, Any], inputs: Mapping[str, Any], nodes: Mapping[str, Any], *,
            force: bool = False) -> None:
    """Show the results of a run.

    method : the declaration. inputs : name -> node, text or path of the job. nodes : output name -> result node; names
    that the method doesn't declare ("metrics") are shown by their class. Missing or removed nodes are passed over.
    force : change the layout in testing mode as well.
    """
    shown = {name: _visible(node) for name, node in nodes.items() if _alive(node)}
    declared = {o["name"]: o for o in method["outputs"] if o["name"] in shown}
    main = next((o for o in declared.values() if o["display"] == "compare" and _is(shown[o["name"]], VOLUME)), None)
    before = _source(method, inputs, main)
    maps = _dress(declared, shown, before, main)
    if not layouts.may_switch(force):
        return
    chart, shown_table = _chart(declared, shown, main), _table(declared, shown)
    below = (*(["plot"] if chart is not None else []), *(["table"] if shown_table is not None else []))
    change = next((maps[name] for name in _by_interest(maps)), None)
    if main is not None:
        labelled = [(_("Input"), before), (_("Result"), shown[main["name"]]), (_change_label(maps, change), change)]
        compare.show([(label, node) for label, node in labelled if node is not None], below)
    elif below:
        compare.show([(_("Input"), before)] if before is not None else [], below, over=change)
    elif maps:
        overlay.show(before, change)
    _fill_views(declared, maps, chart, shown_table)


def _fill_views(declared, maps, chart, shown_table) -> None:
    """What can be shown only once the views are there: legends, chart, table."""
    for name, node in maps.items():
        colors.legend(node, declared[name])
    if chart is not None:
        plot.show(chart)
    if shown_table is not None:
        table.show(shown_table)


def _dress(declared, shown, before, main) -> dict[str, Any]:
    """Set the display nodes; returns the maps (output name -> volume)."""
    maps = {}
    for name, output in declared.items():
        node = shown[name]
        if _is(node, SEGMENTATION):
            overlay.segmentation(node, filled=main is None)
        elif not _is(node, VOLUME) or node.GetImageData() is None:
            continue
        elif output["display"] == "compare":
            _window(node, output, before)
        elif output["display"] == "overlay":
            colors.dress(node, output)
            maps[name] = node
    return maps


def _window(node, output, before) -> None:
    """The window of the input; an automatic one isn't the user's choice, and metal makes it useless for CT."""
    both = [n for n in (before, node) if n is not None]
    automatic = before is None or windows.display_of(before).GetAutoWindowLevel()
    if output["kind"] == "vector volume":
        windows.set_window(both, *windows.TRUE_COLOURS)
    elif output["unit"] == "HU" and automatic:
        windows.set_ct(both, "soft tissue")
    elif before is not None:
        windows.like(node, before)


def _source(method, inputs, main):
    """The input volume to which the results belong: of the kind and unit of the compared output, else the first."""
    found = [(i, _visible(inputs[i["name"]])) for i in method["inputs"] if _alive(inputs.get(i["name"]))]
    volumes = [(i, node) for i, node in found if _is(node, VOLUME) and i["kind"] != "projections"]
    if main is not None:
        volumes = [(i, node) for i, node in volumes if (i["kind"], i["unit"]) == (main["kind"], main["unit"])]
    return volumes[0][1] if volumes else None


def _chart(declared, shown, main):
    """A new chart of a table that is declared as a plot, else of the metrics; None where there is neither."""
    for name, node in shown.items():
        if _is(node, TABLE) and declared.get(name, {}).get("display") == "plot":
            return plot.chart(node)
    for name, node in shown.items():
        if _is(node, TABLE) and name not in declared:
            return plot.per_slice(node, MEASURE, main["unit"] if main else "")
    return None


def _table(declared, shown):
    """The table to show: metrics (which no method declares) before a method's own report."""
    found = [name for name, node in shown.items() if _is(node, TABLE)]
    found.sort(key=lambda name: name in declared)
    return shown[found[0]] if found else None


def _by_interest(maps) -> list[str]:
    """The names of the maps: the difference first, then the standard deviation, then the others as declared."""
    order = {"difference": 0, "std": 1}
    return sorted(maps, key=lambda name: order.get(name, 2))


def _change_label(maps, node) -> str:
    name = next((name for name, other in maps.items() if other is node), "")
    return {"difference": _("Difference"), "std": _("Standard deviation")}.get(name, name)


def _alive(node) -> bool:
    """Whether this is a node of the scene (a text, a path and a removed node are not)."""
    return isinstance(node, slicer.vtkMRMLNode) and node.GetScene() is not None


def _visible(node):
    """The node itself; for a sequence the proxy node that its browser shows."""
    if not node.IsA("vtkMRMLSequenceNode"):
        return node
    browser = slicer.modules.sequences.logic().GetFirstBrowserNodeForSequenceNode(node)
    return browser.GetProxyNode(node) if browser is not None else node


def _is(node, node_class: str) -> bool:
    return node is not None and node.IsA(node_class)
