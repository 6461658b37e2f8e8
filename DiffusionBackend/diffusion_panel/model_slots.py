"""Which trained model serves each slot of a method: bundled ones and those in the user's folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
from slicer.i18n import tr as _

from . import form as widgets
from . import weights
from .declarations import model_slots
from .wording import readable, wrapped


def fitting(slot: dict[str, Any], known: dict[str, weights.Model]) -> list[str]:
    """Ids of the models that can serve `slot`, its default first."""
    fit = [i for i, model in known.items() if not model.problem and weights.fits(slot, model.card)]
    return sorted(fit, key=lambda i: (i != slot["default"], i))


class ModelForm:
    """One row per model slot: the model, its licence, and a button to accept it where it asks. holder : widget with a
    vertical layout."""

    def __init__(self, holder: Any, changed: Callable[[], None]) -> None:
        self.holder, self.changed = holder, changed
        self.method: dict[str, Any] = {}
        self.combos: dict[str, Any] = {}
        self._licences: dict[str, Any] = {}
        self.accept_buttons: dict[str, Any] = {}
        self._models: dict[str, weights.Model] = {}
        self._page: Any = None
        self._setting = False

    def show(self, method: dict[str, Any]) -> None:
        """Build the rows of `method` with the default models."""
        if self._page is not None:
            widgets.discard(self._page)
        self.method, self.combos, self._licences, self.accept_buttons = method, {}, {}, {}
        self._models = {m.id: m for m in weights.models()} if method["models"] else {}
        self._page = qt.QWidget()
        form = widgets.new_form(self._page)
        for slot in method["models"]:
            self._row(form, slot)
        self.holder.layout().addWidget(self._page)
        self._page.setVisible(bool(method["models"]))
        self._show_licences()

    def refresh(self) -> None:
        """Look again which models there are; what was chosen stays so where it is still there."""
        if self.method:
            chosen = self.values()
            self.show(self.method)
            self.set_values(chosen)

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
        for model in fitting(slot, self._models):
            combo.addItem(model)
        combo.setObjectName(f"model.{slot['name']}")
        licence = qt.QLabel()
        licence.setWordWrap(True)
        self.combos[slot["name"]], self._licences[slot["name"]] = combo, licence
        form_text = _("Trained model for this part: {interface}, {dims}D, {channels} channel(s), {unit}.")
        tip = form_text.format(**{f: slot[f] for f in weights.MUST_AGREE})
        widgets.add_row(form, _("Model '{slot}'").format(slot=readable(slot["name"])), combo, wrapped(tip))
        form.addRow(licence)
        accept = qt.QPushButton(_("Accept licence"))
        accept.setToolTip(wrapped(_("Say once that you have read this licence and accept it; then the model can run.")))
        self.accept_buttons[slot["name"]] = accept
        form.addRow(accept)
        accept.connect("clicked()", lambda: self.accept(slot["name"]))
        combo.connect("currentIndexChanged(int)", self._on_changed)

    def accept(self, slot: str) -> None:
        """Acknowledge the licence of the model that is chosen for a slot."""
        try:
            weights.acknowledge(self._models[self.combos[slot].currentText].card)
        except OSError as error:
            text = _("The folder '{folder}' can't be written to ({reason}); choose another one under 'Models'.")
            told = text.format(folder=weights.user_folder(), reason=error.strerror)
            self._licences[slot].setText(told)
            return
        self._show_licences()
        self.changed()

    def _show_licences(self) -> None:
        for name, label in self._licences.items():
            model = self._models.get(self.combos[name].currentText)
            card = model.card if model else {}
            text = _("Licence: {licence}.").format(licence=str(card.get("licence", "")).rstrip("."))
            label.setText(text if model else _("No model is installed."))
            label.setToolTip(wrapped(str(card.get("attribution", ""))))
            self.accept_buttons[name].setVisible(bool(model) and not weights.acknowledged(card))

    def _on_changed(self, index: int) -> None:
        if not self._setting:
            self._show_licences()
            self.changed()
