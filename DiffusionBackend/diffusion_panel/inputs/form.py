"""The inputs of a method as a form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
from slicer.i18n import tr as _

from .. import form as widgets
from ..declarations import spoken
from ..wording import readable, wrapped
from .fields import FileInput, TextInput
from .nodes import ComplexVolumeInput, SequenceInput, TableInput, VectorVolumeInput, VolumeInput
from .projections import ProjectionsInput
from .segmentations import SegmentationInput, StructuresInput

VOLUMES = ("volume", "vector volume", "complex volume")
KINDS = {
    "volume": VolumeInput,
    "vector volume": VectorVolumeInput,
    "complex volume": ComplexVolumeInput,
    "sequence": SequenceInput,
    "segmentation": SegmentationInput,
    "structures": StructuresInput,
    "projections": ProjectionsInput,
    "table": TableInput,
    "text": TextInput,
    "file": FileInput,
}


class InputForm:
    """One row per declared input. holder : widget with a vertical layout. changed : called after every change."""

    def __init__(self, holder: Any, changed: Callable[[], None]) -> None:
        self.holder, self.changed = holder, changed
        self.fields: dict[str, Any] = {}
        self._page: Any = None

    def show(self, method: dict[str, Any]) -> None:
        """Build the fields of `method`, empty."""
        if self._page is not None:
            self.release()
            widgets.discard(self._page)
        self._page = qt.QWidget()
        form = widgets.new_form(self._page)
        self.fields = {}
        for declared in method["inputs"]:
            field = KINDS[declared["kind"]](declared, self.changed)
            field.widget.setObjectName(f"input.{declared['name']}")
            self.fields[declared["name"]] = field
            widgets.add_row(form, title(declared), field.widget, wrapped(help_text(declared)))
        self.holder.layout().addWidget(self._page)

    def fill(self, nodes: dict[str, Any], needed_alone: bool) -> None:
        """Choose `nodes` where nothing is chosen yet; with `needed_alone` not for optional inputs."""
        for name, field in self.fields.items():
            if field.value() is None and (field.declared["required"] or not needed_alone):
                field.set_node(nodes.get(name))

    def suggest(self, node: Any) -> None:
        """Choose `node` for the first needed volume, where nothing is chosen at all."""
        if node is None or any(field.value() is not None for field in self.fields.values()):
            return
        needed = [f for f in self.fields.values() if f.declared["required"] and f.declared["kind"] == "volume"]
        if needed and node.GetClassName() in needed[0].types:
            needed[0].set_node(node)

    def refresh(self) -> None:
        """Follow what other modules have changed in the chosen nodes."""
        for field in self.fields.values():
            field.refresh()

    def release(self) -> None:
        """Let go of the scene: the fields are about to be deleted."""
        for field in self.fields.values():
            field.release()

    def clear(self) -> None:
        """Choose nothing, so that no widget holds on to a node of a scene that closes."""
        for field in self.fields.values():
            field.set_node(None)

    def values(self) -> dict[str, Any]:
        """What `logic.run` takes: the inputs that are given, by name."""
        given = {name: field.value() for name, field in self.fields.items()}
        return {name: value for name, value in given.items() if value is not None}

    def nodes(self) -> dict[str, Any]:
        """The chosen nodes by input name; None where none is chosen."""
        return {name: field.node() for name, field in self.fields.items()}

    def extras(self) -> dict[str, dict[str, Any]]:
        """What was chosen beside nodes, by input name."""
        extras = {name: field.extra() for name, field in self.fields.items()}
        return {name: extra for name, extra in extras.items() if extra}

    def restore(self, nodes: dict[str, Any], extras: dict[str, dict[str, Any]]) -> None:
        """Take nodes and extras as `nodes` and `extras` gave them."""
        for name, field in self.fields.items():
            field.set_node(nodes.get(name))
            field.set_extra(extras.get(name, {}))

    def volume(self) -> Any:
        """The first chosen volume; None without one."""
        volumes = [f.node() for f in self.fields.values() if f.declared["kind"] in VOLUMES]
        return next((node for node in volumes if node is not None), None)

    def declared(self) -> list[tuple[dict[str, Any], Any]]:
        """Pairs of declaration and field."""
        return [(field.declared, field) for field in self.fields.values()]

    def take(self, values: dict[str, Any]) -> None:
        """Take values as `logic.run` does: what isn't named is left empty."""
        for name, field in self.fields.items():
            field.take(values.get(name))

    def all_frames(self) -> bool:
        """Whether a run on every frame of a sequence is asked for."""
        return any(field.extra().get("all_frames") for field in self.fields.values())

    def focus_widgets(self) -> list[Any]:
        """The widgets that take the keyboard, in order."""
        return [w for field in self.fields.values() for w in field.focus_widgets()]


def title(declared: dict[str, Any]) -> str:
    """ "CT (HU)", "Sinogram (optional)"."""
    marks = [declared["unit"]] if declared["unit"] else []
    marks += [] if declared["required"] else [_("optional")]
    return readable(declared["name"]) + (f" ({', '.join(marks)})" if marks else "")


def help_text(declared: dict[str, Any]) -> str:
    """Help of an input, its kind, and whether it may be left out."""
    need = _("needed") if declared["required"] else _("optional")
    kind = _("{kind}, {need}").format(kind=spoken(declared["kind"].capitalize()), need=need)
    return f"{declared['help']} ({kind}.)"
