"""Tables in the table view."""

from __future__ import annotations

import slicer


def show(node) -> None:
    """Make a table the one that table views show."""
    logic = slicer.app.applicationLogic()
    logic.GetSelectionNode().SetActiveTableID(node.GetID())
    logic.PropagateTableSelection()


def columns(node) -> dict[str, list[str]]:
    """Column name -> cells as text."""
    rows = range(node.GetNumberOfRows())
    return {node.GetColumnName(c): [node.GetCellText(r, c) for r in rows] for c in range(node.GetNumberOfColumns())}


def numbers(cells: list[str]) -> list[float] | None:
    """The cells as numbers; None when one isn't one."""
    try:
        return [float(cell) for cell in cells]
    except ValueError:
        return None


def with_unit(node, column: str) -> str:
    """"rmse" -> "rmse (HU)" where the column has a unit."""
    unit = node.GetColumnUnitLabel(column)
    return f"{column} ({unit})" if unit else column
