"""Inputs that aren't nodes: a text and a file."""

from __future__ import annotations

from typing import Any

import ctk
import qt
from slicer.i18n import tr as _

from .base import InputField

LONGEST = 10000
HEIGHT = 90  # pixels


class TextInput(InputField):
    """A text, typed here or taken from a text node."""

    types = ("vtkMRMLTextNode",)

    def build(self) -> None:
        self.selector.noneDisplay = _("Text below")
        self.edit = qt.QPlainTextEdit()
        self.edit.setTabChangesFocus(True)
        self.edit.setMaximumHeight(HEIGHT)
        self.edit.connect("textChanged()", self._on_text)
        self.counter = qt.QLabel()
        self.box.addWidget(self.edit)
        self.box.addWidget(self.counter)
        self._count()

    def on_node(self, node: Any) -> None:
        self.edit.setVisible(node is None)
        self.counter.setVisible(node is None)

    def extra(self) -> dict[str, Any]:
        return {"text": self.edit.plainText} if self.edit.plainText else {}

    def set_extra(self, extra: dict[str, Any]) -> None:
        if self.edit.plainText != extra.get("text", ""):
            self.edit.setPlainText(extra.get("text", ""))

    def value(self) -> Any:
        return self.node() or self.edit.plainText.strip() or None

    def take(self, value: Any) -> None:
        typed = isinstance(value, str)
        self.set_node(None if typed else value)
        self.set_extra({"text": value} if typed else {})

    def focus_widgets(self) -> list[Any]:
        return [self.selector, self.edit]

    def _on_text(self) -> None:
        self._count()
        self.notify()

    def _count(self) -> None:
        text = _("{count} of at most {longest} characters")
        self.counter.setText(text.format(count=len(self.edit.plainText), longest=LONGEST))


class FileInput(InputField):
    """A file or a folder on this computer."""

    def build(self) -> None:
        self.path = path_edit(self._on_path)
        self.box.addWidget(self.path)

    def extra(self) -> dict[str, Any]:
        return {"path": self.path.currentPath} if self.path.currentPath else {}

    def set_extra(self, extra: dict[str, Any]) -> None:
        self.path.currentPath = extra.get("path", "")

    def value(self) -> Any:
        return self.path.currentPath or None

    def take(self, value: Any) -> None:
        self.set_extra({"path": str(value)} if value else {})

    def focus_widgets(self) -> list[Any]:
        return [self.path]

    def _on_path(self, path: str) -> None:
        self.notify()


def path_edit(changed: Any) -> Any:
    """A line for a path with a button that opens the file dialog."""
    edit = ctk.ctkPathLineEdit()
    edit.setSizePolicy(qt.QSizePolicy.Expanding, qt.QSizePolicy.Fixed)
    edit.connect("currentPathChanged(QString)", changed)
    return edit
