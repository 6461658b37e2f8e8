"""What the tests of models share: a folder of the user's models, made-up models, the section "Models"."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import qt
import slicer

from diffusion_panel import declarations, weights
from diffusion_panel.weights_view import WeightsView

from .engines import until

BUNDLED = declarations.resource("Models")
METHOD = next(m for m in declarations.declarations().values() if m["models"] and m["state"] == "works")
SLOT = METHOD["models"][0]


@pytest.fixture
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
