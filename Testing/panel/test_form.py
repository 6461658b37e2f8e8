"""Every declared parameter gets a widget; values, presets and reset; models of the slots."""

from __future__ import annotations

import json

import pytest
import qt

from diffusion_panel import declarations, weights
from diffusion_panel.form import CUSTOM, ParameterForm
from diffusion_panel.model_slots import ModelForm, fitting

METHODS = [m for m in declarations.declarations().values() if m["parameters"]]
PARAMETERS = [pytest.param(m, p, id=f"{m['id']}-{p['name']}") for m in METHODS for p in m["parameters"]]


class Shell:
    """The widgets that a form needs, and how often it has told of a change."""

    def __init__(self) -> None:
        self.basic, self.advanced, self.section = qt.QWidget(), qt.QWidget(), qt.QWidget()
        for holder in (self.basic, self.advanced):
            qt.QVBoxLayout(holder)
        self.preset, self.reset = qt.QComboBox(), qt.QPushButton()
        self.changes = 0
        self.form = ParameterForm(self.basic, self.advanced, self.section, self.preset, self.reset, self.count)

    def count(self) -> None:
        self.changes += 1


@pytest.fixture
def shell():
    return Shell()


def other_value(parameter):
    """A value in the parameter's range that isn't its default."""
    kind, default = parameter["type"], parameter["default"]
    if kind == "boolean":
        return not default
    if kind == "choice":
        return next(c for c in parameter["choices"] if c != default)
    if kind == "text":
        return "other"
    low, high = parameter["low"], parameter["high"]
    value = low if default != low else low + min((high - low) / 4, 7)
    return int(value) if kind == "integer" else float(value)


@pytest.mark.parametrize("method, parameter", PARAMETERS)
def test_every_parameter_has_a_widget_with_range_unit_and_tooltip(shell, method, parameter):
    shell.form.show(method)
    widget = shell.form.fields[parameter["name"]].widget
    if parameter["type"] in ("real", "integer"):
        assert (widget.minimum, widget.maximum) == (parameter["low"], parameter["high"])
        assert widget.suffix.strip() == parameter["unit"]
    tip = widget.toolTip
    assert tip.startswith("<p>") and parameter["name"] in tip
    assert parameter["help"].split("'")[0][:40] in tip.replace("&#x27;", "'")
    if parameter["type"] == "choice":
        assert [widget.itemText(i) for i in range(widget.count)] == parameter["choices"]
        assert all(choice in tip for choice in parameter["choices"])
    if parameter.get("unit"):
        assert parameter["unit"] in tip


@pytest.mark.parametrize("method", METHODS, ids=[m["id"] for m in METHODS])
def test_values_go_in_and_come_out(shell, method):
    shell.form.show(method)
    assert shell.form.values() == declarations.defaults(method["id"])
    wanted = {p["name"]: other_value(p) for p in method["parameters"]}
    shell.form.set_values(wanted)
    assert shell.form.values() == wanted
    assert {k: type(v) for k, v in shell.form.values().items()} == {k: type(v) for k, v in wanted.items()}
    assert json.loads(json.dumps(wanted)) == wanted


@pytest.mark.parametrize("method", METHODS, ids=[m["id"] for m in METHODS])
def test_each_preset_gives_its_values_and_keeps_its_name(shell, method):
    shell.form.show(method)
    for preset in method["presets"]:
        shell.preset.setCurrentIndex(shell.preset.findText(preset))
        assert shell.form.values() == declarations.defaults(method["id"], preset)
        assert shell.form.preset() == preset


@pytest.mark.parametrize("method, parameter", PARAMETERS)
def test_a_change_by_hand_makes_the_preset_custom_and_reset_undoes_it(shell, method, parameter):
    shell.form.show(method)
    before = shell.changes
    field = shell.form.fields[parameter["name"]]
    value = other_value(parameter)
    if parameter["type"] == "choice":
        field.widget.setCurrentIndex(field.widget.findText(value))
    elif parameter["type"] == "boolean":
        field.widget.setChecked(value)
    elif parameter["type"] == "text":
        field.widget.setText(value)
    else:
        field.widget.setValue(value)
    assert shell.changes == before + 1
    shown = shell.form.values()[parameter["name"]]
    assert shown == (value if isinstance(value, str) else pytest.approx(value))
    same = [n for n in method["presets"] if declarations.defaults(method["id"], n) == shell.form.values()]
    assert shell.form.preset() == (same[0] if same else CUSTOM)
    shell.reset.click()
    assert shell.form.preset() == "standard"
    assert shell.form.values() == declarations.defaults(method["id"])


