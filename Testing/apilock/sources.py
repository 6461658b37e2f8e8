"""The files of the extension that run inside Slicer, and those of the engine, which must not know of it."""

from __future__ import annotations

import ast
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
MODULES = ("DiffusionReconstruction", "DiffusionSegmentation", "DiffusionSynthesis")
PACKAGES = "DiffusionBackend"


@dataclass(frozen=True)
class Source:
    """A Python file. path : relative to the repository. module : its name for `import`."""

    path: str
    module: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @property
    def is_engine(self) -> bool:
        return "diffusion_backend/" in self.path

    @property
    def is_script(self) -> bool:
        """Whether Slicer runs the file as a script, or as a test: no part of the panel."""
        return self.path.startswith(("Resources/", "Testing/"))

    @property
    def package(self) -> str:
        """What a relative import of one dot begins at."""
        return self.module if self.path.endswith("__init__.py") else self.module.rpartition(".")[0]


@dataclass(frozen=True)
class Shell:
    """A .ui file."""

    path: str
    root: ET.Element

    def widgets(self) -> dict[str, str]:
        """Object name -> class."""
        return {w.get("name", ""): w.get("class", "") for w in self.root.iter("widget")}


def python(root: Path = REPOSITORY) -> list[Source]:
    """Panel, module files, batch scripts, and the tests that real Slicer runs."""
    files = sorted((root / PACKAGES / "diffusion_panel").rglob("*.py"))
    files += [f for name in MODULES for f in sorted((root / name).glob("*.py"))]
    files += [f for folder in ("Resources/Batch", "Testing/slicer") for f in sorted((root / folder).rglob("*.py"))]
    return [_source(f, root) for f in files]


def engine(root: Path = REPOSITORY) -> list[Source]:
    """The engine's files."""
    return [_source(f, root) for f in sorted((root / PACKAGES / "diffusion_backend").rglob("*.py"))]


def shells(root: Path = REPOSITORY) -> list[Shell]:
    """The .ui files, those of the modules included."""
    folders = [root / "Resources", *(root / name / "Resources" for name in MODULES)]
    files = [f for folder in folders for f in sorted((folder / "UI").glob("*.ui"))]
    return [Shell(f.relative_to(root).as_posix(), ET.parse(f).getroot()) for f in files]


def _source(file: Path, root: Path) -> Source:
    path = file.relative_to(root)
    parts = path.with_suffix("").parts
    parts = parts[1:] if parts[0] == PACKAGES else parts[-1:]
    return Source(path.as_posix(), ".".join(p for p in parts if p != "__init__"), file.read_text(encoding="utf-8"))
