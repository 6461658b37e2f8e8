"""Licences of models: acknowledged once, before the weights are first used; panel and engine agree on it."""

# ruff: noqa: F811 (fixtures that come from a file of their own)

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
import qt

from diffusion_panel import process, weights
from diffusion_panel.jobs import InputProblem
from diffusion_panel.logic import DiffusionLogic
from diffusion_panel.model_slots import ModelForm

from .engines import others  # noqa: F401
from .modelling import METHOD, SLOT, add, change, left, own, shown  # noqa: F401
from .panels import ct_with_metal

pytestmark = pytest.mark.usefixtures("own")


@pytest.fixture
def logic():
    made = DiffusionLogic()
    yield made
    made.shutdown()


def arguments() -> dict:
    return {"method": METHOD["id"], "inputs": {METHOD["inputs"][0]["name"]: ct_with_metal()},
            "models": {SLOT["name"]: "theirs"}}  # fmt: skip


def test_a_run_waits_for_the_licence_to_be_acknowledged(own, logic):
    add(own, "theirs", licence="For friends alone")
    with pytest.raises(InputProblem, match="licence of the model 'theirs' isn't acknowledged.*For friends alone"):
        logic.run(**arguments())
    assert any("logic.acknowledge('theirs')" in s for s in logic.problems(**arguments()))
    job = logic.estimate(**arguments())
    logic.cancel(job)
    logic.acknowledge("theirs")
    assert not any("acknowledge" in s for s in logic.problems(**arguments()))
    job = logic.run(**arguments(), wait=False)
    logic.cancel(job)
    with pytest.raises(InputProblem, match="no model 'nobody'"):
        logic.acknowledge("nobody")


def test_permissive_licences_never_ask(own, logic):
    add(own, "theirs", licence="Apache-2.0")
    assert not any("acknowledge" in s for s in logic.problems(**arguments()))
    assert all(weights.acknowledged(m.card) for m in weights.models() if m.bundled)


def test_a_slot_that_is_not_used_does_not_ask(own, logic):
    name, _sign, _value = SLOT["when"].partition("=")
    if not name:
        pytest.fail("the first method with models has a slot that depends on a parameter")
    add(own, "theirs", licence="For friends alone")
    choices = next(p["choices"] for p in METHOD["parameters"] if p["name"] == name)
    other = next(c for c in choices if f"{name}={c}" != SLOT["when"])
    assert not any("acknowledge" in s for s in logic.problems(**arguments(), params={name: other}))


def test_panel_and_engine_agree_on_what_is_acknowledged(own):
    """Each writes; the other reads. Other weights or another licence ask again."""
    code = "import sys; from diffusion_backend import licences, models\n" \
           "print(bool(licences.acknowledged(models.read_card(models.find(sys.argv[1])))))"  # fmt: skip
    engine = [process.engine_python()]

    def call(*words: str) -> str:
        return subprocess.run([*engine, *words], env=process.environment(), cwd=process.PACKAGES, check=True,
                              capture_output=True, text=True).stdout  # fmt: skip

    for name in ("one", "two"):
        add(own, name, licence=f"Licence of {name}: größer")
    weights.acknowledge(weights.find("one").card)
    assert call("-c", code, "one").strip() == "True" and call("-c", code, "two").strip() == "False"
    call("-m", "diffusion_backend", "models", "accept", "two")
    assert all(weights.acknowledged(weights.find(n).card) for n in ("one", "two"))
    change(own / "one", licence="Another one")
    assert not weights.acknowledged(weights.find("one").card) and weights.acknowledged(weights.find("two").card)
    assert call("-c", code, "one").strip() == "False"
    (own / weights.ACKNOWLEDGED).write_text("{")
    assert not weights.acknowledged(weights.find("two").card), "a damaged file asks again"


def test_the_licence_is_accepted_where_the_model_is_chosen(own):
    add(own, "theirs", licence="For friends alone", attribution="A. Friend")
    holder, told = qt.QWidget(), []
    qt.QVBoxLayout(holder)
    form = ModelForm(holder, lambda: told.append(1))
    form.show(METHOD)
    button, label = form.accept_buttons[SLOT["name"]], form._licences[SLOT["name"]]
    assert button.isHidden()
    form.set_values({SLOT["name"]: "theirs"})
    assert not button.isHidden() and "For friends alone" in label.text and "A. Friend" in label.toolTip
    button.click()
    assert button.isHidden() and told == [1] and weights.acknowledged(weights.find("theirs").card)


def test_the_licence_is_accepted_on_the_page(own, shown):
    add(own, "theirs", licence="For friends alone")
    shown.view.refresh()
    shown.view.choose("theirs")
    assert not shown.view.accept_button.isHidden() and "not yet" in shown.view.card.toPlainText()
    shown.view.accept_button.click()
    assert shown.view.accept_button.isHidden() and shown.changes == 1
    assert "Acknowledged: 20" in shown.view.card.toPlainText()


def test_a_folder_that_can_not_be_written_to_is_a_sentence(own, shown, logic, monkeypatch):
    add(own, "theirs", licence="For friends alone")
    monkeypatch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    shown.view.refresh()
    shown.view.choose("theirs")
    shown.view.accept_button.click()
    assert "can't be done in the folder" in shown.complained() and "Permission denied" in shown.complained()
    with pytest.raises(InputProblem, match="can't be written to"):
        logic.acknowledge("theirs")
    assert left(own) == ["theirs"]


def test_the_choice_survives_a_refresh_after_an_import(own):
    holder = qt.QWidget()
    qt.QVBoxLayout(holder)
    form = ModelForm(holder, lambda: None)
    form.refresh()
    add(own, "first")
    form.show(METHOD)
    form.set_values({SLOT["name"]: "first"})
    add(own, "second")
    form.refresh()
    assert form.values()[SLOT["name"]] == "first" and form.combos[SLOT["name"]].findText("second") >= 0
    shutil.rmtree(own / "first")
    form.refresh()
    assert form.values()[SLOT["name"]] == SLOT["default"]
