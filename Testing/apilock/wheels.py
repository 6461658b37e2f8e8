"""What the wheels on this machine tell: classes of VTK and MRML, Qt's meta objects, the text of `slicer.util`.

`vtk(name)`, `qt(name)` give a class or None; `*_member` a found member or None. A member says its kind, its signature,
where it is declared, and the types that it gives ("slicer.vtkMRMLNode+": this class or a subclass of it).
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import PySide6
import slicer_core
import vtk as vtk_module
from PySide6 import QtCore, QtGui, QtWidgets

QT = {"QtCore": QtCore, "QtGui": QtGui, "QtWidgets": QtWidgets}
PYSIDE_ALONE = {"Signal", "Slot", "Property", "SignalInstance"}


@dataclass(frozen=True)
class Found:
    """A name that exists. key : its name in the lock. gives : types of a property's value or a method's result."""

    key: str
    kind: str
    signature: str
    checked: str
    file: str = ""
    line: int = 0
    gives: tuple[str, ...] = ()


def vtk(name: str) -> type | None:
    """A class of VTK or MRML."""
    found = getattr(slicer_core, name, None) or getattr(vtk_module, name, None)
    return found if isinstance(found, type) and issubclass(found, vtk_module.vtkObjectBase) else None


def vtk_type(name: str) -> str:
    """The name under which the extension reaches a class: "vtk.vtkMatrix4x4", "slicer.vtkMRMLScene"."""
    return f"vtk.{name}" if hasattr(vtk_module, name) else f"slicer.{name}"


def vtk_member(name: str, member: str, or_below: bool = False) -> Found | None:
    """A member of a VTK class; with `or_below` also one that only a subclass has."""
    kind = vtk(name)
    if kind is None:
        return None
    for owner in kind.__mro__:
        if member in vars(owner) and owner is not object:
            return _vtk_found(owner, member)
    below = sorted(_below(kind, member)) if or_below else []
    return _vtk_found(getattr(slicer_core, below[0]), member) if below else None


@cache
def any_vtk_member(member: str) -> Found | None:
    """A member that some class of VTK has: for objects whose class isn't known."""
    known = any(hasattr(c, member) for c in _all_below(vtk_module.vtkObjectBase))
    return Found(f"*.{member}", "method", member, "wheel, by name alone") if known else None


def _below(kind: type, member: str) -> list[str]:
    """The classes of Slicer's core below `kind` that declare a member."""
    return [c.__name__ for c in _all_below(kind) if member in vars(c) and hasattr(slicer_core, c.__name__)]


def _all_below(kind: type) -> list[type]:
    return [d for c in kind.__subclasses__() for d in (c, *_all_below(c))]


def _vtk_found(owner: type, member: str) -> Found:
    value = vars(owner)[member]
    calls = [line for line in (getattr(value, "__doc__", None) or "").splitlines() if line.startswith(f"{member}(")]
    kinds = {re.sub(r"\W", "", call.rpartition("->")[2]) for call in calls if "->" in call}
    gives = tuple(sorted(vtk_type(k) + "+" for k in kinds if vtk(k)))
    checked = f"wheel {'vtk' if owner.__module__.startswith('vtkmodules') else 'slicer-core'}"
    kind = "method" if callable(value) else "constant"
    return Found(f"{vtk_type(owner.__name__)}.{member}", kind, " | ".join(calls) or member, checked, gives=gives)


def qt(name: str) -> type | None:
    """A class of Qt, as PySide6 has it."""
    found = next((getattr(m, name) for m in QT.values() if hasattr(m, name) and name not in PYSIDE_ALONE), None)
    return found if isinstance(found, type) else None


