"""Which trained model serves each slot of a method: bundled ones and those in the user's folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from . import form as widgets
from .declarations import model_slots, resource
from .wording import readable, wrapped

USER = Path.home() / ".diffusionmodels" / "models"
MUST_AGREE = ("interface", "dims", "channels", "unit")


def cards() -> dict[str, dict[str, Any]]:
    """The readable model cards by id; a model of the user hides the bundled one of the same id."""
    folders = [resource("Models"), Path(os.environ.get("DIFFUSIONMODELS_MODELS") or USER)]
    found = {}
    for folder in folders:
        for file in sorted(folder.glob("*/card.json")):
            with suppress(OSError, ValueError):
                card = json.loads(file.read_text(encoding="utf-8"))
                found[file.parent.name] = card
    return found


def fitting(slot: dict[str, Any], known: dict[str, dict[str, Any]]) -> list[str]:
    """Ids of the models that can serve `slot`, its default first."""
    fit = [i for i, card in known.items() if all(card.get(f) == slot[f] for f in MUST_AGREE)]
    return sorted(fit, key=lambda i: (i != slot["default"], i))


class ModelForm:
    """One row per model slot: the model and its licence. holder : widget with a vertical layout."""

    def __init__(self, holder: Any, changed: Callable[[], None]) -> None:
        self.holder, self.changed = holder, changed
        self.method: dict[str, Any] = {}
        self.combos: dict[str, Any] = {}
        self._licences: dict[str, Any] = {}
        self._cards: dict[str, dict[str, Any]] = {}
        self._page: Any = None
        self._setting = False

    def show(self, method: dict[str, Any]) -> None:
        """Build the rows of `method` with the default models."""
        if self._page is not None:
            widgets.discard(self._page)
        self.method, self.combos, self._licences = method, {}, {}
        self._cards = cards() if method["models"] else {}
        self._page = qt.QWidget()
        form = widgets.new_form(self._page)
        for slot in method["models"]:
            self._row(form, slot)
        self.holder.layout().addWidget(self._page)
        self._page.setVisible(bool(method["models"]))
        self._show_licences()

    def values(self) -> dict[str, str]:
        """Slot -> id of the chosen model."""
        return {name: combo.currentText for name, combo in self.combos.items() if combo.currentText}

    def set_values(self, models: dict[str, str]) -> None:
        """Choose these models where they are still there."""
        self._setting = True
        for name, combo in self.combos.items():
            index = combo.findText(models.get(name, ""))
            if index >= 0:
                combo.setCurrentIndex(index)
        self._setting = False
        self._show_licences()

    def follow(self, parameters: dict[str, Any]) -> None:
        """Disable the slots that a run with these parameters doesn't use."""
        used = {s["name"] for s in model_slots(self.method["id"], parameters)} if self.method else set()
        for name, combo in self.combos.items():
            combo.enabled = name in used

    def problems(self, parameters: dict[str, Any]) -> list[str]:
        """A sentence for each slot in use that no model serves."""
        text = _("No model for '{slot}' is installed: '{model}' is missing. Install the extension again.")
        used = model_slots(self.method["id"], parameters) if self.method else []
        return [text.format(slot=s["name"], model=s["default"]) for s in used if not self.combos[s["name"]].currentText]

    def _row(self, form: Any, slot: dict[str, Any]) -> None:
        combo = qt.QComboBox()
        widgets.shrink(combo)
        for model in fitting(slot, self._cards):
            combo.addItem(model)
        combo.setObjectName(f"model.{slot['name']}")
        licence = qt.QLabel()
        licence.setWordWrap(True)
        self.combos[slot["name"]], self._licences[slot["name"]] = combo, licence
        form_text = _("Trained model for this part: {interface}, {dims}D, {channels} channel(s), {unit}.")
        tip = form_text.format(**{f: slot[f] for f in MUST_AGREE})
        widgets.add_row(form, _("Model '{slot}'").format(slot=readable(slot["name"])), combo, wrapped(tip))
        form.addRow(licence)
        combo.connect("currentIndexChanged(int)", self._on_changed)

    def _show_licences(self) -> None:
        for name, label in self._licences.items():
            card = self._cards.get(self.combos[name].currentText)
            licence = _("Licence: {licence}.").format(licence=card.get("licence", _("unknown"))) if card else ""
            label.setText(licence or _("No model is installed."))
            label.setToolTip(wrapped(card.get("attribution", "")) if card else "")

    def _on_changed(self, index: int) -> None:
        if not self._setting:
            self._show_licences()
            self.changed()
