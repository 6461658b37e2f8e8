"""The package holds what the source tree holds, and runs alone."""

from __future__ import annotations

import filecmp
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from building import LATE, MODULES, REPOSITORY, Package, configure, make, tool

LEFT_OUT = re.compile(r"Resources/(Screenshots/.*|Physics/make_tables\.py)")  # documentation, and what made the tables
SELF_TESTS = (*MODULES, "DiffusionModelsSelfTest")
WATCH = """
import os, sys
forbidden = tuple(os.environ["WATCH_FORBIDDEN"].split(os.pathsep))
log = os.open(os.environ["WATCH_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
os.write(log, f"process {sys.orig_argv}\\n".encode())
def note(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, os.PathLike)) and str(arguments[0]).startswith(forbidden):
        os.write(log, f"read {arguments[0]}\\n".encode())
sys.addaudithook(note)
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Package:
    """The package, made once, under a path with letters of several languages."""
    return make(tmp_path_factory.mktemp("Größe µ 測試"))


def files(folder: Path) -> list[str]:
    """The files below a folder, as paths relative to it; nothing hidden, nothing compiled."""
    found = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    return sorted(p.as_posix() for p in found if not any(q.startswith((".", "__pycache__")) for q in p.parts))


def shipped(source: Path) -> list[tuple[str, Path]]:
    """(path beside the modules, file) of all that is meant for users, found without CMake."""
    roots = [*(source / name for name in MODULES), source / "DiffusionBackend", source]
    listed = [(name, root / name) for root in roots for name in files(root)
              if root != source or name.startswith("Resources/")]  # fmt: skip
    return [(name, file) for name, file in listed if file.name != "CMakeLists.txt" and not LEFT_OUT.fullmatch(name)]


def differences(package: Package) -> list[str]:
    """What the package lacks, has too much, or has in another version."""
    wanted, found = dict(shipped(package.source)), set(files(package.modules))
    lines = [f"lacks {name}" for name in wanted if name not in found] + [f"has {n}" for n in found if n not in wanted]
    return lines + [f"other {name}" for name, file in wanted.items()
                    if name in found and not filecmp.cmp(file, package.modules / name, shallow=False)]  # fmt: skip


def test_package_and_source_tree_agree(package):
    assert differences(package) == []
    assert len(files(package.modules)) > 150


def test_no_two_files_of_the_extension_have_one_place(package):
    places = Counter(name for name, file in shipped(package.source))
    assert [name for name, count in places.items() if count > 1] == []


def test_a_file_that_came_after_the_configuration_is_packaged(package):
    assert package.noticed == list(itertools.chain(*LATE))


def test_a_forgotten_file_of_a_module_is_noticed(package):
    forgotten = package.source / "DiffusionSynthesis" / "Resources" / "UI" / "Forgotten.ui"
    forgotten.parent.mkdir()
    forgotten.write_text("<ui/>")
    try:
        assert differences(package) == ["lacks Resources/UI/Forgotten.ui"]
    finally:
        forgotten.unlink()
        forgotten.parent.rmdir()


def test_a_listed_file_that_is_missing_stops_the_configuration(package, tmp_path):
    icon = package.source / "DiffusionSynthesis" / "Resources" / "Icons" / "DiffusionSynthesis.svg"
    away = icon.rename(tmp_path / icon.name)
    try:
        done = configure(package.source, tmp_path / "build")
        assert done.returncode != 0 and "Icons/DiffusionSynthesis.svg" in done.stdout
    finally:
        away.rename(icon)


def test_only_the_three_modules_lie_in_the_module_folder(package):
    """The application takes every .py directly in it for a module, and looks into no folder below it."""
    assert {p.stem for p in package.modules.glob("*.py")} == set(MODULES)
    assert {p.name for p in package.modules.iterdir() if p.is_dir()} == {
        "diffusion_backend", "diffusion_panel", "Resources"}  # fmt: skip


def test_licence_and_description_go_with_the_package(package):
    outside = [name for name in files(package.installed) if not name.startswith("lib/")]
    assert [name.rsplit("/", 1)[1] for name in outside] == ["DiffusionModels.s4ext", "LICENSE"]
    described = (package.build / "DiffusionModels.s4ext").read_text().splitlines()
    assert "depends PyTorch" in described
    assert any(line.startswith("description Generative") and "clinical use." in line for line in described)


def test_the_tests_are_registered(package):
    shown = subprocess.run([tool("ctest"), "--test-dir", package.build, "--show-only=json-v1"], capture_output=True)
    commands = {test["name"]: " ".join(test["command"]) for test in json.loads(shown.stdout)["tests"]}
    generic = [f"qSlicer{name}ModuleGenericTest" for name in MODULES]
    assert set(commands) == {f"py_{n}" for n in SELF_TESTS} | {f"py_nomainwindow_{n}" for n in generic}
    assert all("--no-main-window" in commands[f"py_nomainwindow_{name}"] for name in generic)


def test_the_modules_stand_their_generic_tests_without_main_window(package):
    command = [tool("ctest"), "--test-dir", package.build, "-R", "nomainwindow", "--output-on-failure"]
    done = subprocess.run(command, capture_output=True, text=True, env=surroundings(), timeout=300)
    assert done.returncode == 0 and "tests passed, 0 tests failed out of 3" in done.stdout, done.stdout


def test_the_package_alone_passes_the_modules_self_tests(package, tmp_path):
    """Methods compute with the package's weights; no process opens a file of the sources or of the build tree."""
    (tmp_path / "sitecustomize.py").write_text(WATCH)
    shutil.copy(package.source / "Testing" / "slicer" / "DiffusionModelsSelfTest.py", tmp_path)
    sources = [package.source, package.build, *(REPOSITORY / n for n in (*MODULES, "DiffusionBackend", "Resources"))]
    watch = {"WATCH_LOG": str(tmp_path / "log"), "WATCH_FORBIDDEN": os.pathsep.join(f"{p}{os.sep}" for p in sources)}
    code = f"import slicer.testing\nfor name in {SELF_TESTS}: slicer.testing.runUnitTest([], name)"
    command = [REPOSITORY / "Testing" / "headless" / "Slicer", "--testing"]
    command += ["--additional-module-paths", package.modules, "--python-code", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=600,
                          env=surroundings() | watch | {"PYTHONPATH": str(tmp_path)})  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stderr.count("\nOK\n") == len(SELF_TESTS)
    log = (tmp_path / "log").read_text().splitlines()
    assert any("diffusion_backend" in line for line in log if line.startswith("process"))
    assert [line for line in log if line.startswith("read")] == []


def test_the_packaged_engine_finds_its_resources_in_a_terminal(package):
    code = "from diffusion_backend import paths; print(paths.resources())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=package.modules, check=True,
                          env=surroundings() | {"PYTHONIOENCODING": "utf-8"})  # fmt: skip
    assert Path(done.stdout.strip()) == package.modules / "Resources"


def surroundings() -> dict[str, str]:
    """The environment of a user who has only the package."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("DIFFUSIONMODELS_") and k != "PYTHONPATH"}
    return kept | {"HEADLESS_PYTHON": sys.executable}
