"""The section "Models": what it shows, imports, verifies and removes; licences that are acknowledged before use."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest
import qt
import slicer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffusion_panel import card_page, declarations, process, weights, weights_tasks
from diffusion_panel.jobs import InputProblem
from diffusion_panel.logic import DiffusionLogic
from diffusion_panel.model_slots import ModelForm
from diffusion_panel.weights_view import WeightsView

from .engines import children, exists, until
from .panels import ct_with_metal

BUNDLED = declarations.resource("Models")
METHOD = next(m for m in declarations.declarations().values() if m["models"] and m["state"] == "works")
SLOT = METHOD["models"][0]
BUTTONS = ("import", "verify", "remove", "open", "folder")


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    """An empty folder of the user's models, with a blank and other letters in its path; the setting is not used."""
    folder = tmp_path / "my mödels"
    monkeypatch.setenv(weights.VARIABLE, str(folder))
    yield folder
    slicer.app.userSettings().remove(weights.SETTING)


def add(folder: Path, name: str, **fields) -> Path:
    """A model that fits SLOT: the bundled one with other weights and other fields on its card."""
    target = folder / name
    shutil.copytree(BUNDLED / SLOT["default"], target)
    with (target / weights.WEIGHTS).open("ab") as stream:
        stream.write(name.encode())
    digest = hashlib.sha256((target / weights.WEIGHTS).read_bytes()).hexdigest()
    change(target, id=name, sha256=digest, **fields)
    return target


def change(folder: Path, **fields) -> None:
    card = json.loads((folder / weights.CARD).read_text(encoding="utf-8"))
    (folder / weights.CARD).write_text(json.dumps(card | fields), encoding="utf-8")


def flip(folder: Path) -> None:
    raw = bytearray((folder / weights.WEIGHTS).read_bytes())
    raw[-1] ^= 1
    (folder / weights.WEIGHTS).write_bytes(raw)


def left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


class Shown:
    """The section, unfolded."""

    def __init__(self) -> None:
        self.changes = 0
        self.widget = qt.QWidget()
        self.view = WeightsView(self.widget, self.on_changed)
        self.view.section.setProperty("collapsed", False)
        self.widget.show()

    def on_changed(self) -> None:
        self.changes += 1

    def rows(self) -> dict[str, list[str]]:
        """Model -> cells."""
        table = self.view.table
        cells = [[table.item(r, c).text() for c in range(table.columnCount)] for r in range(table.rowCount)]
        return {row[0]: row for row in cells}

    def finish(self) -> None:
        until(lambda: self.view.task is None, 60)

    def said(self) -> str:
        return self.view.told.text()

    def complained(self) -> str:
        return self.view.error.text()


@pytest.fixture
def shown():
    made = Shown()
    yield made
    made.view.release()
    made.widget.close()


# ---- what is shown ----


def test_the_table_tells_what_people_ask_of_a_model(own, shown):
    add(own, "mine", licence="Own 1.0", source_file="ema.pt")
    shown.view.refresh()
    rows, sha = shown.rows(), json.loads((own / "mine" / "card.json").read_text())["sha256"]
    assert set(rows) == {"mine", *(p.name for p in BUNDLED.iterdir() if p.is_dir())}
    name, size, licence, used, origin, trained, figures, digest = rows["mine"]
    assert float(size.split()[0]) == pytest.approx((own / "mine" / "weights.safetensors").stat().st_size / 1e6, abs=0.2)
    assert licence == "Own 1.0" and origin == "imported from ema.pt" and rows[SLOT["default"]][4].startswith("part of")
    assert used.startswith(f"{METHOD['name']}: {SLOT['name']}"[:20]) and trained and figures.startswith("score ")
    assert digest == sha[:11] + "…" and sha in shown.view.table.item(list(rows).index("mine"), 7).toolTip()


