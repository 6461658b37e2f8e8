"""Measured projections: a node that carries its geometry, or a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from ..wording import wrapped
from .base import InputField
from .fields import path_edit

GEOMETRY = "DiffusionModels.Geometry"


class ProjectionsInput(InputField):
    """A volume (slice, view, bin) with the attribute DiffusionModels.Geometry, or an `.npz` file.

    A file counts only while no node is chosen."""

    types = ("vtkMRMLScalarVolumeNode",)

    def build(self) -> None:
        self.selector.addAttribute(self.types[0], GEOMETRY)
        self.selector.noneDisplay = _("None, or the file below")
        self.path = path_edit(self._on_path)
        self.path.nameFilters = [_("Projections") + " (*.npz)"]
        self.path.setToolTip(wrapped(_("File .npz with the arrays 'sinogram' (views × bins) and 'geometry' (JSON).")))
        self.summary = qt.QLabel()
        self.summary.setWordWrap(True)
        self.summary.hide()
        self.box.addWidget(self.path)
        self.box.addWidget(self.summary)

    def on_node(self, node: Any) -> None:
        self.path.setVisible(node is None)
        text = geometry_text(node.GetAttribute(GEOMETRY)) if node else ""
        self.summary.setText(text)
        self.summary.setVisible(bool(text))

    def extra(self) -> dict[str, Any]:
        return {"path": self.path.currentPath} if self.path.currentPath else {}

    def set_extra(self, extra: dict[str, Any]) -> None:
        self.path.currentPath = extra.get("path", "")

    def value(self) -> Any:
        path = self.path.currentPath
        return self.node() or (Path(path) if path else None)

    def take(self, value: Any) -> None:
        is_path = isinstance(value, (str, Path))
        self.set_node(None if is_path else value)
        self.set_extra({"path": str(value)} if is_path else {})

    def focus_widgets(self) -> list[Any]:
        return [self.selector, self.path]

    def _on_path(self, path: str) -> None:
        self.notify()


def geometry_text(attribute: str | None) -> str:
    """One line on a stored CT geometry: type, views, bins; "" where it can't be read."""
    try:
        geometry = json.loads(attribute or "")
        views = len(geometry["angles_deg"])
        return _("{type} beam, {views} views, {bins} bins of {mm:g} mm").format(
            type=geometry["type"], views=views, bins=geometry["bins"], mm=geometry["bin_mm"]
        )
    except (ValueError, KeyError, TypeError):
        return ""
