"""Views of results: same window, same place, linked; maps; tables and charts; 3D; the picture while a run goes on."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from diffusion_panel import views
from diffusion_panel.views import colors, compare, layouts, plot, text, windows

METHOD = {
    "inputs": [{"name": "ct", "kind": "volume", "unit": "HU"}, {"name": "prompt", "kind": "text", "unit": ""}],
    "outputs": [
        {"name": "corrected", "kind": "volume", "unit": "HU", "display": "compare"},
        {"name": "difference", "kind": "volume", "unit": "HU", "display": "overlay"},
        {"name": "shadow", "kind": "volume", "unit": "", "display": "overlay"},
        {"name": "metal", "kind": "segmentation", "unit": "", "display": "overlay"},
        {"name": "report", "kind": "table", "unit": "", "display": "table"},
        {"name": "std", "kind": "volume", "unit": "HU", "display": "overlay"},
    ],
}
DOSE = {
    "inputs": [{"name": "ct", "kind": "volume", "unit": "HU"}],
    "outputs": [
        {"name": "dose", "kind": "volume", "unit": "Gy", "display": "overlay"},
        {"name": "dvh", "kind": "table", "unit": "", "display": "plot"},
    ],
}
FOUR_UP = 3
SHAPE = (12, 40, 48)  # slices, rows, columns
BRIGHT, DARK, CHANGED = (5, 10, 12), (5, 28, 30), 5  # voxels (k, j, i) that rose and fell; the slice they lie in


@pytest.fixture(autouse=True)
def user_layout():
    """Every test begins with the user's four views and no memory of an earlier layout."""
    node = slicer.app.layoutManager().layoutLogic().GetLayoutNode()
    node.RemoveAttribute(layouts.LAYOUTS)
    node.SetViewArrangement(FOUR_UP)
    slicer.util.setSliceViewerLayers(background=None, foreground=None, label=None)


def oblique() -> np.ndarray:
    """IJK to RAS (mm): an LPS grid, anisotropic, turned by 20 and 10 degrees."""
    a, b = np.deg2rad((20, 10))
    about_s = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_r = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    matrix = np.eye(4)
    matrix[:3, :3] = about_s @ about_r @ np.diag([-1.5, -1.2, 3.0])
    matrix[:3, 3] = (30, 25, -40)
    return matrix


def volume(array, name: str, matrix=None):
    matrix = oblique() if matrix is None else matrix
    return slicer.util.addVolumeFromArray(np.asarray(array, np.float32), ijkToRAS=matrix, name=name)


def case() -> tuple[dict, dict]:
    """Inputs and result nodes of METHOD: two blocks change, one up, one down, in one slice."""
    before = np.full(SHAPE, 40.0, np.float32)
    after = before.copy()
    for (k, j, i), change in ((BRIGHT, 200), (DARK, -200)):
        after[k, j - 2 : j + 3, i - 2 : i + 3] += change
    ct = volume(before, "ct")
    windows.set_window([ct], 800, 100)
    nodes = {
        "corrected": volume(after, "corrected"),
        "difference": volume(after - before, "difference"),
        "shadow": volume(np.linspace(0, 0.8, before.size).reshape(SHAPE), "shadow"),
        "std": volume(np.abs(after - before) / 5, "std"),
    }
    return {"ct": ct, "prompt": "a text"}, nodes


def widget(name: str):
    return slicer.app.layoutManager().sliceWidget(name)


def composite(name: str):
    return widget(name).mrmlSliceCompositeNode()


def background(name: str):
    return slicer.mrmlScene.GetNodeByID(composite(name).GetBackgroundVolumeID() or "")


def ras(ijk, node) -> np.ndarray:
    """Patient position (mm) of a voxel given as (k, j, i)."""
    matrix = slicer.util.arrayFromVTKMatrix(_ijk_to_ras(node))
    return (matrix @ (ijk[2], ijk[1], ijk[0], 1))[:3]


def _ijk_to_ras(node):
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return matrix


