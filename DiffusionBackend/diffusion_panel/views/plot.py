"""Charts from tables."""

from __future__ import annotations

import numpy as np
import slicer
from slicer.i18n import tr as _

from . import table as tables

TABLE_ROLE = "DiffusionModels.PlottedTable"
# told apart by colour-blind people too, on white and on black (Okabe and Ito)
COLOURS = ((0.0, 0.45, 0.7), (0.84, 0.37, 0.0), (0.0, 0.62, 0.45), (0.8, 0.47, 0.65), (0.34, 0.71, 0.91))


def chart(node, title: str = ""):
    """A chart node of a table: first column of numbers across, the others up, as far as they share a unit.

    Returns the chart node; None when the table has fewer than two columns of numbers or fewer than two rows.
    """
    values = {name: tables.numbers(cells) for name, cells in tables.columns(node).items()}
    numeric = [name for name, cells in values.items() if cells is not None and len(cells) > 1]
    if len(numeric) < 2:
        return None
    across, up = numeric[0], [n for n in numeric[1:] if _unit(node, n) == _unit(node, numeric[1])]
    y_title = tables.with_unit(node, up[0]) if len(up) == 1 else _unit(node, up[0])
    return _chart(node, across, up, title or node.GetName(), tables.with_unit(node, across), y_title)


def per_slice(node, measure: str, unit: str = "", title: str = ""):
    """A chart of one measure against the slice, one line for each image of a table of metrics.

    node : table with the columns "image", "slice" and `measure`; rows whose slice isn't a number (sums) are left out.
    Returns the chart node; None when the table lacks a column or holds fewer than two slices.
    """
    cells = tables.columns(node)
    if not {"image", "slice", measure} <= set(cells):
        return None
    rows = list(zip(cells["image"], cells["slice"], cells[measure]))
    images = list(dict.fromkeys(image for image, _slice, _value in rows))
    slices = sorted({int(s) for _image, s, _value in rows if s.isdigit()})
    if len(slices) < 2:
        return None
    found = {(image, s): float(value) for image, s, value in rows if s.isdigit() and value}
    arrays = [np.array([found.get((image, str(s)), np.nan) for s in slices]) for image in images]
    wide = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", f"{node.GetName()} {measure}")
    slicer.util.updateTableFromArray(wide, [np.array(slices, float), *arrays], ["slice", *images])
    wide.AddNodeReferenceID(TABLE_ROLE, node.GetID())
    y_title = f"{measure} ({unit})" if unit else measure
    return _chart(wide, "slice", images, title or node.GetName(), _("slice"), y_title)


def show(chart_node) -> None:
    """Make a chart the one that plot views show."""
    logic = slicer.app.applicationLogic()
    logic.GetSelectionNode().SetActivePlotChartID(chart_node.GetID())
    logic.PropagatePlotChartSelection()


def _unit(node, column: str) -> str:
    return node.GetColumnUnitLabel(column) or ""


def _chart(node, across: str, up: list[str], title: str, x_title: str, y_title: str):
    chart_node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotChartNode", title)
    for n, column in enumerate(up):
        series = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", column)
        series.SetAndObserveTableNodeID(node.GetID())
        series.SetXColumnName(across)
        series.SetYColumnName(column)
        series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
        series.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleCircle)
        series.SetLineStyle(slicer.vtkMRMLPlotSeriesNode.LineStyleSolid)
        series.SetColor(*COLOURS[n % len(COLOURS)])
        chart_node.AddAndObservePlotSeriesNodeID(series.GetID())
    chart_node.SetTitle(title)
    chart_node.SetXAxisTitle(x_title)
    chart_node.SetYAxisTitle(y_title)
    chart_node.SetLegendVisibility(len(up) > 1)
    return chart_node
