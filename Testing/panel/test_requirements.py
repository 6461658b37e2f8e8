"""`Resources/requirements.txt`: what a run in Slicer imports, no more and no less, with bounds in one place."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from diffusion_panel.installing import packages

from .panels import REPOSITORY

ENGINE = REPOSITORY / "DiffusionBackend"
ROOTS = ["worker", "run", "simulate", "sample_data", "models", "estimate"]  # what the panel and its jobs reach
OF_SLICER = {"numpy", "scipy", "SimpleITK", "pydicom"}
OF_PICTURES = {"matplotlib", "PIL"}  # for the terminal's preview.png and figures; not in a panel's job
PICTURES = ("pictures", "report")  # the modules that may need them


def file_of(module: str) -> Path | None:
    path = ENGINE.joinpath(*module.split("."))
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


def imports(file: Path) -> Iterator[str]:
    """Every module that a file names, at its top or inside a function."""
    package = file.relative_to(ENGINE).parts[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            module = ".".join(base + ([node.module] if node.module else []))
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def reached(roots: list[str]) -> dict[str, set[str]]:
    """Third-party module -> stems of the engine's files that import it, for all that the roots reach."""
    seen: set[Path] = set()
    found: dict[str, set[str]] = {}
    todo = [(name, "") for name in roots]
    while todo:
        name, importer = todo.pop()
        file = file_of(name)
        if file is None and name.split(".")[0] not in {"diffusion_backend", *sys.stdlib_module_names}:
            found.setdefault(name.split(".")[0], set()).add(importer)
        if file is not None and file not in seen:
            seen.add(file)
            todo += [(n, file.stem) for n in imports(file)]
    return found


def test_the_list_is_what_a_run_imports():
    methods = [f"diffusion_backend.methods.{p.stem}" for p in (ENGINE / "diffusion_backend/methods").glob("*.py")]
    found = reached([*(f"diffusion_backend.{name}" for name in ROOTS), *methods])
    for name in OF_PICTURES & set(found):
        assert found[name] <= set(PICTURES), f"{name} would be needed in Slicer, for {found[name]}"
    assert set(found) - OF_SLICER - OF_PICTURES == {r.name for r in packages.requirements()}


def test_every_package_has_a_lower_and_an_upper_bound_and_none_is_slicers():
    for requirement in packages.requirements():
        assert {s.operator for s in requirement.specifier} == {">=", "<"}, requirement
    assert packages.protected(r.name for r in packages.requirements()) == []


def test_lower_bounds_are_those_of_the_engine():
    tomllib = pytest.importorskip("tomllib") if sys.version_info < (3, 11) else __import__("tomllib")
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    engine = {r.name: r.specifier for r in map(Requirement, declared)}
    for requirement in packages.requirements():
        lower = {str(s) for s in requirement.specifier if s.operator == ">="}
        assert lower <= {str(s) for s in engine[requirement.name]}, requirement
