"""Launcher, runner and error channel, each in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import slicer
import vtk

import headless

FOLDER = Path(headless.FOLDER)
TEST = """
import qt, vtk
from headless.fixtures import scene

def test_good(scene):
    pass

def test_{what}(scene):
    {code}
"""
CODES = {"vtk": "r = vtk.vtkXMLImageDataReader(); r.SetFileName('/none.vti'); r.Update()",
         "slot": "b = qt.QPushButton(); b.connect('clicked()', lambda: 1 / 0); b.click()",
         "observer": "scene.AddObserver('ModifiedEvent', lambda o, e: 1 / 0); scene.Modified()",
         "qt": "qt.qWarning('something is wrong')"}


def run(*arguments, **options) -> subprocess.CompletedProcess:
    return subprocess.run([str(a) for a in arguments], capture_output=True, text=True, timeout=120, check=False,
                          env={**os.environ, "PYTHONPATH": str(FOLDER.parent), "HEADLESS_PYTHON": sys.executable},
                          **options)


@pytest.mark.parametrize("arguments, script, status", [
    (["--no-main-window", "--python-script", "s.py", "a"], "slicer.util.exit(7)", 7),
    (["s.py", "a"], "1 / 0", 1),
    (["s.py", "a"], "assert sys.argv[1:] == ['a'] and slicer.app.layoutManager() is not None", 0),
    (["--testing", "--no-main-window", "--python-script", "s.py", "a"], "assert slicer.app.layoutManager() is None", 0),
    (["--testing", "-c", "b = qt.QPushButton(); b.connect('clicked()', lambda: 1 / 0); b.click()"], "", 1),
    (["--python-script", "none.py"], "", 1),
])
def test_the_command_line_ends_with_the_status(tmp_path, arguments, script, status):
    (tmp_path / "s.py").write_text("import sys, slicer\n" + script)
    ended = run(FOLDER / "Slicer", *arguments, cwd=tmp_path)
    assert ended.returncode == status, ended.stderr


def test_modules_of_a_folder_are_loaded(tmp_path):
    (tmp_path / "Tiny.py").write_text(
        "from slicer.ScriptedLoadableModule import *\nclass Tiny(ScriptedLoadableModule):\n    pass\n")
    (tmp_path / "helper.py").write_text("raise SystemExit('a file without a class of its name is no module')")
    ended = run(FOLDER / "Slicer", "--testing", "--additional-module-paths", tmp_path, "--python-code",
                "print(slicer.modules.tiny.path)")
    assert ended.returncode == 0 and "Tiny.py" in ended.stdout, ended.stderr


def test_the_runner_tests_and_photographs(tmp_path):
    (tmp_path / "Tiny.py").write_text(
        "import qt\nfrom slicer.ScriptedLoadableModule import *\nclass Tiny(ScriptedLoadableModule):\n    pass\n"
        "class TinyWidget(ScriptedLoadableModuleWidget):\n"
        "    def setup(self):\n        self.layout.addWidget(qt.QLabel('Hello'))\n"
        "class TinyTest(ScriptedLoadableModuleTest):\n    def test_it(self):\n        print('tested')\n")
    command = [sys.executable, "-m", "headless.runner", tmp_path / "Tiny.py", "--test"]
    ended = run(*command, "--panel", tmp_path / "p.png", "--window", tmp_path / "w.png", "--palette", "dark")
    assert ended.returncode == 0 and "tested" in ended.stdout, ended.stderr
    assert (tmp_path / "p.png").stat().st_size > 500 and (tmp_path / "w.png").stat().st_size > 5000
    (tmp_path / "Tiny.py").write_text((tmp_path / "Tiny.py").read_text().replace("print('tested')", "assert 0"))
    assert run(*command).returncode == 1


@pytest.mark.parametrize("what", CODES)
def test_a_report_fails_the_test_and_the_process(tmp_path, what):
    conftest = (FOLDER / "tests" / "conftest.py").read_text()
    here = conftest.replace("Path(__file__).resolve().parents[2]", repr(str(FOLDER.parent)))
    (tmp_path / "conftest.py").write_text(here)
    (tmp_path / "test_it.py").write_text(TEST.format(what=what, code=CODES[what]))
    ended = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tmp_path, cwd=tmp_path)
    assert ended.returncode == 1 and "2 passed, 1 error" in ended.stdout, ended.stdout


def test_an_expected_report_passes_and_its_absence_does_not():
    with headless.errors.expect("none.vti") as messages:
        reader = vtk.vtkXMLImageDataReader()
        reader.SetFileName("/none.vti")
        reader.Update()
    assert len(messages) == 1
    assert any("failure" in message for message in headless.errors.take())  # a second report was not expected
    with pytest.raises(AssertionError, match="none"), headless.errors.expect("anything"):
        pass


def test_python_slicer_is_found_and_passes_status_and_input():
    program = shutil.which("PythonSlicer", path=slicer.util.startupEnvironment()["PATH"])
    ended = run(program, "-c", "import sys; print(sys.stdin.read()[::-1]); sys.exit(5)", input="abc")
    assert (ended.returncode, ended.stdout.strip()) == (5, "cba")
