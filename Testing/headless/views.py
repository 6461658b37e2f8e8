"""Views of the stand-in: real MRML displayable managers drawn off screen (EGL), shown as pictures in Qt widgets.

Every view has `forceRender()`, `scheduleRender()`, `picture()` (uint8 array, rows x columns x RGB, top row first) and
`png(path)`. They are drawn when somebody looks: a change only marks a view as out of date.
"""

from __future__ import annotations

import math
import os

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")

import numpy as np
import slicer_core as mrml
import vtk
from PySide6 import QtCore, QtGui, QtWidgets
from vtk.util.numpy_support import vtk_to_numpy

_COMMON = ("vtkMRMLOrientationMarkerDisplayableManager", "vtkMRMLRulerDisplayableManager",
           "vtkMRMLMarkupsDisplayableManager", "vtkMRMLColorLegendDisplayableManager")
SLICE_MANAGERS = (*_COMMON, "vtkMRMLVolumeGlyphSliceDisplayableManager", "vtkMRMLModelSliceDisplayableManager",
                  "vtkMRMLCrosshairDisplayableManager", "vtkMRMLScalarBarDisplayableManager",
                  "vtkMRMLSegmentationsDisplayableManager2D", "vtkMRMLTransformsDisplayableManager2D")
THREE_D_MANAGERS = (*_COMMON, "vtkMRMLCameraDisplayableManager", "vtkMRMLViewDisplayableManager",
                    "vtkMRMLModelDisplayableManager", "vtkMRMLThreeDReformatDisplayableManager",
                    "vtkMRMLCrosshairDisplayableManager3D", "vtkMRMLSegmentationsDisplayableManager3D",
                    "vtkMRMLVolumeRenderingDisplayableManager")


class RenderView(QtWidgets.QWidget):
    """A render window without a screen; the widget paints its last picture and renders when it is out of date."""

    def __init__(self) -> None:
        super().__init__()
        self.setMinimumSize(160, 120)
        self._picture_size = (400, 400)  # until the first `resizeEvent`
        self._stale = True
        self._window = vtk.vtkRenderWindow()
        self._window.SetOffScreenRendering(1)
        self._window.SetMultiSamples(0)
        self._window.SetSize(*self._picture_size)
        self._renderer = vtk.vtkRenderer()
        self._window.AddRenderer(self._renderer)
        self._interactor = vtk.vtkGenericRenderWindowInteractor()  # managers ask for one; it never blocks
        self._interactor.SetRenderWindow(self._window)
        self._image: QtGui.QImage | None = None

    def scheduleRender(self) -> None:
        """Mark the picture as out of date; it is drawn at the next paint."""
        self._stale = True
        self.update()

    def forceRender(self) -> None:
        """Draw now."""
        self._prepare()
        self._window.Render()
        rows = np.ascontiguousarray(self._read())
        height, width, _ = rows.shape
        image = QtGui.QImage(rows.data, width, height, 3 * width, QtGui.QImage.Format.Format_RGB888)
        self._image = image.copy()  # the array is gone after this call
        self._stale = False

    def picture(self) -> np.ndarray:
        """What the view shows now: uint8 [rows, columns, RGB], top row first."""
        self.forceRender()
        return self._read().copy()

    def png(self, path: str) -> None:
        """Write what the view shows now."""
        self.forceRender()
        if not self._image.save(str(path)):
            raise OSError(f"The picture of a view could not be written to '{path}'.")

    def resizeEvent(self, event: QtGui.QResizeEvent) -> None:
        size = event.size()
        self._picture_size = (max(size.width(), 1), max(size.height(), 1))
        self._window.SetSize(*self._picture_size)
        self._resized()
        self._stale = True

    def paintEvent(self, event: QtGui.QPaintEvent) -> None:
        if self._stale or self._image is None:
            self.forceRender()
        painter = QtGui.QPainter(self)
        painter.drawImage(0, 0, self._image)
        painter.end()

    def close_view(self) -> None:
        """Let go of the nodes and of the window; the view must not be used any more."""
        self._window.Finalize()

    def _prepare(self) -> None:
        """What has to be brought up to date before a picture."""

    def _resized(self) -> None:
        """The render window has a new size."""

    def _read(self) -> np.ndarray:
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(self._window)
        grab.ReadFrontBufferOff()
        grab.ShouldRerenderOff()
        grab.Update()
        image = grab.GetOutput()
        width, height, _ = image.GetDimensions()
        return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, 3)[::-1]


