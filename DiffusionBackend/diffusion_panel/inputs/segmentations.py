"""Segmentations: which segments count, and which structure each of them is."""

from __future__ import annotations

from typing import Any

import qt
from slicer.i18n import tr as _

from ..wording import wrapped
from .base import InputField

ROW_HEIGHT = 20  # pixels
LIST_HEIGHT = 90  # pixels; longer lists scroll


class SegmentationInput(InputField):
    """A segmentation and those of its segments that count; all of them at first.

    value() : (node, {name: segment id}), or (node, None) where all segments count.
    """

    types = ("vtkMRMLSegmentationNode",)
    tip = _("Segments that count. Without a mark the segment is left out.")

    def build(self) -> None:
        self.segments = qt.QListWidget()
        self.segments.setToolTip(wrapped(self.tip))
        self.segments.setHorizontalScrollBarPolicy(qt.Qt.ScrollBarAlwaysOff)
        self.segments.hide()
        self.segments.connect("itemChanged(QListWidgetItem*)", self._on_item)
        self.box.addWidget(self.segments)
        self._ids: list[str] = []

    def on_node(self, node: Any) -> None:
        self._setting = True
        self.segments.clear()
        self._ids = list(node.GetSegmentation().GetSegmentIDs()) if node else []
        for segment_id in self._ids:
            item = qt.QListWidgetItem(node.GetSegmentation().GetSegment(segment_id).GetName())
            item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsUserCheckable | qt.Qt.ItemIsSelectable)
            item.setCheckState(qt.Qt.Checked)
            self.segments.addItem(item)
        self.segments.setFixedHeight(min(ROW_HEIGHT * len(self._ids) + 6, LIST_HEIGHT))
        self.segments.setVisible(len(self._ids) > 1)
        self._setting = False

    def chosen(self) -> list[str]:
        """Ids of the segments that count."""
        marked = [self.segments.item(row).checkState() == qt.Qt.Checked for row in range(len(self._ids))]
        return [segment_id for segment_id, on in zip(self._ids, marked) if on]

    def extra(self) -> dict[str, Any]:
        left_out = [s for s in self._ids if s not in self.chosen()]
        return {"left_out": left_out} if left_out else {}

    def set_extra(self, extra: dict[str, Any]) -> None:
        left_out = extra.get("left_out", [])
        self._setting = True
        for row, segment_id in enumerate(self._ids):
            state = qt.Qt.Unchecked if segment_id in left_out else qt.Qt.Checked
            self.segments.item(row).setCheckState(state)
        self._setting = False

    def value(self) -> Any:
        node = self.node()
        if node is None:
            return None
        if len(self.chosen()) == len(self._ids):
            return node
        segmentation = node.GetSegmentation()
        return node, {segmentation.GetSegment(s).GetName(): s for s in self.chosen()}

    def take(self, value: Any) -> None:
        node, names = value if isinstance(value, tuple) else (value, None)
        self.set_node(node)
        self.set_extra({"left_out": [s for s in self._ids if s not in names.values()]} if names else {})

    def focus_widgets(self) -> list[Any]:
        return [self.selector, self.segments]

    def _on_item(self, item: Any) -> None:
        self.notify()


class StructuresInput(InputField):
    """A segmentation with the structure that each segment is; segments without a name are left out.

    value() : (node, {structure: segment id}).
    """

    types = ("vtkMRMLSegmentationNode",)

    def build(self) -> None:
        self.table = qt.QTableWidget(0, 2)
        self.table.setHorizontalHeaderLabels([_("Segment"), _("Structure")])
        self.table.setToolTip(wrapped(_("Which structure each segment is. Delete the name of segments to leave out.")))
        self.table.horizontalHeader().setStretchLastSection(True)
        self.table.verticalHeader().hide()
        self.table.setMaximumHeight(2 * LIST_HEIGHT)
        self.table.setTabKeyNavigation(False)
        self.table.hide()
        self.table.connect("cellChanged(int,int)", self._on_cell)
        self.box.addWidget(self.table)
        self._ids: list[str] = []

    def on_node(self, node: Any) -> None:
        self._setting = True
        self._ids = list(node.GetSegmentation().GetSegmentIDs()) if node else []
        self.table.setRowCount(len(self._ids))
        for row, segment_id in enumerate(self._ids):
            name = node.GetSegmentation().GetSegment(segment_id).GetName()
            fixed = qt.QTableWidgetItem(name)
            fixed.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable)
            self.table.setItem(row, 0, fixed)
            self.table.setItem(row, 1, qt.QTableWidgetItem(name))
        self.table.setVisible(bool(self._ids))
        self._setting = False

    def names(self) -> dict[str, str]:
        """Segment id -> structure; "" for a segment that is left out."""
        return {s: self.table.item(row, 1).text().strip() for row, s in enumerate(self._ids)}

    def extra(self) -> dict[str, Any]:
        return {"structures": self.names()} if self._ids else {}

    def set_extra(self, extra: dict[str, Any]) -> None:
        names = extra.get("structures", {})
        self._setting = True
        for row, segment_id in enumerate(self._ids):
            if segment_id in names:
                self.table.item(row, 1).setText(names[segment_id])
        self._setting = False

    def value(self) -> Any:
        node = self.node()
        named = {name: segment_id for segment_id, name in self.names().items() if name}
        return (node, named) if node else None

    def take(self, value: Any) -> None:
        node, names = value if isinstance(value, tuple) else (value, None)
        self.set_node(node)
        if names:
            by_id = {segment_id: name for name, segment_id in names.items()}
            self.set_extra({"structures": {s: by_id.get(s, "") for s in self._ids}})

    def focus_widgets(self) -> list[Any]:
        return [self.selector, self.table]

    def _on_cell(self, row: int, column: int) -> None:
        self.notify()
