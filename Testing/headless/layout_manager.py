"""`slicer.app.layoutManager()` of the stand-in: views for the view nodes, arranged as the layout node's XML says.

The XML is read, and the view nodes are made, by MRML's own `vtkMRMLLayoutLogic`; only the Qt side is here.
"""

from __future__ import annotations

import slicer_core as mrml
import vtk
from PySide6 import QtCore, QtWidgets

from .views import PlotView, SliceView, TableView, ThreeDView, as_widget


class _ViewWidget:
    """What a view widget of the application answers: its view, its node, its logic."""

    def __init__(self, view: QtWidgets.QWidget, node) -> None:
        self._view, self._node = view, node
        self.frame, self._title = as_widget(view)
        node.AddObserver(vtk.vtkCommand.ModifiedEvent, self._on_modified)
        self._on_modified(node, None)

    def _on_modified(self, node, event) -> None:
        self._title.setText(node.GetLayoutLabel() or node.GetLayoutName() or "")


class SliceWidget(_ViewWidget):
    def sliceView(self) -> SliceView:
        return self._view

    def sliceLogic(self):
        return self._view.logic

    def mrmlSliceNode(self):
        return self._node

    def mrmlSliceCompositeNode(self):
        return self._view.logic.GetSliceCompositeNode()


class ThreeDWidget(_ViewWidget):
    def threeDView(self) -> ThreeDView:
        return self._view

    def mrmlViewNode(self):
        return self._node


class PlotWidget(_ViewWidget):
    def plotView(self) -> PlotView:
        return self._view

    def mrmlPlotViewNode(self):
        return self._node


class TableWidget(_ViewWidget):
    def tableView(self) -> TableView:
        return self._view

    def mrmlTableViewNode(self):
        return self._node


KINDS = {"vtkMRMLSliceNode": (SliceWidget, SliceView), "vtkMRMLViewNode": (ThreeDWidget, ThreeDView),
         "vtkMRMLPlotViewNode": (PlotWidget, PlotView), "vtkMRMLTableViewNode": (TableWidget, TableView)}


