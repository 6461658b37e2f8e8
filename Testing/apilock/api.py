"""One question for all sources: does this class, or this member of it, exist, and what does it give?

Names of VTK, MRML, Qt and `slicer.util` are answered by the wheels. Names of CTK, qMRML, qSlicer and of Slicer's own
Python files are answered by their sources where checkouts are given, else by the committed lock.
"""

from __future__ import annotations

import ast
import re
from dataclasses import asdict
from functools import cache
from typing import Any

from . import wheels
from .headers import Headers
from .wheels import Found

OWN = re.compile(r"(ctk|qMRML|qSlicer)\w+$")  # classes that only headers know
OBJECTS = {"slicer.app": "slicer.qSlicerApplication", "slicer.mrmlScene": "slicer.vtkMRMLScene"}
PYTHON = "Base/Python/slicer"
SCRIPTED = {"SampleData": "Modules/Scripted/SampleData/SampleData.py"}  # modules of Slicer that are imported by name


class Api:
    """lock : the committed entries by name. headers : the sources; None without a checkout."""

    def __init__(self, lock: dict[str, dict[str, Any]], headers: Headers | None = None) -> None:
        self.lock, self.headers = lock, headers
        self.used: dict[str, Found] = {}
        self._python: dict[str, dict[str, Found]] = {}
        self.named, self.member = cache(self.named), cache(self.member)

    def use(self, found: Found | None) -> Found | None:
        """Note that the extension uses a name."""
        if found is not None:
            self.used[found.key] = found
        return found

    def named(self, dotted: str) -> Found | None:
        """A name that is reached through a module: "slicer.util.loadVolume", "qt.QLabel", "slicer.modules.colors"."""
        module, _, name = dotted.rpartition(".")
        if dotted in OBJECTS or dotted == "slicer.modules":
            return self._from_sources(dotted, lambda: self._attribute(dotted))
        if module == "slicer.modules":
            return self._from_sources(dotted, lambda: self._module(dotted, name))
        if module in ("qt", "ctk", "vtk", "slicer") and (found := self.class_(dotted)):
            return found
        if module == "vtk":
            has = hasattr(wheels.vtk_module, name)
            return Found(dotted, "constant", name, "wheel vtk") if has else None
        if module.startswith("vtk.util"):
            return Found(dotted, "function", name, "wheel vtk")
        return self.python(module).get(name) if module.startswith("slicer.") or module in SCRIPTED else None

    def class_(self, dotted: str) -> Found | None:
        """A class by the name under which it is reached."""
        module, _, name = dotted.rpartition(".")
        if module == "qt" and wheels.qt(name):
            return Found(dotted, "class", f"class {name}", "wheel PySide6", wheels.qt_file(name))
        kind = wheels.vtk(name) if module in ("vtk", "slicer") else None
        if kind and (module == "slicer" or hasattr(wheels.vtk_module, name)):
            wheel = "vtk" if kind.__module__.startswith("vtkmodules") else "slicer-core"
            return Found(wheels.vtk_type(name), "class", f"class {name}", f"wheel {wheel}")
        if OWN.match(name) and module == ("ctk" if name.startswith("ctk") else "slicer"):
            return self._from_sources(dotted, lambda: self._header_class(dotted, name))
        return None

    def member(self, kind: str, name: str) -> Found | None:
        """A member of an object of type `kind` ("+": or of a subclass; "=": of the class itself); None without one."""
        exact, of_class = kind.strip("=+"), kind.startswith("=")
        module, _, class_name = exact.rpartition(".")
        if module == "qt":
            return wheels.qt_member(class_name, name, of_class)
        if wheels.vtk(class_name):
            return wheels.vtk_member(class_name, name, or_below=kind.endswith("+"))
        if (exact.startswith("slicer.") and exact.count(".") == 2) or module in SCRIPTED:
            return self.python(module).get(f"{class_name}.{name}")
        while OWN.match(class_name):
            known = self.use(self.class_(typed(class_name)))
            if known is None:
                return None
            key = f"{typed(class_name)}.{name}"
            found = self._from_sources(key, lambda k=key, c=class_name: self._header_member(k, c, name))
            if found:
                return found
            class_name = known.signature.rpartition(" ")[2]
        return wheels.qt_member(class_name, name, of_class)

    def python(self, module: str) -> dict[str, Found]:
        """Functions, classes and methods ("Class.method") of one of Slicer's Python modules."""
        if module not in self._python:
            name = module.removeprefix("slicer.").replace(".", "/")
            file, text, checked = SCRIPTED.get(module, f"{PYTHON}/{name}.py"), "", "source"
            if module == "slicer.util":
                text, checked = wheels.util_text(), "wheel slicer-core"
            elif self.headers and (self.headers.roots["Slicer"] / file).is_file():
                text = (self.headers.roots["Slicer"] / file).read_text(encoding="utf-8")
            found = _python_names(text, module, f"Slicer:{file}", checked)
            entries = {k: e for k, e in self.lock.items() if k.startswith(module + ".")}
            locked = {k.removeprefix(module + "."): _found(k, e) for k, e in entries.items()} if not text else {}
            self._python[module] = found | locked
        return self._python[module]

    def properties(self, kind: str) -> bool:
        """Whether the type is a C++ class of Qt, CTK, qMRML or qSlicer: what is written must be a property."""
        module, _, name = kind.rstrip("+").rpartition(".")
        return (module == "qt" and wheels.qt(name) is not None) or bool(OWN.match(name))

    def _from_sources(self, key: str, look: Any) -> Found | None:
        if self.headers:
            return look()
        return _found(key, self.lock[key]) if key in self.lock else None

    def _attribute(self, dotted: str) -> Found | None:
        file = f"{PYTHON}/__init__.py"
        text = (self.headers.roots["Slicer"] / file).read_text(encoding="utf-8")
        name = dotted.rpartition(".")[2]
        line = next((n for n, t in enumerate(text.splitlines(), 1) if t.endswith(f"attribute:: {name}")), 0)
        gives = (OBJECTS[dotted],) if dotted in OBJECTS else ()
        return Found(dotted, "object", name, "source", f"Slicer:{file}", line, gives) if line else None

    def _module(self, dotted: str, name: str) -> Found | None:
        """A module of the application and the class of its logic."""
        root = self.headers.roots["Slicer"]
        folders = sorted(root.glob("Modules/*/*/CMakeLists.txt"))
        folder = next((f for f in folders if f.parent.name.lower() == name), None)
        if folder is None:
            return None
        source = folder.parent / f"qSlicer{folder.parent.name}Module.cxx"
        text = source.read_text(encoding="utf-8", errors="replace") if source.is_file() else ""
        logic = re.search(r"::createLogic\(\)\s*\{\s*return (\w+)::New", text)
        file = f"Slicer:{(source if text else folder).relative_to(root).as_posix()}"
        line = text.count("\n", 0, logic.start()) + 1 if logic else 0
        return Found(dotted, "module", f"logic: {logic.group(1)}" if logic else "no logic", "source", file, line)

    def _header_class(self, dotted: str, name: str) -> Found | None:
        found = self.headers.find(name)
        return found and Found(dotted, "class", f"class {name} : {found.base}", "header", found.file, found.line)

    def _header_member(self, key: str, class_name: str, name: str) -> Found | None:
        found = self.headers.find(class_name)
        member = found and found.members.get(name)
        if not member:
            return None
        return Found(key, member.kind, member.signature, "header", member.file, member.line, _gives(member.type))


