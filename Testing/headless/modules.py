"""Scripted modules: loaded from a file and given what the module factory of the application gives them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import qt
import slicer
from PySide6 import QtWidgets

from .mrml_widgets import qMRMLWidget


class ModuleFactory:
    """`slicer.modules`: one attribute per module."""


class LoadableModule:
    """A module of the application itself: only its logic is here."""

    def __init__(self, name: str, logic) -> None:
        self.name, self._logic = name, logic

    def logic(self):
        return self._logic


class qSlicerScriptedLoadableModule:
    """What the class X of a module gets as `parent`. Unknown attributes are refused."""

    _DEFAULTS = {"title": "", "categories": (), "contributors": (), "dependencies": (), "helpText": "",
                 "acknowledgementText": "", "hidden": False, "index": -1, "associatedNodeTypes": (),
                 "widgetRepresentationCreationEnabled": True}

    def __init__(self, path: Path) -> None:
        self.__dict__.update(self._DEFAULTS, name=path.stem, path=str(path), icon=qt.QIcon(), _widget=None)

    def __setattr__(self, name: str, value) -> None:
        if name not in self.__dict__:
            raise AttributeError(f"A scripted module has no property '{name}'.")
        self.__dict__[name] = tuple(value) if isinstance(value, list) else value

    def widgetRepresentation(self):
        """The module's panel, made at the first call."""
        if self._widget is None:
            self._widget = qSlicerScriptedLoadableModuleWidget(self)
            self._widget.reload()
        return self._widget


class qSlicerScriptedLoadableModuleWidget(qMRMLWidget):
    """The widget that a module's XWidget gets as `parent`; it hands enter and exit on."""

    def __init__(self, module: qSlicerScriptedLoadableModule) -> None:
        super().__init__()
        self._module, self._self, self._entered = module, None, False
        self.setLayout(QtWidgets.QVBoxLayout())
        self.setMRMLScene(slicer.mrmlScene)

    moduleName = property(lambda self: self._module.name)
    isEntered = property(lambda self: self._entered)

    def self(self):
        """The XWidget object."""
        return self._self

    def reload(self) -> None:
        """Make the XWidget of the module's present code and set it up."""
        name = self._module.name + "Widget"
        self._self = getattr(sys.modules[self._module.name], name)(self)
        setattr(slicer.modules, name, self._self)
        self._self.setup()

    def enter(self) -> None:
        self._entered = True
        self._call("enter")

    def exit(self) -> None:
        self._entered = False
        self._call("exit")

    def _call(self, name: str) -> None:
        method = getattr(self._self, name, None)
        if method:
            method()


slicer.qSlicerScriptedLoadableModule = qSlicerScriptedLoadableModule
slicer.qSlicerScriptedLoadableModuleWidget = qSlicerScriptedLoadableModuleWidget


def load(path: Path) -> qSlicerScriptedLoadableModule:
    """Load the scripted module `path` (X.py); the object of its class X is `slicer.modules.XInstance`."""
    path = path.resolve()
    name = path.stem
    if hasattr(slicer.modules, name.lower()):
        return getattr(slicer.modules, name.lower())
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    source = importlib.util.module_from_spec(spec)
    sys.modules[name] = source
    spec.loader.exec_module(source)
    module = qSlicerScriptedLoadableModule(path)
    setattr(slicer.modules, name.lower(), module)
    setattr(slicer.modules, name + "Instance", getattr(source, name)(module))
    slicer.app.moduleManager().register(module)
    return module
