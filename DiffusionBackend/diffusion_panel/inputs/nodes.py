"""Inputs that are one node: volumes of all sorts, sequences, tables."""

from __future__ import annotations

from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from ..wording import wrapped
from .base import InputField


class VolumeInput(InputField):
    """A scalar volume. Where it is shown by a sequence browser, all frames can be asked for."""

    types = ("vtkMRMLScalarVolumeNode",)

    def build(self) -> None:
        self.all_frames = qt.QCheckBox()
        self.all_frames.setText(_("All frames of the sequence"))
        self.all_frames.setToolTip(wrapped(_("Run on every frame; the result is a sequence that follows the browser.")))
        self.all_frames.hide()
        self.all_frames.connect("toggled(bool)", self._on_toggled)
        self.box.addWidget(self.all_frames)

    def on_node(self, node: Any) -> None:
        browser = node and slicer.modules.sequences.logic().GetFirstBrowserNodeForProxyNode(node)
        self.all_frames.setVisible(bool(browser))
        if not browser:
            self.all_frames.setChecked(False)

    def extra(self) -> dict[str, Any]:
        return {"all_frames": True} if self.all_frames.checked else {}

    def set_extra(self, extra: dict[str, Any]) -> None:
        self.all_frames.setChecked(bool(extra.get("all_frames")))

    def focus_widgets(self) -> list[Any]:
        return [self.selector, self.all_frames]

    def _on_toggled(self, checked: bool) -> None:
        self.notify()


class VectorVolumeInput(InputField):
    """A volume with several values per voxel, such as a colour image."""

    types = ("vtkMRMLVectorVolumeNode",)


class ComplexVolumeInput(InputField):
    """Complex values, kept in a volume with two components (real, imaginary)."""

    types = ("vtkMRMLVectorVolumeNode",)


class SequenceInput(InputField):
    """A sequence of volumes."""

    types = ("vtkMRMLSequenceNode", "vtkMRMLSequenceBrowserNode")


class TableInput(InputField):
    """A table."""

    types = ("vtkMRMLTableNode",)