def rgb_at(name: str, point) -> tuple[int, int, int]:
    """Colour of the raw reslice (no OpenGL) at a patient position; the position must lie in the slice shown."""
    to_xy = np.linalg.inv(slicer.util.arrayFromVTKMatrix(widget(name).mrmlSliceNode().GetXYToRAS()))
    x, y, z, _one = to_xy @ (*point, 1)
    assert abs(z) < 1e-3, f"{point} is not in the slice that {name} shows"
    connection = widget(name).sliceLogic().GetImageDataConnection()
    connection.GetProducer().Update()
    image = connection.GetProducer().GetOutputDataObject(connection.GetIndex())
    columns, rows, _ = image.GetDimensions()
    pixels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(rows, columns, -1)
    return tuple(int(c) for c in pixels[round(y), round(x), :3])


def shown_range(node) -> tuple[float, float]:
    display = node.GetDisplayNode()
    return display.GetLevel() - display.GetWindow() / 2, display.GetLevel() + display.GetWindow() / 2


# -- comparing ------------------------------------------------------------------------------------------------------
def test_input_result_and_difference_stand_side_by_side_with_their_labels():
    inputs, nodes = case()
    views.present(METHOD, inputs, nodes, force=True)
    assert slicer.app.layoutManager().layout == layouts.LAYOUT
    assert [background(n) for n in layouts.VIEWS] == [inputs["ct"], nodes["corrected"], nodes["difference"]]
    labels = [widget(n).mrmlSliceNode().GetLayoutLabel() for n in layouts.VIEWS]
    assert labels == ["Input", "Result", "Difference"]


def test_standard_deviation_takes_the_third_place_where_no_difference_was_made():
    inputs, nodes = case()
    del nodes["difference"]
    views.present(METHOD, inputs, nodes, force=True)
    assert background(layouts.VIEWS[2]) is nodes["std"]


def test_two_views_when_there_is_no_map():
    inputs, nodes = case()
    views.present(METHOD, inputs, {"corrected": nodes["corrected"]}, force=True)
    description = slicer.app.layoutManager().layoutLogic().GetLayoutNode().GetCurrentLayoutDescription()
    assert description.count("vtkMRMLSliceNode") == 2


def test_result_has_the_window_of_the_input_and_neither_changes_by_itself():
    inputs, nodes = case()
    views.present(METHOD, inputs, nodes, force=True)
    for node in (inputs["ct"], nodes["corrected"]):
        assert windows.window_of(node) == (800, 100)
        assert not node.GetDisplayNode().GetAutoWindowLevel()
    array = slicer.util.arrayFromVolume(nodes["corrected"])
    array[0] = 3000
    slicer.util.arrayFromVolumeModified(nodes["corrected"])
    assert windows.window_of(nodes["corrected"]) == (800, 100)


@pytest.mark.parametrize("unit", ["HU", ""])
def test_an_automatic_window_becomes_the_one_of_a_ct_console_or_keeps_its_numbers(unit):
    inputs, nodes = case()
    inputs["ct"].GetDisplayNode().SetAutoWindowLevel(1)
    before = windows.window_of(inputs["ct"])
    declared = {k: [part | {"unit": part["unit"] and unit} for part in METHOD[k]] for k in ("inputs", "outputs")}
    views.present(declared, inputs, nodes)
    wanted = windows.CT_WINDOWS["soft tissue"] if unit == "HU" else before
    assert windows.window_of(nodes["corrected"]) == windows.window_of(inputs["ct"]) == wanted
    assert not inputs["ct"].GetDisplayNode().GetAutoWindowLevel()


def test_ct_result_without_comparable_input_gets_a_ct_window():
    _inputs, nodes = case()
    views.present({**METHOD, "inputs": []}, {}, {"corrected": nodes["corrected"]}, force=True)
    assert windows.window_of(nodes["corrected"]) == windows.CT_WINDOWS["soft tissue"]
    assert background(layouts.VIEWS[0]) is nodes["corrected"]


def test_views_are_linked_among_themselves_and_leave_the_users_views_alone():
    inputs, nodes = case()
    views.present(METHOD, inputs, nodes, force=True)
    for name in layouts.VIEWS:
        assert composite(name).GetLinkedControl() and composite(name).GetHotLinkedControl()
        assert widget(name).mrmlSliceNode().GetViewGroup() == layouts.GROUP
    assert widget("Red").mrmlSliceNode().GetViewGroup() != layouts.GROUP
    red = widget("Red").sliceLogic().GetSliceOffset()
    logic = widget(layouts.VIEWS[0]).sliceLogic()
    start = logic.GetSliceOffset()
    logic.StartSliceOffsetInteraction()
    logic.SetSliceOffset(start + 3)
    logic.EndSliceOffsetInteraction()
    offsets = [widget(n).sliceLogic().GetSliceOffset() for n in layouts.VIEWS]
    assert offsets == pytest.approx([start + 3] * 3)
    assert widget("Red").sliceLogic().GetSliceOffset() == red


