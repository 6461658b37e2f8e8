"""The stand-in's views: real reslices and renderings, placed and turned as the application shows them."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
import vtk
from PySide6 import QtGui, QtWidgets

from headless.mainwindow import MainWindow

RIGHT, LEFT, ANTERIOR, POSTERIOR = (-1, 0), (1, 0), (0, -1), (0, 1)  # towards (column, row) of the picture
FOUR_UP, RED_ONLY, FOUR_UP_TABLE, FOUR_UP_PLOT = 3, 6, 34, 37


@pytest.fixture
def manager():
    manager = slicer.app.layoutManager()
    manager.setLayout(FOUR_UP)
    return manager


def oblique_grid(flips) -> np.ndarray:
    """IJK to RAS (mm), turned by 15 degrees about the long axis, with flipped voxel axes."""
    angle = np.deg2rad(15)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    matrix = np.eye(4)
    matrix[:3, :3] = turn @ np.diag(np.array(flips) * (1.5, 1.5, 3.0))
    matrix[:3, 3] = -matrix[:3, :3] @ (31.5, 31.5, 7.5)  # the centre of the grid is the origin of patient space
    return matrix


def marked_volume(matrix, towards):
    """A dim cube of 64 x 64 x 16 voxels with a bright ball 25 mm from the centre in the patient direction (R, A)."""
    voxels = np.indices((16, 64, 64))[::-1].reshape(3, -1)
    points = (matrix[:3, :3] @ voxels + matrix[:3, 3:]).reshape(3, 16, 64, 64)
    distance = np.hypot(points[0] - 25 * towards[0], points[1] - 25 * towards[1])
    return slicer.util.addVolumeFromArray(np.where(distance < 6, 100, 20).astype(np.int16), ijkToRAS=matrix)


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, -1, 1), (-1, 1, -1)])
@pytest.mark.parametrize(
    "patient, screen", [((1, 0), RIGHT), ((-1, 0), LEFT), ((0, 1), ANTERIOR), ((0, -1), POSTERIOR)]
)
def test_patient_right_is_screen_left_and_anterior_is_up(manager, patient, screen, flips):
    volume = marked_volume(oblique_grid(flips), patient)
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    picture = manager.sliceWidget("Red").sliceView().picture().astype(int)
    rows, columns = np.nonzero(picture.min(2) > 200)
    middle = (np.array(picture.shape[:2]) - 1) / 2
    offset = np.array((columns.mean() - middle[1], rows.mean() - middle[0]))
    along = offset @ screen
    assert along > 20 and np.linalg.norm(offset - along * np.array(screen)) < 3


def test_every_slice_view_shows_the_volume_and_its_name(manager, tmp_path):
    volume = marked_volume(oblique_grid((-1, -1, 1)), (1, 0))
    volume.SetName("iiii")
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    pictures = {name: manager.sliceWidget(name).sliceView().picture() for name in manager.sliceViewNames()}
    assert {"Red", "Green", "Yellow"} <= set(pictures)
    assert all(len(np.unique(p)) > 5 for p in pictures.values())
    volume.SetName("MMMM")
    manager.sliceWidget("Red").sliceView().png(tmp_path / "red.png")
    image = QtGui.QImage(str(tmp_path / "red.png"))
    assert image.width() == pictures["Red"].shape[1]
    wide, thin = (np.count_nonzero(p[-40:, :200].max(2)) for p in
                  (manager.sliceWidget("Red").sliceView().picture(), pictures["Red"]))
    assert wide > 1.5 * thin  # boxes instead of glyphs would be equal


def test_widgets_draw_glyphs_not_boxes():
    def ink(text: str) -> int:
        label = QtWidgets.QLabel(text)
        image = label.grab().toImage()
        places = [(x, y) for x in range(image.width()) for y in range(image.height())]
        return sum(image.pixelColor(x, y).lightness() < 128 for x, y in places)

    assert ink("MMMM") > 1.5 * ink("....") > 0


def test_a_view_is_drawn_anew_after_a_change(manager):
    volume = marked_volume(oblique_grid((1, 1, 1)), (1, 0))
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    view = manager.sliceWidget("Red").sliceView()
    shown = view.grab().toImage()  # gives the view its size
    before = view.picture()
    slicer.util.arrayFromVolume(volume)[:] = 20
    slicer.util.arrayFromVolumeModified(volume)
    assert (view.picture() != before).any()
    assert view.grab().toImage() != shown


def test_layout_xml_makes_its_views_and_applies_their_properties(manager):
    node = manager.layoutLogic().GetLayoutNode()
    node.AddLayoutDescription(
        901,
        '<layout type="horizontal"><item><view class="vtkMRMLSliceNode" singletontag="Own">'
        '<property name="orientation" action="default">Coronal</property>'
        '<property name="viewlabel" action="default">Own view</property>'
        '<property name="viewgroup" action="default">7</property></view></item>'
        '<item><view class="vtkMRMLTableViewNode" singletontag="TableView1"/></item></layout>',
    )
    manager.setLayout(901)
    assert manager.layout == 901
    slice_node = manager.sliceWidget("Own").mrmlSliceNode()
    assert (slice_node.GetOrientation(), slice_node.GetLayoutLabel(), slice_node.GetViewGroup()) == (
        "Coronal", "Own view", 7)
    assert manager.tableViewCount == 1
    shown = manager.viewport().findChildren(QtWidgets.QWidget)
    assert manager.sliceWidget("Own").sliceView() in shown
    assert manager.sliceWidget("Red").sliceView() not in shown
    manager.setLayout(RED_ONLY)
    shown = manager.viewport().findChildren(QtWidgets.QWidget)
    assert manager.sliceWidget("Red").sliceView() in shown
    assert manager.sliceWidget("Own").sliceView() not in shown


def test_views_survive_a_closed_scene(manager):
    names = manager.sliceViewNames()
    slicer.util.setSliceViewerLayers(background=marked_volume(oblique_grid((1, 1, 1)), (1, 0)))
    slicer.mrmlScene.Clear(0)
    assert manager.sliceViewNames() == names
    assert len(np.unique(manager.sliceWidget("Red").sliceView().picture()[40:-40])) == 1


def test_hot_linked_views_of_one_group_follow_each_other(manager):
    logics = [manager.sliceWidget(n).sliceLogic() for n in ("Red", "Green")]
    for logic in logics:
        logic.GetSliceNode().SetOrientation("Axial")
        logic.GetSliceCompositeNode().SetLinkedControl(True)
        logic.GetSliceCompositeNode().SetHotLinkedControl(True)
    logics[0].StartSliceOffsetInteraction()
    logics[0].SetSliceOffset(12.5)
    logics[0].EndSliceOffsetInteraction()
    assert logics[1].GetSliceOffset() == pytest.approx(12.5)
    for logic, name in zip(logics, ("Axial", "Coronal")):
        logic.GetSliceNode().SetOrientation(name)
        logic.GetSliceCompositeNode().SetLinkedControl(False)


def test_3d_view_shows_a_model_from_the_front(manager):
    view = manager.threeDWidget(0).threeDView()
    manager.threeDWidget(0).mrmlViewNode().SetBoxVisible(False)
    manager.threeDWidget(0).mrmlViewNode().SetAxisLabelsVisible(False)
    empty = view.picture().astype(int)
    cube = vtk.vtkCubeSource()
    cube.SetBounds(-10, 10, -30, 30, -50, 50)
    cube.Update()
    model = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode")
    model.SetAndObservePolyData(cube.GetOutput())
    model.CreateDefaultDisplayNodes()
    slicer.util.resetThreeDViews()
    slicer.util.forceRenderAllViews()
    seen = np.abs(view.picture().astype(int) - empty).sum(2) > 60
    manager.threeDWidget(0).mrmlViewNode().SetBoxVisible(True)
    manager.threeDWidget(0).mrmlViewNode().SetAxisLabelsVisible(True)
    wide, high = np.count_nonzero(seen.any(0)), np.count_nonzero(seen.any(1))
    assert high > 2 * wide > 0  # from the front: 20 mm wide, 100 mm high


def test_table_and_chart_views_follow_the_selection(manager):
    table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode")
    slicer.util.updateTableFromArray(table, [np.arange(4.0), np.arange(4.0) ** 2], ["x", "y"])
    table.SetColumnUnitLabel("y", "HU")
    series = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", "y")
    series.SetAndObserveTableNodeID(table.GetID())
    series.SetXColumnName("x")
    series.SetYColumnName("y")
    chart = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotChartNode")
    chart.AddAndObservePlotSeriesNodeID(series.GetID())
    manager.setLayout(FOUR_UP_TABLE)
    manager.setLayout(FOUR_UP_PLOT)
    empty = manager.plotWidget(0).plotView().picture()
    logic = slicer.app.applicationLogic()
    logic.GetSelectionNode().SetActiveTableID(table.GetID())
    logic.PropagateTableSelection()
    logic.GetSelectionNode().SetActivePlotChartID(chart.GetID())
    logic.PropagatePlotChartSelection()
    view = manager.tableWidget(0).tableView()
    assert view.horizontalHeaderItem(1).text() == "y (HU)"
    assert float(view.item(3, 1).text()) == 9
    assert (manager.plotWidget(0).plotView().picture() != empty).mean() > 0.01


def test_window_holds_panel_and_views(manager, tmp_path):
    slicer.util.setSliceViewerLayers(background=marked_volume(oblique_grid((1, 1, 1)), (1, 0)), fit=True)
    panel = QtWidgets.QLabel("Panel")
    window = MainWindow(manager, panel, panel_width=300)
    window.photograph(tmp_path / "window.png", 900, 600)
    label = window.statusBar().findChild(QtWidgets.QLabel)
    assert "Not the Slicer application" in label.text and label.visible
    window.take_apart()
    image = QtGui.QImage(str(tmp_path / "window.png"))
    assert (image.width(), image.height()) == (900, 600)
    colours = {image.pixelColor(x, y).rgb() for x in range(320, 900, 3) for y in range(0, 600, 3)}
    assert len(colours) > 20


def test_a_chart_of_a_new_scene_replaces_the_one_before():
    """Nodes of a new scene get the IDs of the old ones: the view must not keep its picture."""
    pictures = []
    for values in ((1.0, 2.0, 3.0), (3.0, 1.0, 3.0)):
        slicer.mrmlScene.Clear(0)
        slicer.util.plot(np.array([[0, values[0]], [1, values[1]], [2, values[2]]]), 0, show=True)
        view = slicer.app.layoutManager().plotWidget(0).plotView()
        view.resize(300, 200)
        pictures.append(view.grab().toImage())
    assert pictures[0] != pictures[1]