def qt_member(name: str, member: str, of_class: bool = False) -> Found | None:
    """A member of a Qt class: property, signal (with arguments: "clicked(bool)"), method, enum value or class in it.

    of_class : of the class itself, which has no properties (`QTimer.singleShot` is both)."""
    kind = qt(name)
    if kind is None:
        return None
    meta = getattr(kind, "staticMetaObject", None)
    if isinstance(meta, QtCore.QMetaObject):
        if "(" in member:
            return _qt_signal(name, meta, member)
        index = -1 if of_class else meta.indexOfProperty(member)
        if index >= 0:
            found = meta.property(index)
            text = f"{found.typeName()} {member}" + ("" if found.isWritable() else " (read only)")
            return _qt_found(_declared(kind, index, "propertyOffset"), member, "property", text, _cpp(found.typeName()))
    python = {"exec_": "exec"}.get(member, member)
    value = getattr(kind, python, None)
    if value is None or (member == "name" and issubclass(kind, QtCore.QObject)):  # it is the object's name in PythonQt
        return None
    if isinstance(value, type):
        return _qt_found(name, member, "class", f"class {member}")
    owner, gives, text = _stub(name, python)
    return _qt_found(owner, member, "method" if callable(value) else "constant", text or member, gives)


def _qt_signal(name: str, meta: QtCore.QMetaObject, signal: str) -> Found | None:
    normal = QtCore.QMetaObject.normalizedSignature(signal).data().decode()
    index = meta.indexOfSignal(normal)
    return _qt_found(_declared(qt(name), index, "methodOffset"), normal, "signal", normal) if index >= 0 else None


def _declared(kind: Any, index: int, offset: str) -> str:
    """The class that declares property or method number `index`."""
    meta = kind.staticMetaObject
    while getattr(meta, offset)() > index:
        meta = meta.superClass()
    return meta.className()


def _qt_found(owner: str, member: str, kind: str, signature: str, gives: tuple[str, ...] = ()) -> Found:
    return Found(f"qt.{owner}.{member}", kind, signature, "wheel PySide6", qt_file(owner), gives=gives)


def qt_file(name: str) -> str:
    """Qt's own header of a class: "Qt:QtWidgets/QLabel"."""
    module = next((m for m, found in QT.items() if hasattr(found, name)), "QtCore")
    return f"Qt:{module}/{name}"


def _cpp(kind: str) -> tuple[str, ...]:
    return (f"qt.{kind}",) if qt(kind) and kind[:1] == "Q" else ()


@lru_cache(maxsize=1)
def _stubs() -> dict[str, dict[str, list[tuple[str, str]]]]:
    """Class -> method -> (signature, result) of PySide6's type stubs."""
    found: dict[str, dict[str, list[tuple[str, str]]]] = {}
    for module in QT:
        path = Path(PySide6.__file__).parent / f"{module}.pyi"
        for item in ast.parse(path.read_text(encoding="utf-8")).body:
            methods = [f for f in getattr(item, "body", []) if isinstance(f, ast.FunctionDef)]
            for method in methods if isinstance(item, ast.ClassDef) else []:
                result = ast.unparse(method.returns) if method.returns else ""
                text = f"({ast.unparse(method.args)}) -> {result}"
                text = re.sub(r"PySide6\.Qt\w+\.|\bself(, /)?(, )?|, /(?=\))", "", text)
                found.setdefault(item.name, {}).setdefault(method.name, []).append((text, result))
    return found


def _stub(name: str, member: str) -> tuple[str, tuple[str, ...], str]:
    """(class that declares a method, types of its result, signatures)."""
    for owner in qt(name).__mro__:
        entries = _stubs().get(owner.__name__, {}).get(member)
        if entries:
            names = {n for _, result in entries for n in re.findall(r"\bPySide6\.Qt\w+\.(Q\w+)(?!\.)\b", result)}
            return owner.__name__, tuple(sorted(f"qt.{n}" for n in names)), " | ".join(text for text, _ in entries)
    return name, (), ""


@lru_cache(maxsize=1)
def util_text() -> str:
    """The text of `slicer.util` in the wheel."""
    return (Path(slicer_core.__file__).resolve().parents[1] / "slicer" / "util.py").read_text(encoding="utf-8")