def test_views_show_the_slices_of_the_input_not_resampled_ones():
    inputs, nodes = case()
    views.present(METHOD, inputs, nodes, force=True)
    normal = oblique()[:3, 2] / np.linalg.norm(oblique()[:3, 2])
    for name in layouts.VIEWS:
        to_ras = slicer.util.arrayFromVTKMatrix(widget(name).mrmlSliceNode().GetSliceToRAS())
        assert abs(to_ras[:3, 2] @ normal) == pytest.approx(1, abs=1e-6)


def test_known_voxels_appear_where_they_lie_in_the_patient():
    inputs, nodes = case()
    views.present(METHOD, inputs, nodes, force=True)
    bright, dark = (ras(v, inputs["ct"]) for v in (BRIGHT, DARK))
    grey = [round(255 * (v + 300) / 800) for v in (40, 240, -160)]  # window 800, level 100
    for value, name, point in ((grey[0], "DiffusionInput", bright), (grey[0], "DiffusionInput", dark),
                               (grey[1], "DiffusionResult", bright), (grey[2], "DiffusionResult", dark)):
        assert rgb_at(name, point) == pytest.approx((value,) * 3, abs=2)


def test_difference_is_red_where_the_values_rose_and_blue_where_they_fell():
    inputs, nodes = case()
    views.present(METHOD, inputs, nodes, force=True)
    red = rgb_at("DiffusionChange", ras(BRIGHT, inputs["ct"]))
    blue = rgb_at("DiffusionChange", ras(DARK, inputs["ct"]))
    none = rgb_at("DiffusionChange", ras((CHANGED, 20, 3), inputs["ct"]))
    assert red[0] > 200 and red[0] > 2 * red[2]
    assert blue[2] > 200 and blue[2] > 2 * blue[0]
    assert max(none) == 0


def test_parent_transform_moves_all_views():
    inputs, nodes = case()
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = np.eye(4)
    matrix[:3, 3] = (7, -11, 13)
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    for node in (inputs["ct"], *nodes.values()):
        node.SetAndObserveTransformNodeID(transform.GetID())
    views.present(METHOD, inputs, nodes, force=True)
    bright = ras(BRIGHT, inputs["ct"]) + (7, -11, 13)
    assert rgb_at("DiffusionResult", bright) == pytest.approx((172,) * 3, abs=2)
    assert rgb_at("DiffusionChange", bright)[0] > 200


def test_the_slice_with_the_largest_change_is_shown():
    inputs, nodes = case()
    assert compare.largest_change(nodes["difference"]) == CHANGED
    views.present(METHOD, inputs, nodes, force=True)
    centre = ras((CHANGED, (SHAPE[1] - 1) / 2, (SHAPE[2] - 1) / 2), inputs["ct"])
    for name in layouts.VIEWS:
        rgb_at(name, centre)  # asserts that the point lies in the slice


def test_the_users_slice_is_kept_where_he_was_looking_at_the_input():
    inputs, nodes = case()
    slicer.util.setSliceViewerLayers(background=inputs["ct"], fit=True)
    here = ras((9, 20, 24), inputs["ct"])
    widget("Red").mrmlSliceNode().JumpSliceByCentering(*here)
    views.present(METHOD, inputs, nodes, force=True)
    to_ras = slicer.util.arrayFromVTKMatrix(widget(layouts.VIEWS[1]).mrmlSliceNode().GetSliceToRAS())
    assert (here - to_ras[:3, 3]) @ to_ras[:3, 2] == pytest.approx(0, abs=1e-6)


def test_metal_outline_leaves_the_grey_values_visible():
    inputs, nodes = case()
    node = segmentation(inputs["ct"])
    views.present(METHOD, inputs, {**nodes, "metal": node})
    assert node.GetDisplayNode().GetVisibility2DOutline() and not node.GetDisplayNode().GetVisibility2DFill()


