"""What every input widget offers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer


class InputField:
    """One declared input.

    widget : what the form shows. `value()` is what `logic.run` takes for this input, None where nothing is chosen.
    `node()` and `extra()` together are what a scene stores: the chosen node, and plain JSON values for the rest.
    """

    types: tuple[str, ...] = ()

    def __init__(self, declared: dict[str, Any], changed: Callable[[], None]) -> None:
        self.declared, self._changed, self._setting = declared, changed, False
        self.widget = qt.QWidget()
        self.box = qt.QVBoxLayout(self.widget)
        self.box.setContentsMargins(0, 0, 0, 0)
        self.selector = None
        if self.types:
            self.selector = node_selector(self.types)
            self.selector.connect("currentNodeChanged(vtkMRMLNode*)", self._on_node)
            self.box.addWidget(self.selector)
        self.build()

    def build(self) -> None:
        """Add the widgets beyond the node selector."""

    def node(self) -> Any:
        """The chosen node, or None."""
        return self.selector.currentNode() if self.selector else None

    def set_node(self, node: Any) -> None:
        """Choose a node, or None."""
        if self.selector:
            self.selector.setCurrentNode(node)

    def extra(self) -> dict[str, Any]:
        """What was chosen beside the node, as JSON values; empty where nothing was."""
        return {}

    def set_extra(self, extra: dict[str, Any]) -> None:
        """Take what `extra` gave."""

    def value(self) -> Any:
        """The input as `logic.run` takes it."""
        return self.node()

    def take(self, value: Any) -> None:
        """Choose what `value()` gave, or nothing for None."""
        self.set_node(value)

    def refresh(self) -> None:
        """Follow what has changed inside the chosen node; choices that still make sense stay."""
        extra, self._setting = self.extra(), True
        self.on_node(self.node())
        self.set_extra(extra)
        self._setting = False

    def focus_widgets(self) -> list[Any]:
        """The widgets that take the keyboard, in order."""
        return [self.selector] if self.selector else []

    def release(self) -> None:
        """Let go of the scene: the widget is about to be deleted."""
        if self.selector:
            self._setting = True
            self.selector.setMRMLScene(None)

    def on_node(self, node: Any) -> None:
        """Show what depends on the chosen node."""

    def notify(self) -> None:
        """Tell the panel that this input has changed."""
        if not self._setting:
            self._changed()

    def _on_node(self, node: Any) -> None:
        self.on_node(node)
        self.notify()


def node_selector(types: tuple[str, ...]) -> Any:
    """A node selector of the scene for these classes, without their subclasses; nothing is chosen at first."""
    selector = slicer.qMRMLNodeComboBox()
    selector.nodeTypes = list(types)
    selector.showChildNodeTypes = False
    selector.noneEnabled = True
    selector.addEnabled = False
    selector.removeEnabled = False
    selector.renameEnabled = False
    narrow(selector)
    selector.setMRMLScene(slicer.mrmlScene)
    return selector


def narrow(selector: Any) -> None:
    """Let a node selector become narrower than the longest name; the text is elided."""
    selector.sizeAdjustPolicy = qt.QComboBox.AdjustToMinimumContentsLengthWithIcon