def test_the_card_shows_every_field(own, shown):
    add(own, "mine", surprise={"deep": [1.5, True, {"x": "<b>"}]})
    shown.view.refresh()
    shown.view.choose("mine")
    page = shown.view.card.toPlainText()
    card = json.loads((own / "mine" / "card.json").read_text())
    for text in (card["sha256"], card["attribution"], card["domain"]["anatomy"], "not needed", str(own / "mine"),
                 card["training"]["patients"]["validation"][0], "Surprise: deep 1.5; yes; x <b>"):  # fmt: skip
        assert text in page
    assert card_page.plain(card["network"]) in page


DAMAGES = {
    "card": (lambda f: (f / "card.json").write_text("{"), "card.json can't be read"),
    "bytes": (lambda f: (f / "card.json").write_bytes(b"\xff\xfe"), "card.json can't be read"),
    "deep": (lambda f: (f / "card.json").write_text("[" * 100000), "card.json can't be read"),
    "list": (lambda f: (f / "card.json").write_text("[]"), "no card of schema 1"),
    "schema": (lambda f: change(f, schema=2), "no card of schema 1"),
    "fields": (lambda f: (f / "card.json").write_text('{"schema": 1, "id": "x"}'), "lacks interface, network, licence"),
    "weights": (lambda f: (f / "weights.safetensors").unlink(), "weights.safetensors is missing"),
    "name": (lambda f: f.rename(f.with_name("a copy")), "name of its folder"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_model_is_a_sentence_and_hides_no_other(own, shown, name):
    add(own, "good")
    hurt, sentence = DAMAGES[name]
    hurt(add(own, "bad"))
    shown.view.refresh()
    (marked,) = [row for row in shown.rows() if row.startswith("⚠ ")]
    assert {"good", SLOT["default"]} <= set(shown.rows())
    shown.view.choose(marked.removeprefix("⚠ "))
    page = shown.view.card.toPlainText()
    assert sentence in page and "Import it again, or remove it." in page
    assert shown.view.remove_button.enabled
    holder = qt.QWidget()
    qt.QVBoxLayout(holder)
    form = ModelForm(holder, lambda: None)
    form.show(METHOD)
    combo = form.combos[SLOT["name"]]
    assert {combo.itemText(i) for i in range(combo.count)} >= {"good", SLOT["default"]} and combo.findText("bad") < 0


JSON = st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
                    max_leaves=8)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(card=st.dictionaries(st.sampled_from([*weights.NEEDED, "domain", "training", "attribution", "parts", "dims"]),
                            JSON), training=JSON)  # fmt: skip
def test_any_content_of_a_card_is_shown(own, card, training):
    card = {**dict.fromkeys(weights.NEEDED, "x"), **card, "schema": 1, "training": {"validation": training}}
    (own / "any").mkdir(parents=True, exist_ok=True)
    (own / "any" / "weights.safetensors").touch()
    (own / "any" / "card.json").write_text(json.dumps(card), encoding="utf-8")
    model = weights.find("any")
    assert len(card_page.cells(model)) == len(card_page.columns()) and "any" in card_page.page(model)
    assert "'any'" in weights.verdict(model, weights.digest(model, threading.Event()))
    assert weights.acknowledged(model.card) in (True, False)


def test_a_section_that_is_unfolded_shows_what_came_meanwhile(own, shown):
    shown.view.section.setProperty("collapsed", True)
    add(own, "late")
    assert "late" not in shown.rows()
    shown.view.section.setProperty("collapsed", False)
    assert "late" in shown.rows()


# ---- import ----


@pytest.mark.parametrize("form", ["card", "zip"])
def test_a_bundle_is_imported_and_offered(own, shown, tmp_path, form):
    source = add(tmp_path / "from a friënd", "theirs")
    path = source / "card.json"
    if form == "zip":
        path = tmp_path / "theirs.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name in (weights.CARD, weights.WEIGHTS):
                archive.write(source / name, f"theirs/{name}")
    shown.view.import_file(path)
    assert not shown.view.import_button.enabled and not shown.view.cancel_button.isHidden()
    shown.finish()
    assert "theirs: imported" in shown.said() and shown.complained() == "" and shown.changes == 1
    assert shown.rows()["theirs"][4] == f"imported from {path.name}" and left(own) == ["theirs"]
    assert shown.view.import_button.enabled and shown.view.cancel_button.isHidden()


def test_a_wrong_folder_is_told_in_the_engine_s_sentence(own, shown, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").touch()
    shown.view.import_file(tmp_path / "photos")
    shown.finish()
    assert "photos' is no model: it holds cat.png, but the files card.json and" in shown.complained()
    assert shown.said() == "" and left(own) == []


def test_layers_of_a_wrong_checkpoint_are_named(own, shown, tmp_path):
    code = "import sys, torch; torch.save({'conv.weight': torch.zeros(3, 5)}, sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "wrong.pt")], check=True)
    shown.view.import_file(tmp_path / "wrong.pt")
    shown.finish()
    for phrase in ("Expected are layers such as '", "(512, 128)", "found are 'conv.weight' (3, 5)"):
        assert phrase in shown.complained()


def test_a_damaged_download_is_told_and_leaves_nothing(own, shown, tmp_path):
    flip(add(tmp_path / "friend", "theirs"))
    shown.view.import_file(tmp_path / "friend" / "theirs")
    shown.finish()
    assert "damaged: their sha256 begins with" in shown.complained() and left(own) == []


@pytest.fixture
def halfway(own, shown, tmp_path):
    """An import that has come to its middle and waits for the rest; its folder and the whole weights."""
    if os.name == "nt":
        pytest.skip("a pipe stands for the file")
    source = add(tmp_path / "friend", "theirs")
    file = source / weights.WEIGHTS
    whole = file.read_bytes()
    file.unlink()
    os.mkfifo(file)
    pipe = os.open(file, os.O_RDWR)
    os.write(pipe, whole[:30000])
    shown.view.import_file(source)
    until(lambda: [n for n in left(own) if n.startswith(".bundle-")] and shown.view.task.fraction is not None)
    yield source, whole
    os.close(pipe)


def test_a_cancelled_import_leaves_no_file_and_no_process(own, shown, halfway):
    (child,) = children()
    shown.view.cancel_button.click()
    assert shown.view.task is None and "cancelled" in shown.said() and left(own) == []
    until(lambda: not exists(child))
    source, whole = halfway
    (source / weights.WEIGHTS).unlink()
    (source / weights.WEIGHTS).write_bytes(whole)
    shown.view.import_file(source)
    shown.finish()
    assert left(own) == ["theirs"] and "imported" in shown.said()


def test_a_view_that_goes_away_ends_its_import(own, shown, halfway):
    (child,) = children()
    shown.view.release()
    until(lambda: not exists(child))
    assert left(own) == []


def test_an_import_without_torch_names_the_package(own, shown, tmp_path, monkeypatch):
    (tmp_path / "no" / "torch").mkdir(parents=True)
    (tmp_path / "no" / "torch" / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\")")
    real = process.environment
    monkeypatch.setattr(process, "environment", lambda: real() | {
        "PYTHONPATH": os.pathsep.join((str(tmp_path / "no"), real()["PYTHONPATH"]))})  # fmt: skip
    (tmp_path / "m.pt").write_bytes(b"x")
    shown.view.import_file(tmp_path / "m.pt")
    shown.finish()
    assert "lacks the package 'torch'" in shown.complained()


def test_an_engine_that_does_not_start_is_a_sentence(shown, tmp_path, monkeypatch):
    monkeypatch.setattr(weights_tasks.process, "engine_python", lambda: str(tmp_path / "no python"))
    shown.view.import_file(tmp_path / "m.pt")
    shown.finish()
    assert "Python can't be started" in shown.complained()


# ---- verify, remove, folder ----


def test_verify_names_what_is_damaged_and_what_to_do(own, shown):
    add(own, "good")
    shown.view.refresh()
    shown.view.verify()
    shown.finish()
    assert f"all {len(shown.rows())} models match" in shown.said() and shown.complained() == ""
    flip(add(own, "bad"))
    shown.view.refresh()
    shown.view.verify()
    shown.finish()
    assert "Model 'bad': The file weights.safetensors is damaged" in shown.complained()
    assert "Import it again, or remove it." in shown.complained() and "good" not in shown.complained()


def test_verification_runs_in_a_thread_of_its_own_and_stops(own, monkeypatch):
    add(own, "good")
    model, original, used = weights.find("good"), weights.digest, []

    def watched(one: weights.Model, stop: threading.Event) -> str:
        used.append(threading.current_thread())
        stop.wait(30)
        return original(one, stop)

    monkeypatch.setattr(weights, "digest", watched)
    task = weights_tasks.Verify([model])
    until(lambda: used)
    assert used[0] is not threading.main_thread() and not task.step()
    task.cancel()
    until(task.step)
    assert "cancelled" in task.sentence and not task.failed


def test_weights_that_went_away_are_told(own, shown):
    folder = add(own, "mine")
    shown.view.refresh()
    (folder / weights.WEIGHTS).unlink()
    shown.view.verify()
    shown.finish()
    assert "weights.safetensors can't be read (No such file" in shown.complained()


def test_only_models_of_the_user_are_removed_and_after_a_question(own, shown, monkeypatch):
    folder = add(own, "mine")
    shown.view.refresh()
    shown.view.choose(SLOT["default"])
    assert not shown.view.remove_button.enabled and "is part of the extension" in shown.view.remove_button.toolTip
    with pytest.raises(ValueError, match="part of the extension"):
        weights.remove(weights.find(SLOT["default"]))
    shown.view.choose("mine")
    asked = []
    monkeypatch.setattr(slicer.util, "confirmYesNoDisplay", lambda *texts: asked.append(texts[0]) or len(asked) > 1)
    shown.view.remove_button.click()
    assert str(folder) in asked[0] and folder.exists() and "mine" in shown.rows() and shown.changes == 0
    shown.view.remove_button.click()
    assert not folder.exists() and "mine" not in shown.rows() and shown.changes >= 1
    assert (BUNDLED / SLOT["default"] / weights.WEIGHTS).exists()


def test_another_folder_is_kept_and_reaches_the_engine(own, shown, tmp_path, monkeypatch):
    add(own, "mine")
    add(tmp_path / "group", "theirs")
    monkeypatch.setattr(qt.QFileDialog, "getExistingDirectory", lambda *texts: str(tmp_path / "group"))
    worker = process.Worker([sys.executable, "-c", "import os; print('x'); input()"])
    worker.start()
    first = worker.pid
    worker.start()
    assert worker.pid == first
    shown.view.folder_button.click()
    assert "theirs" in shown.rows() and "mine" not in shown.rows() and shown.changes == 1
    assert str(tmp_path / "group") in shown.view.folder_label.text
    assert process.environment()[weights.VARIABLE] == str(tmp_path / "group") == str(weights.user_folder())
    worker.start()
    assert worker.pid != first, "a warm engine that knows another folder is replaced"
    worker.kill()
    monkeypatch.setattr(qt.QFileDialog, "getExistingDirectory", lambda *texts: "")
    shown.view.folder_button.click()
    assert "theirs" in shown.rows() and shown.changes == 1


def test_the_folder_of_a_model_is_opened(own, shown, monkeypatch):
    opened = []
    monkeypatch.setattr(qt.QDesktopServices, "openUrl", lambda url: opened.append(url.toLocalFile()))
    add(own, "mine")
    shown.view.refresh()
    shown.view.choose("mine")
    shown.view.open_button.click()
    assert [Path(p) for p in opened] == [own / "mine"]


# ---- licences ----


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
