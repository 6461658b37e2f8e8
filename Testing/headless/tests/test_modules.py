"""Scripted modules from file to panel: what the module factory and the base classes promise."""

from __future__ import annotations

import sys

import pytest
import slicer

import headless

SOURCE = '''
import qt, slicer
from slicer.ScriptedLoadableModule import *

class {name}(ScriptedLoadableModule):
    def __init__(self, parent):
        super().__init__(parent)
        parent.title = "Title"
        parent.categories = ["Category"]

class {name}Widget(ScriptedLoadableModuleWidget):
    calls = []
    def setup(self):
        super().setup()
        self.layout.addWidget(qt.QLabel("{text}"))
        self.calls.append("setup")
    def enter(self): self.calls.append("enter")
    def exit(self): self.calls.append("exit")
    def cleanup(self): self.calls.append("cleanup")

class {name}Logic(ScriptedLoadableModuleLogic):
    pass

class {name}Test(ScriptedLoadableModuleTest):
    ran = []
    def setUp(self): self.ran.append("setUp")
    def test_one(self): self.ran.append("one")
    def test_two(self): self.ran.append("two")
'''


@pytest.fixture
def module(tmp_path, request):
    """A module of its own for each test, because a module stays for the whole process."""
    name = "M" + request.node.name.replace("_", "").replace("[", "").replace("]", "")
    path = tmp_path / f"{name}.py"
    path.write_text(SOURCE.format(name=name, text="first"))
    icons = tmp_path / "Resources" / "Icons"
    icons.mkdir(parents=True)
    (icons / f"{name}.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"/>')
    return headless.load_module(path)


def source(module):
    return sys.modules[module.name]


def test_a_module_is_found_by_its_names(module, tmp_path):
    assert getattr(slicer.modules, module.name.lower()) is module
    assert getattr(slicer.modules, module.name + "Instance").parent is module
    assert slicer.util.modulePath(module.name) == str(tmp_path / f"{module.name}.py")
    assert slicer.app.moduleManager().module(module.name) is module
    assert (module.title, module.categories) == ("Title", ("Category",))
    assert not module.icon.isNull()
    assert headless.load_module(module.path) is module


def test_a_module_has_the_properties_of_slicer_only(module):
    with pytest.raises(AttributeError, match="tittle"):
        module.tittle = "Title"


def test_the_panel_is_made_once_and_entered(module):
    panel = module.widgetRepresentation()
    assert panel is module.widgetRepresentation() and panel.self() is slicer.util.getModuleWidget(module.name)
    assert panel.mrmlScene() is slicer.mrmlScene
    panel.enter()
    assert panel.isEntered
    panel.exit()
    assert not panel.isEntered and panel.self().calls == ["setup", "enter", "exit"]
    assert getattr(slicer.modules, module.name + "Widget") is panel.self()


def test_reload_takes_the_new_code(module, tmp_path):
    panel = module.widgetRepresentation()
    old = panel.self()
    (tmp_path / f"{module.name}.py").write_text(SOURCE.format(name=module.name, text="second"))
    old.onReload()
    assert old.calls == ["setup", "cleanup"] and panel.self() is not old
    assert panel.layout().itemAt(0).widget().text == "second" and panel.layout().count() == 1


def test_cleanup_is_called_once_before_unloading(module):
    widget = module.widgetRepresentation().self()
    slicer.app.moduleManager().moduleAboutToBeUnloaded.emit("Other")
    slicer.app.moduleManager().moduleAboutToBeUnloaded.emit(module.name)
    slicer.app.moduleManager().moduleAboutToBeUnloaded.emit(module.name)
    assert widget.calls == ["setup", "cleanup"]


def test_the_test_class_runs_every_test(module):
    slicer.selfTests[module.name]()
    assert getattr(source(module), module.name + "Test").ran == ["setUp", "one", "setUp", "two"]


def test_the_parameter_node_is_one_and_is_saved(module, scene, tmp_path):
    logic = getattr(source(module), module.name + "Logic")()
    node = logic.getParameterNode()
    node.SetParameter("steps", "7")
    assert logic.getParameterNode() is node and node.GetAttribute("ModuleName") == module.name
    slicer.util.saveScene(str(tmp_path / "a.mrb"))
    scene.Clear(0)
    assert logic.getParameterNode().GetParameter("steps") == ""
    slicer.util.loadScene(str(tmp_path / "a.mrb"))
    assert logic.getParameterNode().GetParameter("steps") == "7"
    assert logic.getParameterNode().GetAttribute("ModuleName") == module.name