def segmentation(reference):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "metal")
    node.SetReferenceImageGeometryParameterFromVolumeNode(reference)
    segment = node.GetSegmentation().AddEmptySegment("metal", "metal")
    mask = np.zeros(SHAPE, np.uint8)
    mask[3:9, 8:30, 8:30] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, segment, reference)
    return node


# -- layouts --------------------------------------------------------------------------------------------------------
def test_the_users_layout_comes_back():
    manager = slicer.app.layoutManager()
    manager.setLayout(6)
    inputs, nodes = case()
    views.present(METHOD, inputs, nodes, force=True)
    views.present(METHOD, inputs, {"corrected": nodes["corrected"]}, force=True)
    assert views.former() == 6
    views.restore()
    assert manager.layout == 6 and views.former() is None


def test_a_layout_that_the_user_chose_meanwhile_stays():
    manager = slicer.app.layoutManager()
    inputs, nodes = case()
    views.present(METHOD, inputs, nodes, force=True)
    manager.setLayout(6)
    views.restore()
    assert manager.layout == 6
    views.present(METHOD, inputs, nodes, force=True)
    views.restore()
    assert manager.layout == 6


def test_the_users_layout_comes_back_after_two_changes():
    manager = slicer.app.layoutManager()
    manager.setLayout(6)
    inputs, nodes = case()
    views.present(METHOD, inputs, nodes, force=True)
    views.show_3d(nodes["corrected"], unit="HU", force=True)
    assert manager.layout == FOUR_UP and views.former() == 6
    views.restore()
    assert manager.layout == 6


def test_nothing_moves_in_testing_mode():
    manager = slicer.app.layoutManager()
    manager.setLayout(6)
    inputs, nodes = case()
    slicer.util.setSliceViewerLayers(background=inputs["ct"])
    views.present(METHOD, inputs, nodes)
    assert manager.layout == 6
    views.show_3d(nodes["corrected"], unit="HU")
    assert manager.layout == 6
    assert background("Red") is inputs["ct"]
    assert shown_range(nodes["difference"]) == (-200, 200)


def test_without_a_main_window_only_display_nodes_are_set(monkeypatch):
    monkeypatch.setattr(slicer.app.commandOptions(), "noMainWindow", True)
    inputs, nodes = case()
    views.register()
    views.present(METHOD, inputs, nodes, force=True)
    views.show_3d(nodes["corrected"], unit="HU", force=True)
    views.restore()
    assert views.former() is None
    assert windows.window_of(nodes["corrected"]) == (800, 100)


def test_missing_and_removed_nodes_are_passed_over():
    inputs, nodes = case()
    slicer.mrmlScene.RemoveNode(nodes["difference"])
    slicer.mrmlScene.RemoveNode(inputs["ct"])
    views.present(METHOD, inputs, {**nodes, "report": None}, force=True)
    assert background(layouts.VIEWS[0]) is nodes["corrected"]


def test_a_sequence_is_compared_by_the_frame_that_its_browser_shows():
    inputs, nodes = case()
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "frames")
    for index in range(2):
        sequence.SetDataNodeAtValue(nodes["corrected"], str(index))
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "browser")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    slicer.app.processEvents()
    proxy = browser.GetProxyNode(sequence)
    views.present(METHOD, inputs, {"corrected": sequence}, force=True)
    assert background(layouts.VIEWS[1]) is proxy


def test_colour_images_are_compared_as_they_are():
    method = {
        "inputs": [{"name": "he", "kind": "vector volume", "unit": ""}],
        "outputs": [{"name": "ihc", "kind": "vector volume", "unit": "", "display": "compare"}],
    }
    nodes = []
    for colour in ((200, 40, 90), (30, 160, 220)):
        array = np.full((1, 32, 32, 3), colour, np.uint8)
        nodes.append(slicer.util.addVolumeFromArray(array, nodeClassName="vtkMRMLVectorVolumeNode"))
    views.present(method, {"he": nodes[0]}, {"ihc": nodes[1]}, force=True)
    assert rgb_at(layouts.VIEWS[0], (16, 16, 0)) == (200, 40, 90)
    assert rgb_at(layouts.VIEWS[1], (16, 16, 0)) == (30, 160, 220)


