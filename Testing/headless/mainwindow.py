"""One window for photographs: the module panel on the left, the views of the layout on the right."""

from __future__ import annotations

from PySide6 import QtCore, QtWidgets

LABEL = "Headless host: real MRML and views, stand-in widgets. Not the Slicer application."  # also without a caption


class MainWindow(QtWidgets.QMainWindow):
    """Panel and views side by side; `photograph` writes what a user would see."""

    def __init__(self, layout_manager, panel: QtWidgets.QWidget | None = None, panel_width: int = 420) -> None:
        super().__init__()
        self.setWindowTitle("Headless host")
        self._panel_area = QtWidgets.QScrollArea()
        self._panel_area.setWidgetResizable(True)
        self._panel_area.setHorizontalScrollBarPolicy(QtCore.Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._panel_area.setFixedWidth(panel_width)
        self._views = layout_manager.viewport()
        centre = QtWidgets.QWidget()
        row = QtWidgets.QHBoxLayout(centre)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._panel_area)
        row.addWidget(self._views, 1)
        self.setCentralWidget(centre)
        self.statusBar().addWidget(QtWidgets.QLabel(LABEL))
        if panel is not None:
            self.show_panel(panel)

    def show_panel(self, panel: QtWidgets.QWidget) -> None:
        """Put a module's widget into the left side; the former one is taken out, not deleted."""
        self._panel_area.takeWidget()
        self._panel_area.setWidget(panel)
        panel.show()

    def take_apart(self) -> None:
        """Give panel and views back before the window goes; they would go with it."""
        self._panel_area.takeWidget()
        self._views.setParent(None)

    def photograph(self, path: str, width: int = 1280, height: int = 800) -> None:
        """Draw the whole window at the given size and write it as PNG."""
        self.resize(width, height)
        self.show()
        for _ in range(3):  # layouts settle, then views draw
            QtWidgets.QApplication.processEvents()
        if not self.grab().save(str(path)):
            raise OSError(f"The photograph could not be written to '{path}'.")
