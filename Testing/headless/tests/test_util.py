"""What `slicer.util` and the base classes promise the panels: observers, parameter nodes, child processes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import qt
import slicer
import vtk
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

MODIFIED = vtk.vtkCommand.ModifiedEvent


class SeededWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    pass


class SeededLogic(ScriptedLoadableModuleLogic, VTKObservationMixin):
    pass


class SeededTest(ScriptedLoadableModuleTest, VTKObservationMixin):
    pass


class OtherLogic(ScriptedLoadableModuleLogic):
    pass


class Listener(VTKObservationMixin):
    """Keeps the events that it is told of."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []

    def on_event(self, caller, event: str) -> None:
        self.events.append(event)

    def on_other(self, caller, event: str) -> None:
        self.events.append(f"other {event}")


# ---- observers ----


@pytest.mark.parametrize("make", [lambda: SeededWidget(slicer.qMRMLWidget()), SeededLogic, SeededTest])
def test_the_base_classes_let_a_mixin_begin(make):
    made, got, target = make(), [], vtk.vtkObject()
    made.addObserver(target, MODIFIED, lambda caller, event: got.append(event))
    target.Modified()
    made.removeObservers()
    target.Modified()
    assert got == ["ModifiedEvent"]


def test_an_observer_is_added_once_and_removed_alone():
    listener, target = Listener(), vtk.vtkObject()
    listener.addObserver(target, MODIFIED, listener.on_event)
    with pytest.warns(UserWarning, match="already"):
        listener.addObserver(target, MODIFIED, listener.on_event)
    listener.addObserver(target, MODIFIED, listener.on_other)
    target.Modified()
    listener.removeObserver(target, MODIFIED, listener.on_event)
    assert not listener.hasObserver(target, MODIFIED, listener.on_event)
    assert listener.hasObserver(target, MODIFIED, listener.on_other)
    target.Modified()
    assert sorted(listener.events) == ["ModifiedEvent", "other ModifiedEvent", "other ModifiedEvent"]
    with pytest.warns(UserWarning, match="does not have"):
        listener.removeObserver(target, MODIFIED, listener.on_event)


def test_a_node_is_observed_by_the_name_of_an_event(scene):
    listener, node = Listener(), scene.AddNewNodeByClass("vtkMRMLTextNode")
    listener.addObserver(node, "ModifiedEvent", listener.on_event)
    node.SetText("new")
    assert "ModifiedEvent" in listener.events
    listener.removeObserver(node, "ModifiedEvent", listener.on_event)
    listener.events.clear()
    node.SetText("newer")
    assert listener.events == []


def test_observers_go_though_python_kept_no_reference(scene):
    listener, collection = Listener(), vtk.vtkCollection()
    collection.AddItem(vtk.vtkObject())
    listener.addObserver(collection.GetItemAsObject(0), MODIFIED, listener.on_event)
    collection.GetItemAsObject(0).Modified()
    listener.removeObservers()
    collection.GetItemAsObject(0).Modified()
    assert listener.events == ["ModifiedEvent"] and listener.Observations == []


def test_the_scene_tells_of_its_life_in_order(scene):
    names = ["NodeAddedEvent", "StartCloseEvent", "NodeRemovedEvent", "EndCloseEvent"]
    got, listener = [], Listener()
    for name in names:  # the text that an observer gets is "NoEvent" for all of them
        listener.addObserver(scene, getattr(scene, name), lambda caller, event, name=name: got.append((name, event)))
    scene.AddNewNodeByClass("vtkMRMLTextNode")
    scene.Clear(0)
    listener.removeObservers()
    assert list(dict.fromkeys(got)) == [(name, "NoEvent") for name in names]


def test_a_node_that_comes_is_handed_over(scene):
    got = []

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def on_added(caller, event, node):
        got.append(node)

    listener = Listener()
    listener.addObserver(scene, scene.NodeAddedEvent, on_added)
    node = scene.AddNewNodeByClass("vtkMRMLTextNode")
    listener.removeObservers()
    assert got == [node]


@pytest.mark.parametrize("fails", [False, True])
def test_many_changes_are_one_event_even_after_an_error(scene, fails):
    listener, node = Listener(), scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode")
    listener.addObserver(node, MODIFIED, listener.on_event)
    try:
        with slicer.util.NodeModify(node):
            node.SetParameter("a", "1")
            node.SetParameter("b", "2")
            assert listener.events == []
            if fails:
                raise ValueError
    except ValueError:
        pass
    assert listener.events == ["ModifiedEvent"]
    node.SetParameter("b", "2")
    assert listener.events == ["ModifiedEvent"]  # what is written again is no change
    listener.removeObservers()


# ---- parameter nodes ----


def saved_and_read(scene, folder, kind: str) -> None:
    """Save the scene, close it, and read it again."""
    path = str(folder / f"saved.{kind}")
    assert slicer.util.saveScene(path)
    scene.Clear(0)
    slicer.util.loadScene(path)


