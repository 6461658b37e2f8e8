"""Photographs of widgets, and the palettes they are taken in."""

from __future__ import annotations

from pathlib import Path

from PySide6 import QtCore, QtGui, QtWidgets

_DARK = {"Window": "#353535", "WindowText": "#ffffff", "Base": "#232323", "AlternateBase": "#353535",
         "Text": "#ffffff", "Button": "#353535", "ButtonText": "#ffffff", "BrightText": "#ff5050",
         "ToolTipBase": "#202020", "ToolTipText": "#ffffff", "PlaceholderText": "#a0a0a0", "Link": "#5aaaff",
         "Highlight": "#2a82da", "HighlightedText": "#ffffff", "Light": "#505050", "Midlight": "#454545",
         "Mid": "#2a2a2a", "Dark": "#1e1e1e", "Shadow": "#101010"}
_DISABLED = ("WindowText", "Text", "ButtonText")


def set_palette(name: str) -> None:
    """Show the application in the "light" or in the "dark" palette."""
    if name not in ("light", "dark"):
        raise ValueError(f"There is no palette '{name}'; give light or dark.")
    QtWidgets.QApplication.setStyle("Fusion")
    style = QtWidgets.QApplication.style()
    colours = QtGui.QPalette(style.standardPalette())
    if name == "dark":
        for role, colour in _DARK.items():
            colours.setColor(getattr(QtGui.QPalette.ColorRole, role), QtGui.QColor(colour))
        for role in _DISABLED:
            colours.setColor(QtGui.QPalette.ColorGroup.Disabled, getattr(QtGui.QPalette.ColorRole, role),
                             QtGui.QColor("#808080"))
    QtWidgets.QApplication.setPalette(colours)


def grab(widget: QtWidgets.QWidget, path: Path, width: int, height: int | None) -> Path:
    """Draw the widget as the module panel shows it, `width` pixels wide: what does not fit is cut off."""
    area = QtWidgets.QScrollArea()
    area.setFrameShape(QtWidgets.QFrame.Shape.NoFrame)
    area.setWidgetResizable(True)
    area.setVerticalScrollBarPolicy(QtCore.Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setWidget(widget)
    area.resize(width, height or 100)
    area.show()
    widget.show()
    _settle()
    if height is None:
        heights = (widget.minimumHeight, widget.minimumSizeHint.height(), widget.sizeHint.height(),
                   widget.heightForWidth(width))
        area.resize(width, max(heights))
        _settle()
    path.parent.mkdir(parents=True, exist_ok=True)
    saved = area.grab().save(str(path))
    area.takeWidget()
    if not saved:
        raise OSError(f"The picture '{path}' could not be written.")
    return path


def _settle() -> None:
    for _ in range(3):  # layouts settle in steps
        QtWidgets.QApplication.processEvents()
