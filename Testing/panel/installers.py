"""What the tests of the installation share: a home folder, two tiny packages that the engine needs, a fake pip."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from diffusion_panel import installation, process
from diffusion_panel.installing import packages

from .engines import until

FAKE = Path(__file__).with_name("fake_pip")
NEEDED = ["tinyengine>=1,<2", "tinyhelper>=0.5,<1"]
GOOD = {"plan": {}, "install": {}, "report": {"tinyengine": "1.0", "tinyhelper": "0.6"}}


@pytest.fixture(name="home", autouse=True)
def make_home(tmp_path, monkeypatch):
    """A home folder of its own, with a long name and blanks; the engine needs two tiny packages."""
    folder = tmp_path / ("a home with blanks " * 8).strip()
    folder.mkdir()
    monkeypatch.setattr(Path, "home", lambda: folder)
    monkeypatch.delenv("DIFFUSIONMODELS_PYTHON", raising=False)
    monkeypatch.setattr(packages, "requirements", lambda: [Requirement(line) for line in NEEDED])
    monkeypatch.setattr(process, "engine_python", lambda: sys.executable)
    return folder


@pytest.fixture(name="one")
def make_one():
    """An installation that nothing is left of after the test."""
    made = installation.Installation()
    yield made
    made.release()


class FakePip:
    """Orders for the fake pip, and its calls."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def order(self, **changes) -> None:
        self.file.write_text(json.dumps(GOOD | changes), encoding="utf-8")

    def calls(self) -> list[dict]:
        log = self.file.with_suffix(".calls")
        return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []


@pytest.fixture(name="pip")
def make_pip(tmp_path, monkeypatch):
    fake = FakePip(tmp_path / "orders.json")
    fake.order()
    monkeypatch.setenv("PYTHONPATH", str(FAKE))
    monkeypatch.setenv("FAKE_PIP", str(fake.file))
    monkeypatch.setattr(installation, "VERIFY", ["-m", "quick_verify"])
    return fake


def run(one: installation.Installation, **arguments) -> None:
    one.install(**arguments)
    finish(one)


def finish(one: installation.Installation) -> None:
    until(lambda: not one.busy, 120)


def gone(folder: Path) -> None:
    until(lambda: not folder.exists())


def put(folder: Path, name: str, version: str, needs: str = "") -> None:
    """A package as pip leaves it, without any module in it: nothing can import it."""
    metadata = folder / f"{name}-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    requires = f"Requires-Dist: {needs}\n" if needs else ""
    metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}", encoding="utf-8")


def installed(number: int = 1, **versions: str) -> Path:
    """A complete installation of our own."""
    folder = packages.root() / str(number)
    folder.mkdir(parents=True)
    for name, version in versions.items():
        put(folder, name, version)
    packages.write_record(folder, {"flavour": "cpu", "wheels": ""})
    return folder