# -- maps -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name, limits", [("difference", (-200, 200)), ("std", (0, 40)), ("shadow", (0, 1))])
def test_ranges_of_maps(name, limits):
    inputs, nodes = case()
    views.present(METHOD, inputs, nodes)
    assert shown_range(nodes[name]) == pytest.approx(limits)
    assert not nodes[name].GetDisplayNode().GetAutoWindowLevel()


@pytest.mark.parametrize("values", [[0, 0, 0], [-3, 0, 1], [0.2, 0.4], [1e-4, -1e5]])
def test_range_of_a_difference_is_symmetric(values):
    low, high = colors.limits("difference", np.array(values, np.float32))
    assert low == -high < 0


def test_amounts_are_shown_from_zero():
    assert colors.limits("amount", np.array([3, 7], np.float32)) == (0, 7)
    assert colors.limits("amount", np.zeros(3, np.float32)) == (0, 1)


def test_a_few_wild_voxels_do_not_hide_a_difference():
    array = np.full(10_000, 30.0, np.float32)
    array[:20] = 5000
    assert colors.limits("difference", array) == (-50, 50)


def test_diverging_table_is_clear_at_zero_and_symmetric():
    table = colors.table("diverging")
    assert colors.table("diverging") is table
    rgba = np.array([_entry(table, n) for n in range(table.GetNumberOfColors())])
    middle = len(rgba) // 2
    assert rgba[middle, 3] == 0 and rgba[0, 3] == rgba[-1, 3] == 1
    assert rgba[0].argmax() == 2 and rgba[-1].argmax() == 0
    assert (rgba[:, 3] == rgba[::-1, 3]).all()


def _entry(table, index: int) -> list[float]:
    rgba = [0.0] * 4
    table.GetColor(index, rgba)
    return rgba


def test_legend_names_map_and_unit():
    inputs, nodes = case()
    views.present(METHOD, inputs, nodes, force=True)
    legend = slicer.modules.colors.logic().GetColorLegendDisplayNode(nodes["difference"])
    assert legend.GetTitleText() == "difference (HU)"
    bare = widget("DiffusionChange").sliceView().picture()
    legend.SetVisibility(False)
    assert (widget("DiffusionChange").sliceView().picture() != bare).any()


def test_map_without_compared_result_lies_over_the_input_in_the_users_layout():
    inputs, _nodes = case()
    dose = volume(np.linspace(0, 70, np.prod(SHAPE)).reshape(SHAPE), "dose")
    views.present(DOSE, inputs, {"dose": dose}, force=True)
    assert slicer.app.layoutManager().layout == FOUR_UP
    for name in ("Red", "Green", "Yellow"):
        assert background(name) is inputs["ct"]
        assert composite(name).GetForegroundVolumeID() == dose.GetID()
    assert shown_range(dose) == (0, 70)


# -- tables, charts, texts ------------------------------------------------------------------------------------------
def table_node(columns: dict, name: str = "table"):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", name)
    for title, values in columns.items():
        text_column = isinstance(values[0], str)
        array = vtk.vtkStringArray() if text_column else vtk.vtkDoubleArray()
        array.SetName(title)
        for value in values:
            array.InsertNextValue(value)
        node.AddColumn(array)
    return node


METRICS = {
    "image": ["ct", "ct", "ct", "corrected", "corrected", "corrected"],
    "slice": ["4", "5", "all", "4", "5", "all"],
    "rmse": ["50", "60", "55", "10", "20", "15"],
}


def test_table_stands_beneath_the_images():
    inputs, nodes = case()
    report = table_node({"slice": [5.0], "metal voxels": [25.0]}, "report")
    views.present(METHOD, inputs, {**nodes, "report": report}, force=True)
    manager = slicer.app.layoutManager()
    assert layouts.shows("vtkMRMLTableViewNode") and not layouts.shows("vtkMRMLPlotViewNode")
    view = manager.tableWidget(0)
    assert view.mrmlTableViewNode().GetTableNodeID() == report.GetID()


