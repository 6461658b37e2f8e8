"""The section "Engine": what it shows in each state, what its buttons do, and what is asked before anything changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import qt
import slicer

from diffusion_panel import installation_view
from diffusion_panel.installation import Installation
from diffusion_panel.installation_view import InstallationView
from diffusion_panel.installing.commands import GPU, Plan, Wheel
from diffusion_panel.installing.state import State

from .engines import until
from .installers import finish, installed, make_home, make_one, make_pip  # noqa: F401

BUTTONS = ("install", "folder", "repair", "remove", "needed", "log", "restart", "cancel")


@pytest.fixture(autouse=True)
def agreed(monkeypatch):
    """The user agrees to everything."""
    monkeypatch.setattr(slicer.util, "confirmYesNoDisplay", lambda *texts: True)


class Shown:
    """A view with a window of its own."""

    def __init__(self, one: Installation) -> None:
        self.told: list[bool] = []
        self.widget = qt.QWidget()
        self.view = InstallationView(self.widget, one, lambda: self.told.append(one.state().ready))
        self.widget.show()

    def buttons(self) -> set[str]:
        return {name for name in BUTTONS if not self.button(name).isHidden()}

    def button(self, name: str):
        return getattr(self.view, f"{name}_button")

    def headline(self) -> tuple[str, bool]:
        """The text of the section and whether it is folded."""
        return self.view.section.text, self.view.section.collapsed


@pytest.fixture
def shown(one):
    made = Shown(one)
    yield made
    made.view.release()
    made.widget.close()


def test_a_missing_package_opens_the_section_and_an_installation_folds_it(one, shown, pip):
    assert shown.headline() == ("Engine: not installed", False)
    assert "lacks tinyengine" in shown.view.notice.text() and shown.view.error.text() == ""
    assert shown.buttons() == {"install", "folder", "needed"}
    shown.button("install").click()
    assert shown.headline() == ("Engine: being installed", False) and shown.buttons() == {"cancel"}
    finish(one)
    assert shown.headline() == ("Engine: ready (tinyengine 1.0)", True) and shown.told == [True]
    shown.view.section.setProperty("collapsed", False)
    assert shown.buttons() == {"repair", "remove"}


def test_a_failure_is_told_with_the_log_one_click_away(one, shown, pip):
    pip.order(install={"lines": ["Collecting tinyengine", "ERROR: [Errno 28] No space left on device"], "code": 1})
    shown.button("install").click()
    finish(one)
    assert shown.headline() == ("Engine: installation failed", False) and shown.told == [False]
    assert "disk filled up while 'tinyengine'" in shown.view.error.text() and shown.view.notice.text() == ""
    assert shown.view.log.isHidden() and "log" in shown.buttons()
    shown.button("log").click()
    assert shown.view.log.toPlainText().splitlines() == one.log and not shown.view.log.isHidden()
    shown.button("log").click()
    assert shown.view.log.isHidden()
    pip.order()
    shown.button("install").click()
    finish(one)
    assert shown.headline()[1] and shown.view.error.text() == ""


def test_progress_and_log_follow_pip_and_cancel_goes_back(one, shown, pip):
    pip.order(install={"hang": True, "lines": ["Collecting tinyengine==1.0", "Progress 30 of 40"]})
    shown.button("install").click()
    until(lambda: one.fraction)
    shown.button("log").click()
    assert (shown.view.bar.value, shown.view.bar.maximum) == (750, 1000)
    assert shown.view.doing.text == "Collecting tinyengine==1.0"
    assert shown.view.log.toPlainText() == "Collecting tinyengine==1.0"
    shown.button("cancel").click()
    assert shown.headline() == ("Engine: not installed", False) and shown.told == [False]


def test_a_refusal_of_the_question_installs_nothing(one, shown, pip, monkeypatch):
    asked = []
    monkeypatch.setattr(slicer.util, "confirmYesNoDisplay", lambda *texts: asked.append(texts[0]) or False)
    shown.button("install").click()
    finish(one)
    assert [call["stage"] for call in pip.calls()] == ["plan"] and not one.state().ready
    assert "tinyengine 1.0\ntinyhelper 0.6" in asked[0] and str(one.folder()) in asked[0]


def test_from_folder_takes_the_folder_that_is_chosen(one, shown, pip, monkeypatch, tmp_path):
    monkeypatch.setattr(qt.QFileDialog, "getExistingDirectory", lambda *given: "")
    shown.button("folder").click()
    assert not one.busy
    monkeypatch.setattr(qt.QFileDialog, "getExistingDirectory", lambda *given: str(tmp_path))
    shown.button("folder").click()
    finish(one)
    arguments = pip.calls()[0]["arguments"]
    assert arguments[arguments.index("--find-links") + 1] == str(tmp_path) and "--no-index" in arguments


def test_repair_takes_the_chosen_build_and_remove_asks(one, pip, monkeypatch):
    before = installed(tinyengine="1.0", tinyhelper="0.5")
    shown = Shown(one)
    assert shown.headline()[1] and shown.view.flavours.currentData == "cpu"
    shown.view.flavours.setCurrentIndex(1)
    shown.button("repair").click()
    finish(one)
    assert one.failure is None and one.flavour() == GPU
    until(lambda: not before.exists())
    monkeypatch.setattr(slicer.util, "confirmYesNoDisplay", lambda *texts: False)
    shown.button("remove").click()
    assert one.state().ready
    monkeypatch.setattr(slicer.util, "confirmYesNoDisplay", lambda *texts: True)
    shown.button("remove").click()
    assert shown.headline() == ("Engine: not installed", False) and shown.told == [True, False]
    shown.view.release()


def test_a_restart_is_offered_after_a_question(one, monkeypatch):
    monkeypatch.setattr(one, "state", lambda: State(False, "Restart Slicer.", (), restart=True))
    restarts, answers = [], [False, True]
    monkeypatch.setattr(slicer.util, "restart", lambda: restarts.append(1))
    monkeypatch.setattr(slicer.util, "confirmYesNoDisplay", lambda text: answers.pop(0))
    shown = Shown(one)
    assert shown.headline() == ("Engine: restart needed", False) and shown.buttons() == {"restart"}
    shown.button("restart").click()
    assert restarts == []
    shown.button("restart").click()
    assert restarts == [1]
    shown.view.release()


def test_what_is_needed_can_be_copied(one, shown):
    shown.button("needed").click()
    assert shown.view.log.toPlainText() == one.offline_list() and not shown.view.log.isHidden()


def test_an_engine_that_doesn_t_start_is_told(one, shown):
    installed(tinyengine="1.0", tinyhelper="0.5")
    shown.view.refresh()
    shown.view.section.setProperty("collapsed", True)
    shown.view.tell("The engine can't start: its package 'torch' can't be imported.")
    assert "can't be imported" in shown.view.error.text() and shown.headline()[1] is False
    assert shown.buttons() == {"repair", "remove"}


def test_the_question_names_packages_sizes_and_place():
    wheels = [Wheel("torch", "2.9.0"), Wheel("tiny", "1.0", 2_400_000), *(Wheel(f"p{n}", "1") for n in range(12))]
    text = installation_view.question(Plan(GPU, groups=[([], wheels)]), Path("/a/folder"))
    assert "/a/folder:" in text and "torch 2.9.0\ntiny 1.0 (2.4 MB)" in text and "and 2 more" in text
    assert "about 3 GB" in text and "Slicer's own packages stay as they are." in text
    text = installation_view.question(Plan(GPU, by_extension=True), Path("/a/folder"))
    assert "PyTorch extension will install torch into Slicer; Slicer hardly answers" in text and "/a/folder" not in text
