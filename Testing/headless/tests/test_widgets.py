"""The stand-in's widgets: what they do with nodes and numbers, and that each of them can be seen."""

from __future__ import annotations

import ctk
import numpy as np
import pytest
import qt
import slicer

import headless

UI = """<ui version="4.0"><widget class="qMRMLWidget" name="top"><layout class="QVBoxLayout" name="box">
<item><widget class="ctkCollapsibleButton" name="part"><property name="text"><string>Part</string></property>
<property name="collapsed"><bool>true</bool></property><layout class="QVBoxLayout" name="inner"><item>
<widget class="{kind}" name="selector"><property name="nodeTypes"><stringlist><string>vtkMRMLTextNode</string>
</stringlist></property></widget></item></layout></widget></item></layout></widget>
<customwidgets><customwidget><class>qMRMLWidget</class><extends>QWidget</extends><container>1</container></customwidget>
<customwidget><class>ctkCollapsibleButton</class><extends>QWidget</extends><container>1</container></customwidget>
<customwidget><class>{kind}</class><extends>QWidget</extends></customwidget></customwidgets>
<connections><connection><sender>top</sender><signal>mrmlSceneChanged(vtkMRMLScene*)</signal><receiver>selector</receiver>
<slot>setMRMLScene(vtkMRMLScene*)</slot></connection></connections></ui>"""


def selector(*types: str, none: bool = True):
    combo = slicer.qMRMLNodeComboBox()
    combo.nodeTypes, combo.noneEnabled = list(types), none
    combo.setMRMLScene(slicer.mrmlScene)
    return combo


def listed(combo) -> list[str]:
    return [combo.nodeFromIndex(i).GetName() for i in range(combo.nodeCount())]


def test_a_ui_file_gives_the_scene_to_its_selectors(scene, tmp_path):
    path = tmp_path / "a.ui"
    path.write_text(UI.format(kind="qMRMLNodeComboBox"))
    top = slicer.util.loadUI(str(path))
    ui = slicer.util.childWidgetVariables(top)
    assert not ui.selector.enabled
    top.setMRMLScene(scene)
    assert ui.selector.mrmlScene() is scene and ui.selector.enabled
    assert ui.selector.nodeTypes == ("vtkMRMLTextNode",)
    assert ui.part.collapsed


def test_a_ui_file_with_an_unknown_widget_is_refused(tmp_path):
    path = tmp_path / "a.ui"
    path.write_text(UI.format(kind="qMRMLNothing"))
    with pytest.raises(ValueError, match="qMRMLNothing"):
        slicer.util.loadUI(str(path))


def test_the_selector_lists_nodes_of_its_classes(scene):
    combo = selector("vtkMRMLScalarVolumeNode")
    scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "a")
    scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "label")
    scene.AddNewNodeByClass("vtkMRMLTextNode", "text")
    scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "hidden").SetHideFromEditors(True)
    assert listed(combo) == ["a", "label"]
    combo.showChildNodeTypes = False
    assert listed(combo) == ["a"]


def test_the_selector_asks_for_attributes(scene):
    combo = selector("vtkMRMLTextNode")
    combo.addAttribute("vtkMRMLTextNode", "Kind", "prompt")
    scene.AddNewNodeByClass("vtkMRMLTextNode", "plain")
    scene.AddNewNodeByClass("vtkMRMLTextNode", "marked").SetAttribute("Kind", "prompt")
    assert listed(combo) == ["marked"]


@pytest.mark.parametrize("none, expected", [(True, None), (False, "b")])
def test_a_removed_node_leaves_none_or_the_first(scene, none, expected):
    combo = selector("vtkMRMLTextNode", none=none)
    first = scene.AddNewNodeByClass("vtkMRMLTextNode", "a")
    scene.AddNewNodeByClass("vtkMRMLTextNode", "b")
    combo.setCurrentNode(first)
    changes = []
    combo.connect("currentNodeIDChanged(QString)", changes.append)
    scene.RemoveNode(first)
    left = combo.currentNode()
    assert (left and left.GetName()) == expected
    assert changes == [left.GetID() if left else ""]


def test_without_none_nothing_is_chosen_by_itself(scene):
    combo = selector("vtkMRMLTextNode", none=False)
    node = scene.AddNewNodeByClass("vtkMRMLTextNode")
    assert combo.currentNode() is None and combo.nodeCount() == 1
    combo.setCurrentNode(node)
    combo.setCurrentNode(None)
    assert combo.currentNode() is None


