"""Declared parameters -> widgets. One field class per parameter type, one form with presets and reset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ctk
import qt

from .wording import readable, tooltip

CUSTOM = "custom"
UNLIMITED = 1e12
SLIDER_SPAN = 1.0  # real parameters whose whole range is at most this get a slider


class Field:
    """One parameter: `widget`, `value()` in the declared type, `set(value)`. `signal` of the widget says "changed"."""

    signal = ""

    def connect(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever the widget changes, by hand or by code."""
        self._changed = changed
        self.widget.connect(self.signal, self._on_changed)

    def _on_changed(self, value: Any) -> None:
        self._changed()


class RealField(Field):
    """A real number. Keeps the exact value that was set, although the widget shows rounded digits: a re-run from
    provenance must not change the last digit."""

    signal = "valueChanged(double)"

    def __init__(self, parameter: dict[str, Any], values: list[float]) -> None:
        low, high = _limits(parameter)
        self.widget = ctk.ctkSliderWidget() if high - low <= SLIDER_SPAN else qt.QDoubleSpinBox()
        decimals = max([_digits(v) for v in [low, high, *values]] + [2 if high - low <= 20 else 0])
        self.widget.decimals = decimals
        self.widget.minimum, self.widget.maximum = low, high
        self.widget.singleStep = _step(high - low, decimals)
        if parameter["unit"]:
            self.widget.suffix = " " + parameter["unit"]
        self.set(parameter["default"])

    def value(self) -> float:
        return self._exact if self.widget.value == self._shown else float(self.widget.value)

    def set(self, value: Any) -> None:
        self._exact = float(value)
        self._shown = None
        self.widget.setValue(self._exact)
        self._shown = self.widget.value


class IntegerField(Field):
    """A whole number."""

    signal = "valueChanged(int)"

    def __init__(self, parameter: dict[str, Any], values: list[float]) -> None:
        self.widget = qt.QSpinBox()
        low, high = (max(min(int(v), 2**31 - 1), -(2**31)) for v in _limits(parameter))
        self.widget.minimum, self.widget.maximum = low, high
        self.widget.singleStep = 10 if high - low > 1000 and parameter["default"] >= 100 else 1
        if parameter["unit"]:
            self.widget.suffix = " " + parameter["unit"]
        self.set(parameter["default"])

    def value(self) -> int:
        return int(self.widget.value)

    def set(self, value: Any) -> None:
        self.widget.setValue(int(value))


class ChoiceField(Field):
    """One of a few words."""

    signal = "currentIndexChanged(int)"

    def __init__(self, parameter: dict[str, Any], values: list[float]) -> None:
        self.widget = qt.QComboBox()
        for choice in parameter["choices"]:
            self.widget.addItem(choice)
        shrink(self.widget)
        self.set(parameter["default"])

    def value(self) -> str:
        return self.widget.currentText

    def set(self, value: Any) -> None:
        self.widget.setCurrentIndex(self.widget.findText(str(value)))


class BooleanField(Field):
    """Yes or no."""

    signal = "toggled(bool)"

    def __init__(self, parameter: dict[str, Any], values: list[float]) -> None:
        self.widget = qt.QCheckBox()
        self.set(parameter["default"])

    def value(self) -> bool:
        return bool(self.widget.checked)

    def set(self, value: Any) -> None:
        self.widget.setChecked(bool(value))


class TextField(Field):
    """A short text."""

    signal = "textChanged(QString)"

    def __init__(self, parameter: dict[str, Any], values: list[float]) -> None:
        self.widget = qt.QLineEdit()
        self.widget.setMaxLength(parameter["longest"])
        self.set(parameter["default"])

    def value(self) -> str:
        return self.widget.text

    def set(self, value: Any) -> None:
        self.widget.setText(str(value))


FIELDS = {
    "real": RealField,
    "integer": IntegerField,
    "choice": ChoiceField,
    "boolean": BooleanField,
    "text": TextField,
}