def test_metrics_are_plotted_against_the_slice_one_line_for_each_image():
    inputs, nodes = case()
    report = table_node({"slice": [5.0], "metal voxels": [25.0]}, "report")
    metrics = table_node(METRICS, "metrics")
    views.present(METHOD, inputs, {**nodes, "report": report, "metrics": metrics}, force=True)
    manager = slicer.app.layoutManager()
    assert manager.tableWidget(0).mrmlTableViewNode().GetTableNodeID() == metrics.GetID()
    chart = slicer.mrmlScene.GetNodeByID(manager.plotWidget(0).mrmlPlotViewNode().GetPlotChartNodeID())
    assert (chart.GetXAxisTitle(), chart.GetYAxisTitle()) == ("slice", "rmse (HU)")
    series = [chart.GetNthPlotSeriesNode(n) for n in range(chart.GetNumberOfPlotSeriesNodes())]
    assert [s.GetName() for s in series] == ["ct", "corrected"]
    table = series[0].GetTableNode()
    got = [[float(cell) for cell in column] for column in columns_of(table)]
    assert got == [[4, 5], [50, 60], [10, 20]]
    picture = manager.plotWidget(0).plotView().picture()
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 3


def columns_of(node) -> list[list[str]]:
    rows = range(node.GetNumberOfRows())
    return [[node.GetCellText(r, c) for r in rows] for c in range(node.GetNumberOfColumns())]


def test_metrics_of_one_slice_give_no_chart():
    single = {name: cells[1:3] for name, cells in METRICS.items()}
    assert plot.per_slice(table_node(single), "rmse", "HU") is None
    assert plot.per_slice(table_node({"slice": [1.0, 2.0]}), "rmse") is None


def test_plotted_output_takes_the_columns_of_one_unit_and_says_it():
    inputs, _nodes = case()
    node = table_node({"name": ["a", "b"], "dose": [0.0, 1.0], "lung": [100.0, 50.0], "n": [3.0, 4.0]}, "dvh")
    for column, unit in (("dose", "Gy"), ("lung", "%"), ("n", "1")):
        node.SetColumnUnitLabel(column, unit)
    views.present(DOSE, inputs, {"dvh": node}, force=True)
    view = slicer.app.layoutManager().plotWidget(0).mrmlPlotViewNode()
    chart = slicer.mrmlScene.GetNodeByID(view.GetPlotChartNodeID())
    assert (chart.GetXAxisTitle(), chart.GetYAxisTitle()) == ("dose (Gy)", "lung (%)")
    assert chart.GetNumberOfPlotSeriesNodes() == 1
    assert background(layouts.VIEWS[0]) is inputs["ct"]


def test_text_is_read_only():
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode", "report")
    node.SetText("no effusion\nno nodule")
    box = text.widget(node)
    assert box.plainText == "no effusion\nno nodule" and box.readOnly


# -- 3D -------------------------------------------------------------------------------------------------------------
def picture_3d() -> np.ndarray:
    return slicer.app.layoutManager().threeDWidget(0).threeDView().picture()


def block(low: float, high: float, name: str):
    array = np.full(SHAPE, low, np.float32)
    array[3:9, 10:30, 12:36] = high
    return volume(array, name)


@pytest.mark.parametrize("unit, low, high", [("HU", -1000, 1200), ("", 0, 1e-3), ("Gy", 0, 70)])
def test_volume_is_seen_in_3d(unit, low, high):
    empty = picture_3d()
    node = block(low, high, "block")
    views.show_3d(node, unit=unit, force=True)
    seen = (np.abs(picture_3d().astype(int) - empty).sum(2) > 60).mean()
    assert 0.02 < seen < 0.9
    logic = slicer.modules.volumerendering.logic()
    logic.GetFirstVolumeRenderingDisplayNode(node).SetVisibility(False)
    gone = (np.abs(picture_3d().astype(int) - empty).sum(2) > 60).mean()
    assert gone < seen / 2


def test_ct_preset_of_the_application_is_used_where_there_is_one(monkeypatch):
    preset = slicer.vtkMRMLVolumePropertyNode()
    preset.SetName("CT-Bone")
    colours, opacity = vtk.vtkColorTransferFunction(), vtk.vtkPiecewiseFunction()
    colours.AddRGBPoint(77, 1, 0, 0)
    opacity.AddPoint(77, 0.5)
    preset.SetColor(colours)
    preset.SetScalarOpacity(opacity)
    logic = slicer.modules.volumerendering.logic()
    asked = []

    class Logic:
        def GetPresetByName(self, name):
            asked.append(name)
            return preset

        def __getattr__(self, name):
            return getattr(logic, name)

    monkeypatch.setattr(slicer.modules.volumerendering, "logic", lambda: Logic())
    node = block(-1000, 1200, "head")
    views.show_3d(node, unit="HU")
    properties = logic.GetFirstVolumeRenderingDisplayNode(node).GetVolumePropertyNode()
    assert asked == ["CT-Bone"] and properties.GetScalarOpacity().GetValue(77) == 0.5
    views.show_3d(volume(np.full(SHAPE, -800), "chest"), unit="HU")
    assert asked[-1] == "CT-Lung"