@pytest.mark.parametrize("kind", ["mrb", "mrml"])
def test_a_parameter_node_comes_back_with_texts_of_any_kind(scene, tmp_path, kind):
    values = {"letters": "µ 肺 \"'<>&", "json": json.dumps({"steps": 7, "list": [1.5, None]}), "dotted.name": "x"}
    node = SeededLogic().getParameterNode()
    for name, value in values.items():
        node.SetParameter(name, value)
    saved_and_read(scene, tmp_path, kind)
    back = SeededLogic().getParameterNode()
    assert {name: back.GetParameter(name) for name in values} == values
    assert len(SeededLogic().getAllParameterNodes()) == 1


def test_a_reference_survives_though_ids_change(scene, tmp_path):
    volume = slicer.util.addVolumeFromArray(np.zeros((2, 3, 4), np.float32), name="mine")
    SeededLogic().getParameterNode().SetNodeReferenceID("input", volume.GetID())
    assert slicer.util.saveScene(str(tmp_path / "a.mrb"))
    scene.Clear(0)
    other = slicer.util.addVolumeFromArray(np.zeros((2, 3, 4), np.float32), name="other")
    slicer.util.loadScene(str(tmp_path / "a.mrb"))
    chosen = SeededLogic().getParameterNode().GetNodeReference("input")
    assert chosen.GetName() == "mine" and chosen is not other and chosen.GetID() != other.GetID()


def test_a_removed_node_leaves_no_reference(scene):
    node, text = SeededLogic().getParameterNode(), scene.AddNewNodeByClass("vtkMRMLTextNode")
    node.SetNodeReferenceID("input", text.GetID())
    assert node.GetNodeReference("input") is text
    scene.RemoveNode(text)
    assert node.GetNodeReference("input") is None


def test_each_module_has_its_own_node_and_a_copy_does_not_count(scene):
    logic, other = SeededLogic(), OtherLogic()
    assert logic.getParameterNode() is not other.getParameterNode()
    logic.isSingletonParameterNode = False
    first = logic.getParameterNode()
    scene.AddNode(logic.createParameterNode())
    assert logic.getParameterNode() is first and len(logic.getAllParameterNodes()) == 2
    assert len(other.getAllParameterNodes()) == 1


# ---- the rest that the panels call ----


def test_nodes_are_found_by_class_and_name(scene):
    names = ["CT", "CT 1", "CT"]
    nodes = [scene.AddNewNodeByClass("vtkMRMLTextNode", "x") for _ in names]
    for node, name in zip(nodes, names):
        node.SetName(name)
    assert slicer.util.getNodesByClass("vtkMRMLTextNode") == nodes
    assert slicer.util.getNodes("CT", useLists=True)["CT"] == [nodes[0], nodes[2]]
    scene.RemoveNode(nodes[0])
    assert slicer.util.getFirstNodeByName("CT") is nodes[1]  # the trap: the beginning of a name is enough
    with pytest.raises(slicer.util.MRMLNodeNotFoundException):
        slicer.util.getNode("MR")


def test_only_widgets_with_a_name_are_offered():
    top = qt.QWidget()
    named, _nameless = qt.QLabel(top), qt.QLabel(top)
    named.setObjectName("status")
    variables = slicer.util.childWidgetVariables(top)
    assert variables.status is named and not hasattr(variables, "")


def test_a_table_takes_columns_with_names(scene):
    table = scene.AddNewNodeByClass("vtkMRMLTableNode")
    slicer.util.updateTableFromArray(table, [np.arange(3.0), np.arange(3.0) ** 2], ["x", "square"])
    assert [table.GetColumnName(i) for i in (0, 1)] == ["x", "square"]
    assert [float(table.GetCellText(i, 1)) for i in range(3)] == [0, 1, 4]


def test_the_environment_for_children_is_a_dictionary_of_texts():
    found = slicer.util.startupEnvironment()
    assert found["PATH"] and all(isinstance(x, str) for pair in found.items() for x in pair)


def test_a_child_tells_line_by_line_while_the_event_loop_runs():
    lines, codes, loop = [], [], qt.QEventLoop()

    def done(code: int) -> None:
        codes.append(code)
        loop.quit()

    code = "print('one'); print('two'); raise SystemExit(3)"
    slicer.util.launchConsoleProcess(
        [sys.executable, "-c", code], blocking=False, logCallback=lines.append, completedCallback=done)
    qt.QTimer.singleShot(20000, loop.quit)
    loop.exec_()
    assert ([line.strip() for line in lines if line.strip()], codes) == (["one", "two"], [3])


def test_working_folder_comes_back_after_an_error(tmp_path):
    before = Path.cwd()
    with pytest.raises(ValueError), slicer.util.chdir(str(tmp_path)):
        assert Path.cwd() == tmp_path
        raise ValueError
    assert Path.cwd() == before
