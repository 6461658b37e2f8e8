"""Whether the engine finds what it needs. Reads metadata alone: no package is imported, no process started."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slicer.i18n import tr as _

from .. import process
from . import packages


@dataclass(frozen=True)
class State:
    """ready : whether runs can be started. restart : Slicer must be restarted first."""

    ready: bool
    sentence: str
    packages: tuple[packages.Package, ...] = ()
    restart: bool = False


def read() -> State:
    """The present state."""
    chosen = process.chosen_python()
    if chosen:
        message = _("The engine uses the Python that you chose, {path}. Its packages are yours to install.")
        return State(True, message.format(path=chosen))
    own = packages.current()
    found = tuple(packages.status(own))
    for name, loaded, installed in packages.loaded_but_changed():
        message = _("{name} {installed} was installed while Slicer has {loaded} loaded. Restart Slicer.")
        return State(False, message.format(name=name, loaded=loaded, installed=installed), found, restart=True)
    problem = _required(found) or (_own(own) if own else "")
    if problem:
        return State(False, problem, found)
    versions = ", ".join(f"{p.name} {p.found}" for p in found)
    return State(True, _("Engine ready: {versions}.").format(versions=versions), found)


def _required(found: tuple[packages.Package, ...]) -> str:
    """What is wrong with the required packages, with the remedy; "" for nothing."""
    for package in found:
        if package.found and not package.fits:
            message = _("{name} {found} was found, but the engine needs {needed}. Press 'Install…'; it goes beside it.")
            return message.format(name=package.name, found=package.found, needed=package.needed)
    missing = [f"{p.name} {p.needed}" for p in found if not p.found]
    if not missing:
        return ""
    message = _("The engine lacks {names}. Press 'Install…'; you are asked before anything is changed.")
    return message.format(names=_(" and ").join(missing))


def _own(own: Path) -> str:
    """What is wrong with the packages of our own, with the remedy; "" for nothing."""
    slicers = packages.protected(d.metadata["Name"] for d in packages.ours(own))
    if slicers:
        message = _("The engine's packages hold '{name}', which must come from Slicer. Press 'Repair…'.")
        return message.format(name=slicers[0])
    lacking = packages.lacking(own)
    if lacking:
        message = _("The engine's packages are incomplete: {names} is missing. Press 'Repair…'.")
        return message.format(names=", ".join(lacking))
    return ""