class _ManagedView(RenderView):
    """A view whose content comes from MRML displayable managers."""

    def __init__(self, factory, managers: tuple[str, ...], app_logic) -> None:
        super().__init__()
        factory.SetMRMLApplicationLogic(app_logic)
        for name in managers:
            if not factory.IsDisplayableManagerRegistered(name):
                factory.RegisterDisplayableManager(name)
        self._factory = factory
        self._group = mrml.vtkMRMLDisplayableManagerGroup()

    def _attach(self, node) -> None:
        self._node = node
        self._group.Initialize(self._factory, self._renderer)
        self._group.SetMRMLDisplayableNode(node)
        self._group.AddObserver(vtk.vtkCommand.UpdateEvent, self._on_request)

    def _on_request(self, caller, event) -> None:
        self.scheduleRender()

    def close_view(self) -> None:
        self._group.SetMRMLDisplayableNode(None)
        super().close_view()


class SliceView(_ManagedView):
    """A slice view: the logic's RGBA reslice as background, displayable managers above it, the view's label."""

    def __init__(self, node, app_logic, scene) -> None:
        super().__init__(mrml.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance(), SLICE_MANAGERS, app_logic)
        self._renderer.GetActiveCamera().ParallelProjectionOn()
        self.logic = mrml.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(app_logic)
        self.logic.SetMRMLScene(scene)
        self.logic.SetSliceNode(node)
        app_logic.GetSliceLogics().AddItem(self.logic)
        self._slice_logics = app_logic.GetSliceLogics()
        self._mapper = vtk.vtkImageMapper()
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        self._actor = vtk.vtkActor2D()
        self._actor.SetMapper(self._mapper)
        self._actor.GetProperty().SetDisplayLocationToBackground()
        self._renderer.AddViewProp(self._actor)
        self._label = vtk.vtkCornerAnnotation()
        self._label.SetMaximumFontSize(14)
        self._renderer.AddViewProp(self._label)
        self._attach(node)
        self.logic.ResizeSliceNode(*self._picture_size)
        self.logic.AddObserver(vtk.vtkCommand.ModifiedEvent, self._on_request)

    def close_view(self) -> None:
        self._slice_logics.RemoveItem(self.logic)
        self.logic.SetMRMLScene(None)
        super().close_view()

    def _resized(self) -> None:
        self.logic.ResizeSliceNode(*self._picture_size)

    def _prepare(self) -> None:
        connection = self.logic.GetImageDataConnection()
        self._mapper.SetInputConnection(connection)
        self._actor.SetVisibility(connection is not None)
        label = self._node.GetLayoutLabel() or self._node.GetLayoutName()
        volume = self.logic.GetBackgroundLayer().GetVolumeNode()
        self._label.SetText(0, volume.GetName() if volume else "")  # lower left, as in the application
        self._label.SetText(2, label)
        self._label.GetTextProperty().SetColor(self._node.GetLayoutColor())


class ThreeDView(_ManagedView):
    """A 3D view."""

    def __init__(self, node, app_logic, scene) -> None:
        super().__init__(mrml.vtkMRMLThreeDViewDisplayableManagerFactory.GetInstance(), THREE_D_MANAGERS, app_logic)
        if mrml.vtkMRMLViewLogic.GetCameraNode(scene, node.GetLayoutName()) is None:
            scene.AddNewNodeByClass("vtkMRMLCameraNode").SetLayoutName(node.GetLayoutName())
        self._attach(node)

    def resetFocalPoint(self) -> None:
        """Turn the camera to the centre of what is visible."""
        self._reset(True, True)

    def resetCamera(self, rotation: bool = True, translation: bool = True, distance: bool = True) -> None:
        """Anterior view of everything that is visible."""
        camera = self.cameraNode()
        if camera is not None:
            camera.Reset(rotation, translation, distance, self._renderer)
        self._reset(translation, distance)

    def cameraNode(self):
        """The camera of this view."""
        return mrml.vtkMRMLCameraDisplayableManager.SafeDownCast(self._manager("Camera")).GetCameraNode()

    def _manager(self, part: str):
        return self._group.GetDisplayableManagerByClassName(f"vtkMRML{part}DisplayableManager")

    def _reset(self, translation: bool, distance: bool) -> None:
        boxes = (self._node.GetBoxVisible(), self._node.GetAxisLabelsVisible())
        self._node.SetBoxVisible(0)
        self._node.SetAxisLabelsVisible(0)
        bounds = self._renderer.ComputeVisiblePropBounds()
        if translation and distance and math.isfinite(sum(bounds)) and bounds[0] <= bounds[1]:
            self._renderer.ResetCamera(bounds)
        self._node.SetBoxVisible(boxes[0])
        self._node.SetAxisLabelsVisible(boxes[1])
        self._node.InvokeEvent(mrml.vtkMRMLViewNode.ResetFocalPointRequestedEvent)
        self._renderer.ResetCameraClippingRange()
        self.scheduleRender()