class ParameterForm:
    """The parameters of the chosen method, basic and advanced, with presets.

    basic, advanced : widgets with a vertical layout that take the forms. section : the collapsible button around
    `advanced`. preset, reset : combo box and button. changed : called after every change, by hand or by code.
    """

    def __init__(self, basic: Any, advanced: Any, section: Any, preset: Any, reset: Any, changed: Any) -> None:
        self.holders = {"basic": basic, "advanced": advanced}
        self.section, self.preset_combo, self.reset_button, self.changed = section, preset, reset, changed
        self.method: dict[str, Any] | None = None
        self.fields: dict[str, Any] = {}
        self._pages: list[Any] = []
        self._setting = False
        preset.connect("currentIndexChanged(int)", self._on_preset)
        reset.connect("clicked()", self.reset)

    def show(self, method: dict[str, Any]) -> None:
        """Build the fields of `method` with its default values."""
        self._setting = True
        self.method, self.fields = method, {}
        for page in self._pages:
            discard(page)
        self._pages = [self._page(level) for level in self.holders]
        self.section.visible = any(p["level"] == "advanced" for p in method["parameters"])
        self.preset_combo.clear()
        for name in [*method["presets"], CUSTOM]:
            self.preset_combo.addItem(name)
        for widget in (self.preset_combo, self.reset_button):
            widget.enabled = bool(method["parameters"])
        self._setting = False
        self.reset()

    def values(self) -> dict[str, Any]:
        """All parameters by name, each in its declared type."""
        return {name: field.value() for name, field in self.fields.items()}

    def set_values(self, values: dict[str, Any]) -> None:
        """Take these values, and the defaults for the others and for what doesn't fit, as from a scene of another
        version; the preset becomes the one that they equal."""
        if self.method is not None:
            self._apply({p["name"]: usable(p, values.get(p["name"])) for p in self.method["parameters"]})

    def preset(self) -> str:
        """The name of the chosen preset, or "custom"."""
        return self.preset_combo.currentText

    def set_preset(self, name: str) -> None:
        """Take the values of a preset of the method."""
        if self.method is not None and name in self.method["presets"]:
            self._apply(self._preset_values(name), name)

    def name_preset(self, name: str) -> None:
        """Show the name of a preset whose values are there already: presets may have equal values."""
        if self.method is not None and self._preset_values(name) == self.values():
            self._setting = True
            self._mark(name)
            self._setting = False

    def reset(self) -> None:
        """The recommended values."""
        self.set_preset("standard")

    def widgets(self, level: str) -> list[Any]:
        """The input widgets of one level, in order."""
        if self.method is None:
            return []
        return [self.fields[p["name"]].widget for p in self.method["parameters"] if p["level"] == level]

    def _apply(self, values: dict[str, Any], preset: str = "") -> None:
        self._setting = True
        for name, value in values.items():
            self.fields[name].set(value)
        self._mark(preset or self._matching())
        self._setting = False
        self.changed()

    def _page(self, level: str) -> Any:
        page = qt.QWidget()
        form = new_form(page)
        values = self.method["presets"].values()
        for parameter in self.method["parameters"]:
            if parameter["level"] != level:
                continue
            name = parameter["name"]
            used = [parameter["default"], *(p[name] for p in values if name in p)]
            field = FIELDS[parameter["type"]](parameter, used)
            field.widget.setObjectName(f"parameter.{name}")
            field.connect(self._on_field)
            self.fields[name] = field
            add_row(form, readable(name), field.widget, tooltip(parameter))
        self.holders[level].layout().addWidget(page)
        return page

    def _preset_values(self, name: str) -> dict[str, Any]:
        """All parameters under a preset; {} for a preset that the method doesn't have."""
        if name not in self.method["presets"]:
            return {}
        return {p["name"]: p["default"] for p in self.method["parameters"]} | self.method["presets"][name]

    def _matching(self) -> str:
        now = self.values()
        order = sorted(self.method["presets"], key=lambda name: name != "standard")
        return next((name for name in order if self._preset_values(name) == now), CUSTOM)

    def _mark(self, preset: str) -> None:
        self.preset_combo.setCurrentIndex(self.preset_combo.findText(preset))

    def _on_field(self) -> None:
        if self._setting:
            return
        self._setting = True
        self._mark(self._matching())
        self._setting = False
        self.changed()

    def _on_preset(self, index: int) -> None:
        if not self._setting and index >= 0:
            self.set_preset(self.preset())


def usable(parameter: dict[str, Any], value: Any) -> Any:
    """`value` where the declared parameter can take it, else the default."""
    kind = parameter["type"]
    if kind == "boolean":
        fits = isinstance(value, bool)
    elif kind == "choice":
        fits = value in parameter["choices"]
    elif kind == "text":
        fits = isinstance(value, str) and len(value) <= parameter["longest"]
    else:
        low, high = _limits(parameter)
        fits = isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
        fits = fits and (kind == "real" or value == int(value))
    return value if fits else parameter["default"]


def new_form(page: Any) -> Any:
    """A form layout for `page` that puts a long label above its field where the panel is narrow."""
    form = qt.QFormLayout(page)
    form.setContentsMargins(0, 0, 0, 0)
    form.setRowWrapPolicy(qt.QFormLayout.WrapLongRows)
    form.setFieldGrowthPolicy(qt.QFormLayout.AllNonFixedFieldsGrow)
    return form


def add_row(form: Any, text: str, widget: Any, tip: str) -> Any:
    """A labelled row; label and field get the same tooltip, the field the label as its accessible name."""
    label = qt.QLabel(text + ":")
    label.setToolTip(tip)
    label.setBuddy(widget)
    widget.setToolTip(tip)
    widget.setAccessibleName(text)
    form.addRow(label, widget)
    return label


def shrink(combo: Any) -> None:
    """Let a combo box become narrower than its longest entry, so that a panel of 400 pixels cuts nothing off."""
    combo.setSizeAdjustPolicy(qt.QComboBox.AdjustToMinimumContentsLengthWithIcon)
    combo.setMinimumContentsLength(8)
    combo.setSizePolicy(qt.QSizePolicy.Expanding, qt.QSizePolicy.Fixed)


def discard(page: Any) -> None:
    """Take a generated page out of its layout and delete it."""
    page.hide()
    page.setParent(None)
    page.deleteLater()


def _limits(parameter: dict[str, Any]) -> tuple[float, float]:
    low, high = parameter["low"], parameter["high"]
    return (-UNLIMITED if low is None else low, UNLIMITED if high is None else high)


def _digits(value: float) -> int:
    """Decimals that show `value` exactly, at most 6."""
    text = f"{value:.6f}".rstrip("0")
    return len(text) - text.index(".") - 1


def _step(span: float, decimals: int) -> float:
    wanted = 0.05 if span <= 1 else 0.1 if span <= 20 else 1.0 if span <= 200 else 50.0
    return max(wanted, 10.0**-decimals)