def test_the_selector_follows_names_and_a_closed_scene(scene):
    combo = selector("vtkMRMLTextNode")
    node = scene.AddNewNodeByClass("vtkMRMLTextNode", "a")
    combo.setCurrentNodeID(node.GetID())
    node.SetName("b")
    assert combo._combo.currentText == "b"
    scene.Clear(0)
    assert combo.currentNode() is None and combo.nodeCount() == 0


def test_the_user_can_make_a_node(scene):
    combo, got = selector("vtkMRMLTextNode"), []
    combo.baseName = "Prompt"
    combo.connect("nodeAddedByUser(vtkMRMLNode*)", got.append)
    entry = combo._combo.findText("Create new Text")
    combo._combo.activated.emit(entry)
    assert got == [combo.currentNode()] and got[0].GetName() == "Prompt"
    combo.addEnabled = False
    assert combo._combo.findText("Create new Text") == -1


def test_a_deleted_selector_no_longer_listens(scene):
    combo = selector("vtkMRMLTextNode")
    combo.deleteLater()
    slicer.app.sendPostedEvents(None, qt.QEvent.DeferredDelete)
    scene.AddNewNodeByClass("vtkMRMLTextNode")  # a report would make the test fail


def test_slider_and_spin_box_show_one_number():
    slider, got = ctk.ctkSliderWidget(), []
    slider.minimum, slider.maximum, slider.decimals, slider.singleStep = -1, 1, 2, 0.01
    slider.connect("valueChanged(double)", got.append)
    slider.value = 0.25
    slider._slider.setValue(0)
    slider.setValue(7)
    assert got == [0.25, -1, 1] and slider.value == 1


def test_a_slider_has_two_decimals_unless_told_otherwise():
    slider = ctk.ctkSliderWidget()
    slider.value = 4.256
    assert (slider.decimals, slider.value) == (2, 4.26)


def test_a_path_is_told(tmp_path):
    edit, got = ctk.ctkPathLineEdit(), []
    edit.connect("currentPathChanged(QString)", got.append)
    edit.connect("validInputChanged(bool)", got.append)
    edit.currentPath = str(tmp_path)
    assert got == [str(tmp_path), True] and edit.currentPath == str(tmp_path)


def test_a_collapsed_part_hides_its_content_and_shows_it_again():
    part, inside = ctk.ctkCollapsibleButton("Part"), qt.QLabel("inside")
    secret = qt.QLabel("secret")
    box = qt.QVBoxLayout(part)
    box.addWidget(inside)
    box.addWidget(secret)
    secret.hide()
    part.show()
    part.collapsed = True
    assert not inside.visible and part.maximumHeight < 60
    part.collapsed = False
    assert inside.visible and not secret.visible
    inside.hide()
    part.collapsed = True
    part.collapsed = False
    assert not inside.visible


def pixels(widget, path, width: int = 300) -> np.ndarray:
    image = qt.QImage(str(headless.grab(widget, path, width))).convertToFormat(qt.QImage.Format_RGB888)
    rows = np.frombuffer(image.constBits(), np.uint8).reshape(image.height(), image.bytesPerLine())
    return rows[:, : 3 * image.width()].reshape(image.height(), image.width(), 3).copy()


@pytest.mark.parametrize("make", [lambda: ctk.ctkCollapsibleButton("Part"), ctk.ctkSliderWidget, ctk.ctkPathLineEdit,
                                  lambda: selector("vtkMRMLTextNode")])
def test_every_widget_can_be_seen(make, tmp_path):
    shown = pixels(make(), tmp_path / "a.png")
    assert shown.shape[1] == 300
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) > 5


def test_text_is_drawn_as_letters(tmp_path):
    """Without a font every letter is the same empty box."""
    i, w = (pixels(qt.QLabel(letter * 10), tmp_path / "a.png") for letter in "iW")
    assert (w < 128).sum() > 1.5 * (i < 128).sum() > 0


def test_the_palettes_differ(tmp_path):
    label = qt.QLabel("text")
    try:
        headless.palette("dark")
        dark = pixels(label, tmp_path / "a.png").mean()
    finally:
        headless.palette("light")
    assert dark < 100 < pixels(label, tmp_path / "b.png").mean()
    with pytest.raises(ValueError, match="palette"):
        headless.palette("pink")
