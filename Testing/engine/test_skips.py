"""Two lanes of tests may be skipped; any other skip makes the run fail (see `Testing/conftest.py`)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTING = Path(__file__).resolve().parents[1]
DATA = "DIFFUSIONMODELS_DATA is unset: tests on real images need the folder of real images."
SOURCES = "SLICER_SRC and CTK_SRC name no checkouts"
HEAD = "import pytest\n"


def run(folder, text, conftest=""):
    """Exit status and output of pytest on one file of tests below the project's conftest."""
    shutil.copy(TESTING / "conftest.py", folder / "conftest.py")
    (folder / "below").mkdir()
    (folder / "below" / "conftest.py").write_text(conftest)
    (folder / "below" / "test_it.py").write_text(HEAD + text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)]
    bare = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=folder, env=bare, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout


def test_the_two_lanes_are_counted_and_pass(tmp_path):
    text = (
        f"@pytest.mark.skipif(True, reason={SOURCES!r})\ndef test_a(): pass\n"
        f"@pytest.fixture\ndef data(): pytest.skip({DATA!r})\n"
        "def test_b(data): pass\ndef test_c(data): pass\n"
        "@pytest.mark.xfail(reason='upstream')\ndef test_d(): assert False\n"
        "def test_e(): pass\n"
    )
    code, out = run(tmp_path, text)
    assert code == 0 and "skipped: 2 real data, 1 SLICER_SRC" in out, out


@pytest.mark.parametrize(
    "text",
    [
        "def test_a(): pytest.skip('No mount command.')",
        "@pytest.mark.skip\ndef test_a(): pass",
        "@pytest.mark.skipif(True, reason='Windows')\ndef test_a(): pass",
        "no = pytest.importorskip('no_such_package_anywhere')\ndef test_a(): pass",
        "pytest.skip('all of it', allow_module_level=True)",
        "@pytest.mark.xfail\ndef test_a(): assert False",
    ],
)
def test_any_other_skip_fails_the_run(tmp_path, text):
    code, out = run(tmp_path, f"def test_good(): pass\n{text}\n")
    assert code == 1 and "NOT ALLOWED TO SKIP" in out, out


def test_the_stand_in_leaves_with_the_status_that_is_final(tmp_path):
    """It ends the process itself: the status must be the one after all hooks."""
    leaving = f"import sys\nsys.path.insert(0, {str(TESTING)!r})\n"
    leaving += "from headless.fixtures import pytest_sessionfinish, pytest_unconfigure\n"
    code, out = run(tmp_path, "def test_a(): pytest.skip('Windows')\n", leaving)
    assert code == 1, out