class LayoutManager:
    """Views of a scene. Made once per application, after the scene and its application logic.

    A view is made for every view node of the scene and stays until its node goes, whether the layout shows it or not.
    """

    def __init__(self, scene, app_logic) -> None:
        self._scene, self._app_logic = scene, app_logic
        self._widgets: dict[str, _ViewWidget] = {}  # node ID -> widget, in the order of creation
        self._viewport = QtWidgets.QWidget()
        self._box = QtWidgets.QVBoxLayout(self._viewport)
        self._box.setContentsMargins(0, 0, 0, 0)
        self._shown: str | None = None
        self._logic = mrml.vtkMRMLLayoutLogic()
        self._logic.SetMRMLApplicationLogic(app_logic)
        self._logic.SetMRMLScene(scene)
        scene.AddObserver(mrml.vtkMRMLScene.NodeAddedEvent, self._on_node_added)
        scene.AddObserver(mrml.vtkMRMLScene.NodeRemovedEvent, self._on_node_removed)
        self._layout_node = self._logic.GetLayoutNode()
        if self._layout_node.GetViewArrangement() == mrml.vtkMRMLLayoutNode.SlicerLayoutInitialView:
            self._layout_node.SetViewArrangement(mrml.vtkMRMLLayoutNode.SlicerLayoutFourUpView)  # as the application
        self._layout_node.AddObserver(vtk.vtkCommand.ModifiedEvent, self._on_layout_modified)
        self._update()

    # -- layout -------------------------------------------------------------------------------------------------
    @property
    def layout(self) -> int:
        return self._layout_node.GetViewArrangement()

    def setLayout(self, layout: int) -> None:
        self._layout_node.SetViewArrangement(layout)

    def layoutLogic(self):
        return self._logic

    def viewport(self) -> QtWidgets.QWidget:
        """The widget that holds the views of the present layout."""
        return self._viewport

    # -- views --------------------------------------------------------------------------------------------------
    def sliceViewNames(self) -> tuple[str, ...]:
        return tuple(w.mrmlSliceNode().GetLayoutName() for w in self._of(SliceWidget))

    def sliceWidget(self, name: str) -> SliceWidget | None:
        return next((w for w in self._of(SliceWidget) if w.mrmlSliceNode().GetLayoutName() == name), None)

    def mrmlSliceLogics(self):
        return self._app_logic.GetSliceLogics()

    def threeDWidget(self, index: int) -> ThreeDWidget | None:
        return self._nth(ThreeDWidget, index)

    def plotWidget(self, index: int) -> PlotWidget | None:
        return self._nth(PlotWidget, index)

    def tableWidget(self, index: int) -> TableWidget | None:
        return self._nth(TableWidget, index)

    @property
    def threeDViewCount(self) -> int:
        return len(self._of(ThreeDWidget))

    @property
    def plotViewCount(self) -> int:
        return len(self._of(PlotWidget))

    @property
    def tableViewCount(self) -> int:
        return len(self._of(TableWidget))

    def resetSliceViews(self) -> None:
        for widget in self._of(SliceWidget):
            widget.sliceLogic().FitSliceToBackground()

    def resetThreeDViews(self) -> None:
        for widget in self._of(ThreeDWidget):
            widget.threeDView().resetFocalPoint()
            widget.threeDView().resetCamera()

    # -- inside -------------------------------------------------------------------------------------------------
    def _of(self, kind: type) -> list:
        return [w for w in self._widgets.values() if isinstance(w, kind)]

    def _nth(self, kind: type, index: int):
        found = self._of(kind)
        return found[index] if 0 <= index < len(found) else None

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _on_node_added(self, scene, event, node) -> None:
        if node.GetClassName() in KINDS:
            self._add(node)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _on_node_removed(self, scene, event, node) -> None:
        widget = self._widgets.pop(node.GetID(), None)
        if widget is not None:
            widget.frame.setParent(None)
            widget._view.close_view()

    def _on_layout_modified(self, caller, event) -> None:
        self._update()

    def _add(self, node) -> None:
        if node.GetID() in self._widgets:
            return
        widget_class, view_class = KINDS[node.GetClassName()]
        self._widgets[node.GetID()] = widget_class(view_class(node, self._app_logic, self._scene), node)

    def _update(self) -> None:
        """Make missing views and arrange the viewport when the arrangement has changed."""
        for name in KINDS:
            for index in range(self._scene.GetNumberOfNodesByClass(name)):
                self._add(self._scene.GetNthNodeByClass(index, name))
        description = self._layout_node.GetCurrentLayoutDescription()
        root = self._layout_node.GetLayoutRootElement()
        if root is None or description == self._shown:
            return
        self._shown = description
        for widget in self._widgets.values():
            widget.frame.setParent(None)  # the views outlive the arrangement
        while self._box.count():
            self._box.takeAt(0).widget().deleteLater()
        self._box.addWidget(self._build(root))

    def _build(self, element) -> QtWidgets.QWidget:
        """A widget for a <layout> or a <view> element."""
        if element.GetName() == "view":
            return self._frame_of(element)
        vertical = element.GetAttribute("type") == "vertical"
        if element.GetAttribute("type") == "tab":
            group = QtWidgets.QTabWidget()
        else:
            group = QtWidgets.QSplitter(QtCore.Qt.Orientation.Vertical if vertical else
                                        QtCore.Qt.Orientation.Horizontal)
        items = [element.GetNestedElement(i) for i in range(element.GetNumberOfNestedElements())]
        for item in items:
            for child in _children(item):
                widget = self._build(child)
                group.addTab(widget, "") if isinstance(group, QtWidgets.QTabWidget) else group.addWidget(widget)
                widget.show()
        if isinstance(group, QtWidgets.QSplitter):
            group.setSizes([int(item.GetAttribute("splitSize") or 500) for item in items])
        return group

    def _frame_of(self, element) -> QtWidgets.QWidget:
        node = self._logic.GetViewFromElement(element)
        self._add(node)
        return self._widgets[node.GetID()].frame


def _children(item) -> list:
    """The <layout> and <view> elements of an <item>."""
    return [item.GetNestedElement(i) for i in range(item.GetNumberOfNestedElements())]
