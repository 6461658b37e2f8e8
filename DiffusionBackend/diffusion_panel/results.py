"""Results in the scene: a list of runs with what can be done with each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import qt
import slicer

from . import declarations, views
from .inputs.base import narrow
from .provenance import METHOD, OUTPUT, PROVENANCE, ROLE

METRICS = "metrics"


@dataclass
class Run:
    """The nodes of one run: those with the same provenance."""

    method: str
    nodes: dict[str, Any] = field(default_factory=dict)  # output name -> node

    def inputs(self) -> dict[str, Any]:
        """The input nodes that are still in the scene, by name."""
        node = next(iter(self.nodes.values()))
        names = [i["name"] for i in declarations.method(self.method)["inputs"]]
        found = {name: node.GetNodeReference(ROLE + name) for name in names}
        return {name: given for name, given in found.items() if given is not None}

    def main(self) -> Any:
        """The node that stands for the run: the first declared output that there is."""
        order = [o["name"] for o in declarations.method(self.method)["outputs"]]
        return next((self.nodes[name] for name in order if name in self.nodes), next(iter(self.nodes.values())))


def runs(methods: set[str]) -> list[Run]:
    """The runs of these methods whose nodes are in the scene, the newest first."""
    found: dict[str, Run] = {}
    scene = slicer.mrmlScene
    for node in (scene.GetNthNode(n) for n in range(scene.GetNumberOfNodes())):
        text, method = node.GetAttribute(PROVENANCE), node.GetAttribute(METHOD)
        if text and method in methods:
            found.setdefault(text, Run(method)).nodes[node.GetAttribute(OUTPUT) or node.GetID()] = node
    return list(found.values())[::-1]


class ResultView:
    """The section "Result". rerun : called with a result node whose settings are wanted again."""

    def __init__(self, ui: Any, methods: list[dict[str, Any]], rerun: Callable[[Any], None]) -> None:
        self.ui, self._methods, self._rerun = ui, {m["id"] for m in methods}, rerun
        self.runs: list[Run] = []
        narrow(ui.provenanceSelector)
        for node_type in ui.provenanceSelector.nodeTypes:
            ui.provenanceSelector.addAttribute(node_type, PROVENANCE)
        ui.resultList.connect("currentRowChanged(int)", self._on_row)
        ui.provenanceSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._on_node)
        ui.rerunButton.connect("clicked()", self.rerun)
        ui.showButton.connect("clicked()", self.show)
        ui.compareButton.connect("clicked()", self.compare)
        ui.threeDButton.connect("clicked()", self.show_3d)
        ui.layoutButton.connect("clicked()", self.restore_layout)
        self.refresh()

    def refresh(self) -> None:
        """Show the runs that the scene holds; the newest is selected."""
        self.runs = runs(self._methods)
        self.ui.resultList.clear()
        for run in self.runs:
            self.ui.resultList.addItem(run.main().GetName())
        self.ui.resultHint.setVisible(not self.runs)
        self.ui.resultList.setVisible(bool(self.runs))
        if self.runs:
            self.ui.resultList.setCurrentRow(0)
        self._show_run()

    def current(self) -> Run | None:
        """The selected run."""
        row = self.ui.resultList.currentRow
        return self.runs[row] if 0 <= row < len(self.runs) else None

    def show(self) -> None:
        """Show the main output of the selected run in the user's own layout."""
        run = self.current()
        if run and run.main().IsA("vtkMRMLVolumeNode"):
            views.restore()
            slicer.util.setSliceViewerLayers(background=run.main())
        elif run:
            self.compare()

    def compare(self) -> None:
        """Input, result and difference side by side, with tables and plots beneath."""
        run = self.current()
        if run:
            views.present(declarations.method(run.method), run.inputs(), run.nodes, force=True)
            self._show_run()

    def show_3d(self) -> None:
        """Volume rendering, or the surface of a segmentation."""
        run = self.current()
        if run:
            outputs = declarations.method(run.method)["outputs"]
            unit = next((o["unit"] for o in outputs if run.nodes.get(o["name"]) is run.main()), "")
            views.show_3d(run.main(), unit=unit, force=True)

    def restore_layout(self) -> None:
        """The layout that the user had before Compare."""
        views.restore()
        self._show_run()

    def rerun(self) -> None:
        """Hand the chosen result node on."""
        node = self.ui.provenanceSelector.currentNode()
        if node is not None:
            self._rerun(node)

    def _show_run(self) -> None:
        run = self.current()
        three_d = run is not None and (run.main().IsA("vtkMRMLVolumeNode") or run.main().IsA("vtkMRMLSegmentationNode"))
        for button in (self.ui.showButton, self.ui.compareButton):
            button.enabled = run is not None
        self.ui.threeDButton.enabled = three_d
        self.ui.layoutButton.setVisible(views.former() is not None)
        table = run.nodes.get(METRICS) if run else None
        self.ui.metricsTable.setVisible(table is not None)
        if table is not None:
            fill_table(self.ui.metricsTable, table)

    def _on_row(self, row: int) -> None:
        self._show_run()

    def _on_node(self, node: Any) -> None:
        self.ui.rerunButton.enabled = node is not None


def fill_table(widget: Any, node: Any) -> None:
    """Show a table node in a plain table widget."""
    columns = [node.GetColumnName(c) for c in range(node.GetNumberOfColumns())]
    widget.setColumnCount(len(columns))
    widget.setRowCount(node.GetNumberOfRows())
    widget.setHorizontalHeaderLabels(columns)
    for row in range(node.GetNumberOfRows()):
        for column in range(len(columns)):
            item = qt.QTableWidgetItem(_short(node.GetCellText(row, column)))
            item.setToolTip(node.GetCellText(row, column))
            widget.setItem(row, column, item)
    widget.verticalHeader().hide()
    widget.resizeColumnsToContents()
    widget.resizeRowsToContents()


def _short(text: str) -> str:
    """A number with four digits; other texts as they are."""
    try:
        return f"{float(text):.4g}"
    except ValueError:
        return text
