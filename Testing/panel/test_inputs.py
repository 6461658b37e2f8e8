"""One widget per kind of input: what it lists, what it gives to the logic, what a scene stores of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import qt
import slicer

from diffusion_panel import declarations
from diffusion_panel.inputs import KINDS, InputForm

GEOMETRY = {"type": "parallel", "angles_deg": [0, 60, 120], "bins": 8, "bin_mm": 1.5}


_made: list = []


@pytest.fixture(autouse=True)
def released():
    """The widgets of a test let go of the scene at its end."""
    yield
    while _made:
        _made.pop().release()


class Changes:
    """Counts what an input tells."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def field(kind, **declared):
    changes = Changes()
    described = {"name": "data", "kind": kind, "unit": "", "required": True, "help": "Help."} | declared
    _made.append(KINDS[kind](described, changes))
    return _made[-1], changes


def volume(name="CT", node_class="vtkMRMLScalarVolumeNode", shape=(3, 4, 5)):
    array = np.zeros(shape, np.float32)
    return slicer.util.addVolumeFromArray(array, name=name, nodeClassName=node_class)


def projections():
    node = volume("Projections", shape=(2, 3, 8))
    node.SetAttribute("DiffusionModels.Geometry", json.dumps(GEOMETRY))
    return node


def segmentation(*names):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Segmentation")
    for name in names:
        node.GetSegmentation().AddEmptySegment(f"id-{name}", name)
    return node


def test_every_declared_kind_has_a_widget():
    used = {i["kind"] for m in declarations.declarations().values() for i in m["inputs"]}
    assert used <= set(KINDS)


NODES = {
    "volume": volume,
    "vector volume": lambda: volume("RGB", "vtkMRMLVectorVolumeNode", (3, 4, 5, 3)),
    "complex volume": lambda: volume("k-space", "vtkMRMLVectorVolumeNode", (3, 4, 5, 2)),
    "sequence": lambda: slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "Sequence"),
    "projections": projections,
    "segmentation": lambda: segmentation("metal"),
    "table": lambda: slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", "Table"),
    "text": lambda: slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode", "Text"),
}


@pytest.mark.parametrize("kind", NODES)
def test_a_node_goes_in_and_comes_out_and_a_removed_one_is_forgotten(kind):
    made, changes = field(kind)
    node = NODES[kind]()
    assert made.value() is None
    made.set_node(node)
    assert made.value() is node and made.node() is node and changes.count == 1
    again, _ = field(kind)
    again.set_node(made.node())
    again.set_extra(json.loads(json.dumps(made.extra())))
    assert again.value() is node
    taken, _ = field(kind)
    taken.take(made.value())
    assert taken.value() is node
    slicer.mrmlScene.RemoveNode(node)
    assert made.value() is None and changes.count == 2


@pytest.mark.parametrize("kind, other", [
    ("volume", "vector volume"), ("vector volume", "volume"), ("projections", "volume"), ("table", "text"),
])  # fmt: skip
def test_nodes_of_another_kind_are_not_offered(kind, other):
    made, _ = field(kind)
    made.set_node(NODES[other]())
    assert made.value() is None


def test_label_volumes_are_no_volumes():
    made, _ = field("volume")
    made.set_node(volume("Labels", "vtkMRMLLabelMapVolumeNode"))
    assert made.value() is None


def test_projections_come_from_a_file_where_no_node_is_chosen(tmp_path):
    made, changes = field("projections")
    made.path.currentPath = str(tmp_path / "scan ü.npz")
    assert made.value() == Path(tmp_path / "scan ü.npz") and changes.count == 1
    again, _ = field("projections")
    again.set_extra(json.loads(json.dumps(made.extra())))
    assert again.value() == made.value()
    node = projections()
    made.set_node(node)
    assert made.value() is node and made.path.isHidden()
    assert "3 views" in made.summary.text and not made.summary.isHidden()


def test_segments_that_lost_their_mark_are_left_out():
    made, changes = field("segmentation")
    node = segmentation("metal", "bone", "ärm")
    made.set_node(node)
    assert made.value() is node
    made.segments.item(1).setCheckState(qt.Qt.Unchecked)
    assert made.value() == (node, {"metal": "id-metal", "ärm": "id-ärm"})
    assert changes.count == 2
    for other in (field("segmentation")[0], field("segmentation")[0]):
        other.set_node(node)
        other.set_extra(json.loads(json.dumps(made.extra())))
        assert other.value() == made.value()
    taken, _ = field("segmentation")
    taken.take(made.value())
    assert taken.value() == made.value()