def typed(class_name: str) -> str:
    """The name under which a C++ class is reached."""
    if class_name.startswith("ctk"):
        return f"ctk.{class_name}"
    return f"slicer.{class_name}" if OWN.match(class_name) else f"qt.{class_name}"


def entry(found: Found) -> dict[str, Any]:
    """What the lock keeps of a name."""
    kept = asdict(found)
    del kept["key"], kept["gives"]
    return kept


def _found(key: str, kept: dict[str, Any]) -> Found:
    gives = _gives(
        kept["signature"].rpartition(key.rpartition(".")[2])[0]
        if "(" not in kept["signature"]
        else kept["signature"].partition("(")[0].rpartition(" ")[0]
    )
    return Found(key, gives=(OBJECTS[key],) if key in OBJECTS else gives, **kept)


def _gives(kind: str) -> tuple[str, ...]:
    """Types of a C++ type: "vtkMRMLNode*" -> "slicer.vtkMRMLNode+"."""
    name = re.sub(r"\bconst\b|[*&\s]", "", kind)
    if wheels.vtk(name):
        return (wheels.vtk_type(name) + "+",)
    if OWN.match(name) and "::" not in name:
        return (typed(name),)
    return (f"qt.{name}",) if wheels.qt(name) and name[:1] == "Q" else ()


def _python_names(text: str, module: str, file: str, checked: str) -> dict[str, Found]:
    found = {}
    for node in ast.parse(text).body:
        methods = (
            [(f"{node.name}.{m.name}", m) for m in node.body if isinstance(m, ast.FunctionDef)]
            if isinstance(node, ast.ClassDef)
            else []
        )
        for name, item in [(getattr(node, "name", ""), node), *methods]:
            if isinstance(item, ast.FunctionDef):
                signature = f"({ast.unparse(item.args)})"
                kind = "method" if methods else "function"
            elif isinstance(item, ast.ClassDef):
                bases = ", ".join(ast.unparse(b) for b in item.bases)
                signature, kind = f"class {name}({bases})", "class"
            else:
                continue
            found[name] = Found(f"{module}.{name}", kind, signature, checked, file, item.lineno)
    return found
