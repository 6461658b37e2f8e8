"""The three modules as files: what they import, what they say of themselves, where they find the shared packages."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import qt
import slicer

from diffusion_panel import declarations

from .panels import MODULES, REPOSITORY, panel, unload

PANEL = REPOSITORY / "DiffusionBackend" / "diffusion_panel"
FILES = [REPOSITORY / name / f"{name}.py" for name in MODULES.values()]
SOURCES = sorted(PANEL.rglob("*.py")) + FILES
CATEGORIES = {"DiffusionReconstruction": "Tomographic Reconstruction", "DiffusionSegmentation": "Segmentation",
              "DiffusionSynthesis": "Image Synthesis"}  # fmt: skip
BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "scipy", "pywt", "SimpleITK", "safetensors"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
sys.path.insert(0, sys.argv[1])
import headless
headless.start()
for file in sys.argv[2:]:
    headless.load_module(file).widgetRepresentation().enter()
assert not {"torch", "scipy", "pywt"} & set(sys.modules)
print(sys.modules["diffusion_panel"].__file__)
headless.leave(1 if headless.errors.take() else 0)
"""


@pytest.fixture(scope="module", autouse=True)
def unloaded():
    """No panel outlives this file."""
    yield
    unload()


def load_in_a_fresh_process(files: list[Path]) -> Path:
    """Load and enter modules where the engine's packages are missing; returns where the panel's package lies."""
    command = [sys.executable, "-c", BLOCKED, str(REPOSITORY / "Testing"), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd="/")
    assert done.returncode == 0, done.stderr[-2000:]
    return Path(done.stdout.splitlines()[-1]).parent


def test_the_modules_open_where_the_engines_packages_are_missing():
    assert load_in_a_fresh_process(FILES) == PANEL


def test_the_modules_open_in_the_merged_tree_of_an_installation(tmp_path):
    """All modules, packages and resources in one folder, as the application installs them."""
    tree = tmp_path / "qt-scripted-modules Größe"
    skip = shutil.ignore_patterns("__pycache__", "Models", "Screenshots")
    for package in ("diffusion_panel", "diffusion_backend"):
        shutil.copytree(REPOSITORY / "DiffusionBackend" / package, tree / package, ignore=skip)
    shutil.copytree(REPOSITORY / "Resources", tree / "Resources", ignore=skip)
    (tree / "Resources" / "Models").mkdir()
    for name in MODULES.values():
        shutil.copytree(REPOSITORY / name, tree, ignore=skip, dirs_exist_ok=True)
    assert load_in_a_fresh_process([tree / f.name for f in FILES]) == tree / "diffusion_panel"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_tells_what_it_is(module):
    name = MODULES[module]
    panel(module)
    parent = getattr(slicer.modules, name.lower())
    assert list(parent.categories) == [CATEGORIES[name]] and "Diffusion" not in parent.categories
    assert parent.title and list(parent.contributors) == ["DiffusionModels developers"]
    assert "generative diffusion models" in parent.helpText.lower() and "Not for clinical use" in parent.helpText
    for method in declarations.of_module(module):
        assert method["name"].split("&")[0] in parent.helpText
        assert method["citation"] is None or str(method["citation"]["year"]) in parent.acknowledgementText
    for suffix in ("", "Widget", "Logic", "Test"):
        assert hasattr(sys.modules[name], name + suffix)


@pytest.mark.parametrize("name", MODULES.values())
@pytest.mark.parametrize("background", ["#ffffff", "#202020"])
def test_icons_stand_out_from_light_and_dark(name, background):
    icon = qt.QIcon(str(REPOSITORY / name / "Resources" / "Icons" / f"{name}.svg"))
    image = qt.QImage(48, 48, qt.QImage.Format_ARGB32)
    image.fill(qt.QColor(background))
    painter = qt.QPainter(image)
    icon.paint(painter, 0, 0, 48, 48)
    painter.end()
    grey = [qt.qGray(image.pixel(x, y)) for x in range(48) for y in range(48)]
    behind = qt.qGray(qt.QColor(background).rgb())
    assert sum(abs(g - behind) > 40 for g in grey) > 0.3 * len(grey)
    assert max(grey) - min(grey) > 80


@pytest.mark.parametrize("module", MODULES)
def test_the_self_test_of_a_module_passes(module):
    panel(module)
    slicer.selfTests[MODULES[module]]()


@pytest.mark.parametrize("source", SOURCES, ids=[str(s.relative_to(REPOSITORY)) for s in SOURCES])
def test_a_panel_file_is_small_and_names_no_method(source):
    """What it imports is looked at by the lint (headless/tests/test_lint.py)."""
    text = source.read_text(encoding="utf-8")
    tree = ast.parse(text)
    words = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    assert not words & set(declarations.declarations())
    assert not re.search(r"\b[aA](0[1-9]|1\d|20)\b", text)
    assert len(text.splitlines()) <= 400
    assert max(map(len, text.splitlines()), default=0) <= 120
    functions = [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    assert all(f.end_lineno - f.lineno < 45 for f in functions)


def test_the_shell_has_unique_names_and_known_widgets():
    shell = declarations.resource("UI", "DiffusionPanel.ui")
    root = ET.parse(shell).getroot()
    names = [e.get("name") for e in root.iter() if e.tag in ("widget", "layout", "spacer")]
    assert len(names) == len(set(names))
    assert root.find("widget").get("class") == "qMRMLWidget"
    known = {c.findtext("class") for c in root.iter("customwidget")}
    assert {e.get("class") for e in root.iter("widget") if not e.get("class").startswith("Q")} == known
    parts = [item.find("widget") for item in root.find("widget/layout") if item.find("widget") is not None]
    sections = [part.get("name") for part in parts if part.get("class") == "ctkCollapsibleButton"]
    assert sections == [f"{n}Section" for n in ("method", "inputs", "parameters", "run", "result")]


def test_resource_files_of_the_modules_have_unique_names():
    folders = [REPOSITORY / "Resources", *(REPOSITORY / name / "Resources" for name in MODULES.values())]
    paths = [str(f.relative_to(folder)).lower() for folder in folders for f in folder.rglob("*") if f.is_file()]
    assert len(paths) == len(set(paths))


def test_an_old_slicer_is_told_in_one_sentence(monkeypatch):
    widget = panel()
    monkeypatch.setattr(slicer.app, "minorVersion", 8)
    widget.check()
    assert widget.problems() == [
        f"This is Slicer 5.8, but DiffusionModels {declarations.version()} needs Slicer 5.10 or later. Update Slicer."
    ]
    assert not widget.ui.applyButton.enabled
    monkeypatch.setattr(slicer.app, "minorVersion", 10)
    assert "Update Slicer" not in " ".join(widget.problems())


def test_the_version_stands_in_the_help_and_is_the_engines():
    from diffusion_backend import __version__

    panel()
    assert declarations.version() == __version__
    assert f"DiffusionModels {__version__}" in slicer.modules.diffusionreconstruction.helpText