def test_segmentation_gets_a_closed_surface():
    inputs, _nodes = case()
    node = segmentation(inputs["ct"])
    empty = picture_3d()
    views.show_3d(node, force=True)
    assert node.GetSegmentation().ContainsRepresentation("Closed surface")
    assert (np.abs(picture_3d().astype(int) - empty).sum(2) > 60).mean() > 0.02


def test_a_layout_without_3d_view_is_changed_and_comes_back():
    manager = slicer.app.layoutManager()
    manager.setLayout(6)
    views.show_3d(block(0, 1, "mr"), force=True)
    assert layouts.shows("vtkMRMLViewNode")
    views.restore()
    assert manager.layout == 6


# -- saved scene ----------------------------------------------------------------------------------------------------
def test_a_saved_scene_comes_back_as_it_looked(tmp_path):
    inputs, nodes = case()
    views.present(METHOD, inputs, nodes, force=True)
    bundle = str(tmp_path / "scene.mrb")
    messages = slicer.vtkMRMLMessageCollection()
    assert slicer.mrmlScene.WriteToMRB(bundle, None, messages)
    slicer.mrmlScene.Clear(0)
    assert slicer.mrmlScene.ReadFromMRB(bundle, True, messages)
    ct, corrected, difference = (slicer.util.getNode(n) for n in ("ct", "corrected", "difference"))
    assert windows.window_of(ct) == windows.window_of(corrected) == (800, 100)
    assert shown_range(difference) == (-200, 200)
    table = difference.GetDisplayNode().GetColorNode()
    assert table is colors.table("diverging") and _entry(table, colors.COUNT // 2)[3] == 0
    assert slicer.app.layoutManager().layout == layouts.LAYOUT
    assert [background(n) for n in layouts.VIEWS] == [ct, corrected, difference]
    views.restore()
    assert slicer.app.layoutManager().layout == FOUR_UP


# -- the picture while a run goes on --------------------------------------------------------------------------------
def pixels(pixmap) -> np.ndarray:
    image = pixmap.toImage()
    rows, columns = image.height(), image.width()
    return np.array([[image.pixelColor(x, y).red() for x in range(columns)] for y in range(rows)])


@pytest.mark.parametrize("flips", [(1, 1), (-1, 1), (1, -1), (-1, -1)])
def test_preview_shows_patient_right_on_the_left_and_anterior_up(flips):
    matrix = np.diag([-flips[0], -flips[1], 1, 1]).astype(float)  # (1, 1) = towards left and posterior: as shown
    like = volume(np.zeros((2, 4, 6)), "like", matrix)
    windows.set_window([like], 200, 0)
    upright = np.full((4, 6), -100.0)
    upright[0, 1] = 100
    got = pixels(views.preview(upright[:: flips[1], :: flips[0]], like))
    assert got[0, 1] == 255 and (np.delete(got.ravel(), 1) <= 1).all()


def test_preview_uses_the_window_of_the_input():
    like = volume(np.zeros(SHAPE), "like")
    windows.set_window([like], 400, 40)
    got = pixels(views.preview(np.array([[-160.0, 40, 240]]), like))
    assert got[0] == pytest.approx([1, 128, 255], abs=1)


def test_preview_of_other_values_uses_their_own_range():
    like = volume(np.zeros(SHAPE), "like")
    windows.set_window([like], 2000, 0)
    sinogram = np.linspace(0, 5, 60).reshape(6, 10)
    got = pixels(views.preview(sinogram, like))
    assert got.min() == 1 and got.max() == 255 and (np.diff(got.ravel()) >= 0).all()


@pytest.mark.parametrize("array", [np.zeros((3, 5)), np.full((3, 5), np.nan), np.ones((1, 1), np.int16)])
def test_preview_of_flat_values_is_a_picture(array):
    pixmap = views.preview(array)
    assert (pixmap.height(), pixmap.width()) == array.shape