def test_structures_are_named_by_segment_and_can_be_renamed():
    made, changes = field("structures")
    node = segmentation("PTV 70", "cord", "couch")
    made.set_node(node)
    assert made.value() == (node, {"PTV 70": "id-PTV 70", "cord": "id-cord", "couch": "id-couch"})
    made.table.item(1, 1).setText("SpinalCord")
    made.table.item(2, 1).setText(" ")
    assert made.value() == (node, {"PTV 70": "id-PTV 70", "SpinalCord": "id-cord"}) and changes.count == 3
    again, _ = field("structures")
    again.set_node(node)
    again.set_extra(json.loads(json.dumps(made.extra())))
    assert again.value() == made.value()


def test_segments_that_come_and_go_are_followed_and_marks_stay():
    made, _ = field("segmentation")
    node = segmentation("metal", "bone", "coil")
    made.set_node(node)
    made.set_extra({"left_out": ["id-bone"]})
    node.GetSegmentation().RemoveSegment("id-coil")
    node.GetSegmentation().AddEmptySegment("id-wire", "wire")
    made.refresh()
    assert made.value() == (node, {"metal": "id-metal", "wire": "id-wire"})
    named, changes = field("structures")
    named.set_node(node)
    named.set_extra({"structures": {"id-bone": "", "id-metal": "Implant"}})
    node.GetSegmentation().AddEmptySegment("id-cord", "cord")
    before = changes.count
    named.refresh()
    assert named.value() == (node, {"Implant": "id-metal", "wire": "id-wire", "cord": "id-cord"})
    assert changes.count == before


def test_text_is_typed_or_taken_from_a_node():
    made, changes = field("text")
    made.edit.setPlainText("  large left pleural effusion\n")
    assert made.value() == "large left pleural effusion" and changes.count == 1
    assert "30" in made.counter.text
    again, _ = field("text")
    again.set_extra(json.loads(json.dumps(made.extra())))
    assert again.value() == made.value()
    node = NODES["text"]()
    made.set_node(node)
    assert made.value() is node and made.edit.isHidden()


def test_a_text_of_ten_thousand_characters_stays_whole():
    made, _ = field("text")
    made.edit.setPlainText("ü" * 10000)
    assert made.value() == "ü" * 10000 and "10000" in made.counter.text


def test_a_file_is_a_path(tmp_path):
    made, _ = field("file")
    assert made.value() is None
    made.path.currentPath = str(tmp_path)
    assert made.value() == str(tmp_path) and made.extra() == {"path": str(tmp_path)}


def test_all_frames_can_be_asked_for_where_a_browser_shows_the_volume():
    made, changes = field("volume")
    node = volume()
    made.set_node(node)
    assert made.all_frames.isHidden() and made.extra() == {}
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode")
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode")
    browser.AddSynchronizedSequenceNodeID(sequence.GetID())
    sequence.SetDataNodeAtValue(node, "0")
    browser.AddProxyNode(node, sequence, False)
    proxy = browser.GetProxyNode(sequence)
    made.set_node(None)
    made.set_node(proxy)
    assert not made.all_frames.isHidden()
    made.all_frames.setChecked(True)
    assert made.extra() == {"all_frames": True}


def test_the_form_has_a_labelled_row_per_input_with_help():
    holder = qt.QWidget()
    qt.QVBoxLayout(holder)
    form = InputForm(holder, lambda: None)
    for method in declarations.declarations().values():
        form.show(method)
        labels = [w for w in holder.findChildren(qt.QLabel) if w.buddy() is not None]
        assert len(labels) == len(method["inputs"])
        for declared, made in form.declared():
            tip = made.widget.toolTip
            assert declared["kind"] in tip.lower()
            assert ("optional" in tip) is not declared["required"]
            assert any(declared["unit"] in label.text for label in labels)
            assert made.focus_widgets()


def test_a_hint_fills_the_first_needed_volume_alone():
    method = next(m for m in declarations.declarations().values() if m["inputs"][0]["kind"] == "volume")
    holder = qt.QWidget()
    qt.QVBoxLayout(holder)
    form = InputForm(holder, lambda: None)
    form.show(method)
    first, second = volume(), volume()
    form.suggest(first)
    form.suggest(second)
    assert form.values() == {method["inputs"][0]["name"]: first}
    form.clear()
    assert form.values() == {}
