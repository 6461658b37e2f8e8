"""`qt.QUiLoader`: knows the stand-in's widgets and makes the connections of a .ui file whose types are VTK's."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from PySide6 import QtCore, QtUiTools


class UiLoader(QtUiTools.QUiLoader):
    """Loads a .ui file; a class that the stand-in lacks raises instead of becoming a plain widget."""

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        import ctk
        import slicer

        for kind in (ctk.ctkCollapsibleButton, ctk.ctkSliderWidget, ctk.ctkPathLineEdit, slicer.qMRMLWidget,
                     slicer.qMRMLNodeComboBox):
            self.registerCustomWidget(kind)

    def load(self, device, parent=None):
        path = device.fileName() if hasattr(device, "fileName") else str(device)
        tree = ET.parse(path)
        unknown = {w.get("class") for w in tree.iter("widget")} - set(self.availableWidgets())
        if unknown:
            raise ValueError(f"'{path}' has widgets that the stand-in lacks: {', '.join(sorted(unknown))}.")
        top = super().load(device, parent)
        for connection in tree.iter("connection"):
            sender, signal, receiver, slot = (connection.findtext(k) for k in ("sender", "signal", "receiver", "slot"))
            if "vtk" in signal:
                source, target = _named(top, sender), _named(top, receiver)
                getattr(source, signal.split("(")[0]).connect(getattr(target, slot.split("(")[0]))
        return top


def _named(top, name: str) -> QtCore.QObject:
    found = top if top.objectName == name else top.findChild(QtCore.QObject, name)
    if found is None:
        raise ValueError(f"A connection of the .ui file names '{name}', and no widget has this name.")
    return found
