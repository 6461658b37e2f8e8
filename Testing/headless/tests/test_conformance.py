"""Slicer's own Python tests, unmodified, on the stand-in: SLICER_SRC names a checkout of Slicer's sources.

`conformance.json` holds for each file how many tests it has, and for each test that fails here the reason.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import pytest

if not os.environ.get("SLICER_SRC"):
    pytest.skip("SLICER_SRC names no checkout of Slicer's sources", allow_module_level=True)

HEADLESS = Path(__file__).resolve().parents[1]
CHECKOUT = Path(os.environ["SLICER_SRC"]).resolve()
TABLE = json.loads((HEADLESS / "conformance.json").read_text(encoding="utf-8"))
_passed: dict[str, int] = {}


@pytest.fixture
def environment(tmp_path) -> dict[str, str]:
    """For a process whose pip finds nothing but one made-up package, and installs into the test's own folder."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "certifi.py").touch()  # a package that the application always has, imported by name only
    wheel = "pip_install_test-0.5-py3-none-any.whl"
    with zipfile.ZipFile(tmp_path / wheel, "w") as file:
        folder = "pip_install_test-0.5.dist-info"
        file.writestr(f"{folder}/METADATA", "Metadata-Version: 2.1\nName: pip-install-test\nVersion: 0.5\n")
        file.writestr(f"{folder}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{folder}/RECORD", f"{folder}/METADATA,,\n{folder}/WHEEL,,\n{folder}/RECORD,,\n")
    return os.environ | {
        "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_TARGET": str(site),
        "HEADLESS_PYTHON": sys.executable, "PYTHONPATH": os.pathsep.join([str(site), str(HEADLESS.parent)]),
        "SLICER_SRC": str(CHECKOUT)}


@pytest.mark.parametrize("file", TABLE)
def test_slicers_own_tests_pass_as_before(file, environment, tmp_path):
    result = tmp_path / "result.json"
    done = subprocess.run([sys.executable, "-m", "headless.conformance", str(CHECKOUT / file), str(result)],
                          env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found, known = json.loads(result.read_text(encoding="utf-8")), TABLE[file].get("fails", {})
    failed = {name.split(".", 1)[1]: report for name, report in found["failed"].items()}
    assert {name: report for name, report in failed.items() if name not in known} == {}
    assert found["run"] >= TABLE[file]["run"] and found["reports"] == []
    _passed[file] = found["run"] - len(failed)
    better = [f"'{name}' passes now" for name in known if name not in failed]
    if found["run"] > TABLE[file]["run"]:
        better.append(f"{found['run']} tests are run")
    if better:
        warnings.warn(f"conformance.json can be raised: {', '.join(better)} ({file}).", stacklevel=1)


@pytest.mark.parametrize("name, status", [("SlicerTestingExitSuccessTest", 0), ("SlicerTestingExitFailureTest", 1)])
def test_the_launcher_ends_with_the_status_that_slicers_tests_expect(name, status, environment):
    script = CHECKOUT / "Applications/SlicerApp/Testing/Python" / f"{name}.py"
    command = [HEADLESS / "Slicer", "--testing", "--no-splash", "--no-main-window", "--python-script", script]
    assert subprocess.run(command, env=environment, capture_output=True).returncode == status


def test_a_module_may_change_the_python_path_while_it_is_loaded(environment, tmp_path):
    script = CHECKOUT / "Applications/SlicerApp/Testing/Python/SlicerStartupPreserveSysPathTest.py"
    done = subprocess.run([sys.executable, "-W", "ignore", script, HEADLESS / "Slicer"], env=environment, cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_total(capsys):
    """Told in the report of every run."""
    with capsys.disabled():
        print(f"\nSlicer's own tests: {sum(_passed.values())} of {sum(TABLE[file]['run'] for file in _passed)} passed "
              f"in {len(_passed)} files.")
    assert sum(_passed.values()) >= sum(TABLE[file]["run"] - len(TABLE[file].get("fails", {})) for file in _passed)
