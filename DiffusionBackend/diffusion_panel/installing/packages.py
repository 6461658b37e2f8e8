"""Which packages the engine needs, which it would find, and where our own lie: from metadata, nothing is imported."""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..declarations import resource

PROTECTED = ("numpy", "scipy", "simpleitk", "vtk", "requests")  # Slicer's; another version breaks the application
RECORD = "installed.json"  # written last: a folder without it isn't complete


@dataclass(frozen=True)
class Package:
    """A required package. found : version that the engine would import, "" for none. own : whether it is ours."""

    name: str
    needed: str
    found: str
    fits: bool
    own: bool


def root() -> Path:
    """The user's folder of installations for this Python and platform."""
    version = f"py{sys.version_info.major}{sys.version_info.minor}"
    return Path.home() / ".diffusionmodels" / "packages" / f"{version}-{sysconfig.get_platform()}"


def numbered() -> list[Path]:
    """All installations, complete or not, in order."""
    if not root().is_dir():
        return []
    return sorted((p for p in root().iterdir() if p.name.isdigit()), key=lambda p: int(p.name))


def current() -> Path | None:
    """The newest complete installation of our own."""
    complete = [p for p in numbered() if (p / RECORD).is_file()]
    return complete[-1] if complete else None


def new_folder() -> Path:
    """A fresh folder, found by nobody before its record is written. Raises OSError."""
    last = numbered()
    number = int(last[-1].name) + 1 if last else 1
    while True:
        folder = root() / str(number)
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:  # another Slicer installs, too
            number += 1


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Make an installation count. Raises OSError."""
    unfinished = folder / f"{RECORD}.part"
    unfinished.write_text(json.dumps(record, indent=1), encoding="utf-8")
    os.replace(unfinished, folder / RECORD)


def read_record(folder: Path | None) -> dict[str, Any]:
    """What was noted at the installation; {} where there is none."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8")) if folder else {}
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def requirements() -> list[Any]:
    """The lines of requirements.txt as `packaging.requirements.Requirement`."""
    from packaging.requirements import Requirement  # Slicer brings it, but not every Python that runs our tests

    lines = resource("requirements.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]


def version_of(name: str, paths: Iterable[str]) -> str:
    """The version of a package in the first of these folders that has it, "" for none."""
    found = next(iter(importlib.metadata.distributions(name=name, path=list(paths))), None)
    return (found.version or "") if found else ""


def status(own: Path | None) -> list[Package]:
    """The required packages as the engine would find them with the installation `own`."""
    packages = []
    for requirement in requirements():
        ours = version_of(requirement.name, [str(own)]) if own else ""
        found = ours or version_of(requirement.name, sys.path)
        fit = fits(requirement, found)
        packages.append(Package(requirement.name, bounds(requirement), found, fit, bool(ours)))
    return packages


def bounds(requirement: Any) -> str:
    """The versions that a requirement allows, the lower bound first."""
    return ",".join(sorted((str(s) for s in requirement.specifier), reverse=True))


def fits(requirement: Any, version: str) -> bool:
    """Whether a version (may be "") satisfies a requirement; a pre-release that was installed counts."""
    return bool(version) and requirement.specifier.contains(version, prereleases=True)


def lacking(own: Path) -> list[str]:
    """What packages of our own need and neither they nor Slicer have, such as after an update of Slicer."""
    from packaging.requirements import Requirement

    missing = []
    for text in sorted({t for d in ours(own) for t in d.requires or []}):
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        if not fits(requirement, version_of(requirement.name, [str(own), *sys.path])):
            missing.append(f"{requirement.name} {bounds(requirement)}".strip())
    return missing


def ours(own: Path) -> Iterator[importlib.metadata.Distribution]:
    """The packages in an installation."""
    importlib.invalidate_caches()
    yield from importlib.metadata.distributions(path=[str(own)])


def protected(names: Iterable[str]) -> list[str]:
    """Those of the names that belong to Slicer."""
    return [name for name in names if name.lower().replace("_", "-") in PROTECTED]


def constraints() -> list[str]:
    """Slicer's own versions of what must not be replaced, as lines for pip."""
    versions = {name: version_of(name, sys.path) for name in PROTECTED}
    return [f"{name}=={version}" for name, version in versions.items() if version]


def loaded_but_changed() -> list[tuple[str, str, str]]:
    """(name, version loaded by Slicer's process, version installed in its Python) where these differ."""
    changed = []
    for requirement in requirements():
        module = sys.modules.get(requirement.name)
        loaded, installed = getattr(module, "__version__", ""), version_of(requirement.name, sys.path)
        if loaded and installed and _public(loaded) != _public(installed):
            changed.append((requirement.name, str(loaded), installed))
    return changed


def _public(version: Any) -> str:
    """A version without its build: torch calls itself 2.9.0+cu130 where its metadata say 2.9.0."""
    return str(version).partition("+")[0]