_MARKERS = {"none": vtk.vtkPlotPoints.NONE, "cross": vtk.vtkPlotPoints.CROSS, "plus": vtk.vtkPlotPoints.PLUS,
            "square": vtk.vtkPlotPoints.SQUARE, "circle": vtk.vtkPlotPoints.CIRCLE,
            "diamond": vtk.vtkPlotPoints.DIAMOND}


class PlotView(RenderView):
    """A chart: lines and points of the series of the view node's chart node."""

    def __init__(self, node, app_logic, scene) -> None:
        super().__init__()
        self._node, self._scene = node, scene
        self._context = vtk.vtkContextView()
        self._context.SetRenderWindow(self._window)
        self._renderer = self._context.GetRenderer()
        self._renderer.SetBackground(1, 1, 1)
        self.chart = vtk.vtkChartXY()
        self._context.GetScene().AddItem(self.chart)

    def paintEvent(self, event: QtGui.QPaintEvent) -> None:
        self._stale = True  # another chart may have come under the ID of one that went with its scene
        super().paintEvent(event)

    def _prepare(self) -> None:
        self.chart.ClearPlots()
        node = self._scene.GetNodeByID(self._node.GetPlotChartNodeID() or "")
        if node is None:
            self.chart.SetTitle("")
            return
        self.chart.SetTitle((node.GetTitle() if node.GetTitleVisibility() else "") or "")
        self.chart.SetShowLegend(node.GetLegendVisibility())
        self.chart.GetAxis(vtk.vtkAxis.BOTTOM).SetTitle(node.GetXAxisTitle() or "")
        self.chart.GetAxis(vtk.vtkAxis.LEFT).SetTitle(node.GetYAxisTitle() or "")
        for index in range(node.GetNumberOfPlotSeriesNodes()):
            self._add(node.GetNthPlotSeriesNode(index))
        self.chart.RecalculateBounds()

    def _add(self, series) -> None:
        table = series.GetTableNode().GetTable()
        plot = self.chart.AddPlot(vtk.vtkChart.LINE)
        if series.GetXColumnName():
            plot.SetInputData(table, series.GetXColumnName(), series.GetYColumnName())
        else:
            plot.SetUseIndexForXSeries(True)
            plot.SetInputData(table, series.GetYColumnName(), series.GetYColumnName())
        plot.SetLabel(series.GetName())
        plot.SetColorF(*series.GetColor())
        plot.SetWidth(series.GetLineWidth())
        marker = series.GetMarkerStyleAsString(series.GetMarkerStyle())
        plot.SetMarkerStyle(_MARKERS.get(marker, vtk.vtkPlotPoints.NONE))
        plot.SetMarkerSize(series.GetMarkerSize())


class TableView(QtWidgets.QTableWidget):
    """A table node as a table: column names as header, units in brackets."""

    def __init__(self, node, app_logic, scene) -> None:
        super().__init__()
        self._node, self._scene = node, scene
        self._tag = node.AddObserver(vtk.vtkCommand.ModifiedEvent, self._on_modified)
        self._fill()

    def close_view(self) -> None:
        self._node.RemoveObserver(self._tag)

    def png(self, path: str) -> None:
        """Write what the view shows now."""
        self._fill()
        if not self.grab().save(str(path)):
            raise OSError(f"The picture of a table could not be written to '{path}'.")

    def _on_modified(self, caller, event) -> None:
        self._fill()

    def _fill(self) -> None:
        self.clear()
        node = self._scene.GetNodeByID(self._node.GetTableNodeID() or "")
        columns = node.GetNumberOfColumns() if node else 0
        rows = node.GetNumberOfRows() if node else 0
        self.setRowCount(rows)
        self.setColumnCount(columns)
        names = [node.GetColumnName(c) for c in range(columns)]
        units = [node.GetColumnUnitLabel(name) for name in names]
        self.setHorizontalHeaderLabels([f"{n} ({u})" if u else n for n, u in zip(names, units)])
        for row in range(rows):
            for column in range(columns):
                self.setItem(row, column, QtWidgets.QTableWidgetItem(node.GetCellText(row, column)))
        self.resizeColumnsToContents()


def as_widget(view: QtWidgets.QWidget) -> tuple[QtWidgets.QWidget, QtWidgets.QLabel]:
    """A frame around a view and the label above it, as the view controller bar of the application has one."""
    frame, title = QtWidgets.QWidget(), QtWidgets.QLabel()
    box = QtWidgets.QVBoxLayout(frame)
    box.setContentsMargins(1, 1, 1, 1)
    box.setSpacing(0)
    title.setAlignment(QtCore.Qt.AlignmentFlag.AlignCenter)
    box.addWidget(title)
    box.addWidget(view, 1)
    return frame, title
