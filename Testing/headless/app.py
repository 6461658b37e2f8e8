"""`slicer.app`: the Qt application with what `slicer.util` and the modules ask of it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from PySide6 import QtCore, QtWidgets

from . import FOLDER, pythonqt

pythonqt.install()


class CommandOptions:
    """The command line's options as attributes."""

    def __init__(self, main_window: bool, testing: bool) -> None:
        self.noMainWindow = not main_window
        self.testingEnabled = testing
        self.runPythonAndExit = testing


class ModuleManager(QtCore.QObject):
    """The scripted modules and their life."""

    moduleAboutToBeUnloaded = QtCore.Signal(str)

    def __init__(self, parent) -> None:
        super().__init__(parent)
        self._modules: dict = {}

    def register(self, module) -> None:
        """Take a module that was loaded."""
        self._modules[module.name] = module

    def modulesNames(self) -> tuple[str, ...]:
        return tuple(self._modules)

    def module(self, name: str):
        return self._modules.get(name)


class Application(QtWidgets.QApplication):
    """The application object; scene and logics exist from its construction on."""

    startupCompleted = QtCore.Signal()

    def __init__(self, main_window: bool, testing: bool) -> None:
        super().__init__(["Slicer"])
        self.setOrganizationName("DiffusionModels")
        self.setApplicationName("Slicer")
        self.setApplicationVersion("5.13.0")
        self.majorVersion, self.minorVersion, self.revision = 5, 13, "31053"
        self.slicerHome = str(FOLDER)
        self.temporaryPath = tempfile.mkdtemp(prefix="headless-")
        QtCore.QSettings.setDefaultFormat(QtCore.QSettings.Format.IniFormat)
        for scope in (QtCore.QSettings.Scope.UserScope, QtCore.QSettings.Scope.SystemScope):
            QtCore.QSettings.setPath(QtCore.QSettings.Format.IniFormat, scope, self.temporaryPath + "/settings")
        self._options = CommandOptions(main_window, testing)
        self._environment = QtCore.QProcessEnvironment.systemEnvironment()
        self._managers: dict = {"modules": ModuleManager(self)}
        from .scene import Scene

        self._scene = Scene(self.temporaryPath)

    def mrmlScene(self):
        return self._scene.scene

    def applicationLogic(self):
        return self._scene.app_logic

    def moduleLogic(self, name: str):
        return self._scene.logics.get(name)

    def moduleManager(self) -> ModuleManager:
        return self._managers["modules"]

    def coreIOManager(self):
        """Readers and writers by file type."""
        if "io" not in self._managers:
            from .io_manager import IOManager

            self._managers["io"] = IOManager(self._scene)
        return self._managers["io"]

    ioManager = coreIOManager

    def layoutManager(self):
        """The views, made at the first call; None without a main window."""
        if self._options.noMainWindow:
            return None
        if "layout" not in self._managers:
            from .layout_manager import LayoutManager

            self._managers["layout"] = LayoutManager(self._scene.scene, self._scene.app_logic)
        return self._managers["layout"]

    def commandOptions(self) -> CommandOptions:
        return self._options

    def testingEnabled(self) -> bool:
        return self._options.testingEnabled

    def settings(self) -> QtCore.QSettings:
        return QtCore.QSettings()

    userSettings = settings

    def startupEnvironment(self) -> QtCore.QProcessEnvironment:
        return self._environment

    def pauseRender(self) -> None:
        """Views draw only when somebody looks: nothing to hold back."""

    resumeRender = pauseRender

    def clean_up(self) -> None:
        """Tell the modules that the end is near and remove the temporary folder."""
        for name in self.moduleManager().modulesNames():
            self.moduleManager().moduleAboutToBeUnloaded.emit(name)
        shutil.rmtree(self.temporaryPath, ignore_errors=True)


def make_application(main_window: bool, testing: bool) -> Application:
    """Make the application and fill the `slicer` package."""
    app = Application(main_window, testing)
    import slicer

    slicer.app, slicer.mrmlScene = app, app.mrmlScene()
    from . import mrml_widgets
    from .modules import LoadableModule, ModuleFactory
    from .scene import LOGICS

    slicer.qMRMLWidget, slicer.qMRMLNodeComboBox = mrml_widgets.qMRMLWidget, mrml_widgets.qMRMLNodeComboBox
    slicer.modules = ModuleFactory()
    for name in LOGICS:
        setattr(slicer.modules, name.lower(), LoadableModule(name, app.moduleLogic(name)))
    import slicer.util

    Path(app.temporaryPath).chmod(0o700)
    return app
