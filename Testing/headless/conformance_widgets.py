"""Widgets that only Slicer's own tests ask for: `conformance.py` puts them into `ctk` and `slicer` for that lane alone.

They keep values within their bounds and tell of changes. No panel shows them, so they are not drawn like their models.
"""

from __future__ import annotations

import ctk
import slicer
from PySide6 import QtCore, QtGui, QtWidgets

from .members import member
from .mrml_widgets import qMRMLNodeComboBox, qMRMLWidget


class _Bounded(QtWidgets.QWidget):
    """Numbers between a minimum and a maximum; subclasses name them in `_values` and tell by `_tell`."""

    stands_for_cpp = True
    singleStep, setSingleStep = member(float, "singleStep", 1.0)
    minimum, setMinimum = member(float, "minimum", 0.0, "_bound")
    maximum, setMaximum = member(float, "maximum", 99.0, "_bound")
    _values: tuple[float, ...] = (0.0,)

    def setRange(self, minimum: float, maximum: float) -> None:
        self._minimum, self._maximum = minimum, maximum
        self._bound()

    def _bound(self) -> None:
        self._set(*self._values)

    def _set(self, *values: float) -> None:
        values = tuple(min(max(value, self.minimum), self.maximum) for value in values)
        if values != self._values:
            self._values = values
            self._tell(*values)


class ctkDoubleSlider(_Bounded):
    """A slider for one number."""

    valueChanged = QtCore.Signal(float)
    value = QtCore.Property(float, lambda self: self._values[0], _Bounded._set)

    def _tell(self, value: float) -> None:
        self.valueChanged.emit(value)


class _Range(_Bounded):
    """Two numbers, the first not above the second."""

    valuesChanged = QtCore.Signal(float, float)
    _values = (0.0, 99.0)

    def setValues(self, low: float, high: float) -> None:
        self._set(min(low, high), max(low, high))

    minimumValue = QtCore.Property(
        float, lambda self: self._values[0], lambda self, value: self._set(value, max(value, self._values[1])))
    maximumValue = QtCore.Property(
        float, lambda self: self._values[1], lambda self, value: self._set(min(value, self._values[0]), value))

    def _tell(self, low: float, high: float) -> None:
        self.valuesChanged.emit(low, high)


class ctkDoubleRangeSlider(_Range):
    """A slider with two handles."""


class ctkRangeWidget(_Range):
    """A slider with two handles and a spin box for each."""

    decimals, setDecimals = member(int, "decimals", 0)


class ctkDirectoryButton(QtWidgets.QPushButton):
    """A folder to pick."""

    stands_for_cpp = True
    directoryChanged = QtCore.Signal(str)
    _folder = "."

    def setDirectory(self, path: str) -> None:
        path = QtCore.QDir(path).absolutePath()
        if path != QtCore.QDir(self._folder).absolutePath():
            self._folder = path
            self.directoryChanged.emit(path)

    directory = QtCore.Property(str, lambda self: self._folder, setDirectory)


class ctkColorPickerButton(QtWidgets.QPushButton):
    """A colour to pick; black at first."""

    stands_for_cpp = True
    colorChanged = QtCore.Signal(QtGui.QColor)
    color, setColor = member(QtGui.QColor, "color", QtGui.QColor("black"), "_tell")

    def _tell(self) -> None:
        self.colorChanged.emit(self.color)


class _SubjectHierarchy(qMRMLNodeComboBox):
    """The nodes of the subject hierarchy; in the application its signals tell the item's number."""

    currentItemChanged = QtCore.Signal(str)
    currentItemsChanged = QtCore.Signal(str)

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self.noneEnabled = True
        self.currentNodeIDChanged.connect(self.currentItemChanged)
        self.currentNodeIDChanged.connect(self.currentItemsChanged)

    def clearSelection(self) -> None:
        self.setCurrentNode(None)


# Classes that add nothing which the tests read: name -> base, in this order.
_PLAIN = {"ctkCheckBox": QtWidgets.QCheckBox, "ctkComboBox": QtWidgets.QComboBox,
          "ctkCheckablePushButton": QtWidgets.QPushButton, "ctkDoubleSpinBox": QtWidgets.QDoubleSpinBox,
          "qMRMLSpinBox": QtWidgets.QDoubleSpinBox, "qMRMLSliderWidget": ctk.ctkSliderWidget,
          "qMRMLRangeWidget": ctkRangeWidget, "qMRMLSubjectHierarchyComboBox": _SubjectHierarchy,
          "qMRMLSubjectHierarchyTreeView": _SubjectHierarchy, "qSlicerWidget": qMRMLWidget}


def install() -> None:
    """Put every widget into the module that has it in the application."""
    kinds = {name: type(name, (base,), {"stands_for_cpp": True}) for name, base in _PLAIN.items()}
    kinds |= {name: kind for name, kind in globals().items() if name.startswith(("ctkD", "ctkC", "ctkR"))}
    for name, kind in kinds.items():
        setattr(ctk if name.startswith("ctk") else slicer, name, kind)