def test_a_number_with_more_digits_than_shown_stays_exact(shell):
    method = next(m for m in METHODS if any(p["type"] == "real" for p in m["parameters"]))
    parameter = next(p for p in method["parameters"] if p["type"] == "real")
    exact = parameter["low"] + (parameter["high"] - parameter["low"]) / 3
    shell.form.show(method)
    shell.form.set_values({parameter["name"]: exact})
    assert shell.form.values()[parameter["name"]] == exact
    widget = shell.form.fields[parameter["name"]].widget
    widget.setValue(parameter["high"])
    assert shell.form.values()[parameter["name"]] == parameter["high"]


@pytest.mark.parametrize("method, parameter", PARAMETERS)
def test_values_that_do_not_fit_become_the_default(shell, method, parameter):
    shell.form.show(method)
    for wrong in (None, [], "no such choice" * 50, float("nan"), 10**12, -(10**12)):
        if parameter["type"] in ("real", "integer") or not isinstance(wrong, (int, float)):
            shell.form.set_values({parameter["name"]: wrong, "unknown": 1})
            assert shell.form.values()[parameter["name"]] == parameter["default"]


def test_levels_are_kept_apart(shell):
    for method in METHODS:
        shell.form.show(method)
        for level, holder in shell.form.holders.items():
            found = [w.objectName.removeprefix("parameter.") for w in shell.form.widgets(level)]
            assert found == [p["name"] for p in method["parameters"] if p["level"] == level]
            assert all(holder.isAncestorOf(w) for w in shell.form.widgets(level))


def test_a_method_without_parameters_leaves_an_empty_form(shell):
    empty = next(m for m in declarations.declarations().values() if not m["parameters"])
    shell.form.show(METHODS[0])
    shell.form.show(empty)
    assert shell.form.values() == {} and not shell.preset.enabled and not shell.reset.enabled


def test_model_slots_offer_what_fits_with_its_licence(tmp_path, monkeypatch):
    method = next(m for m in METHODS if m["models"])
    slot = method["models"][0]
    card = {f: slot[f] for f in ("interface", "dims", "channels", "unit")}
    card |= {"schema": 1, "id": "my-model", "licence": "Own 1.0", "network": {}, "sha256": "0"}
    for name, change in (("my-model", {}), ("other", {"dims": slot["dims"] + 1}), ("broken", None)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "card.json").write_text("{" if change is None else json.dumps(card | change))
        (tmp_path / name / "weights.safetensors").touch()
    monkeypatch.setenv("DIFFUSIONMODELS_MODELS", str(tmp_path))
    known = {m.id: m for m in weights.models()}
    assert fitting(slot, known)[0] == slot["default"]
    assert "my-model" in fitting(slot, known) and not {"other", "broken"} & set(fitting(slot, known))
    holder, changes = qt.QWidget(), []
    qt.QVBoxLayout(holder)
    form = ModelForm(holder, lambda: changes.append(1))
    form.show(method)
    assert form.values()[slot["name"]] == slot["default"]
    form.combos[slot["name"]].setCurrentIndex(form.combos[slot["name"]].findText("my-model"))
    assert form.values()[slot["name"]] == "my-model" and changes
    assert "Own 1.0" in form._licences[slot["name"]].text


def test_a_slot_without_any_model_is_a_problem(tmp_path, monkeypatch):
    method = next(m for m in METHODS if m["models"])
    monkeypatch.setattr("diffusion_panel.weights.resource", lambda *parts: tmp_path)
    monkeypatch.setenv("DIFFUSIONMODELS_MODELS", str(tmp_path))
    holder = qt.QWidget()
    qt.QVBoxLayout(holder)
    form = ModelForm(holder, lambda: None)
    form.show(method)
    problems = form.problems(declarations.defaults(method["id"]))
    assert method["models"][0]["default"] in problems[0]
