"""Which types the expressions of the extension have: a small abstract interpreter, without order inside a function.

A type is a word: "qt.QLabel" (an object; "+" at its end: or of a subclass), "=qt.QLabel" (the class), "@slicer.util" (a
module), "m:qt.QLabel.text" (a bound member), "ui" (the widgets of the .ui files), "p:form.RealField" (an object of a
class of the extension), "=p:…" (the class), "f:…" (a function, "f:…|class" bound), "'text" (a constant), "[]" + type (a
container). What callers pass to a function of the extension is what its parameters are.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from typing import Any

from .api import Api
from .sources import Shell, Source
from .walk import Event, Types, Walk

SLICER_BASES = {
    "ScriptedLoadableModule": {"parent": "slicer.qSlicerScriptedLoadableModule"},
    "ScriptedLoadableModuleWidget": {
        "parent": "slicer.qSlicerScriptedLoadableModuleWidget",
        "layout": "qt.QVBoxLayout",
    },
}


class Inference:
    """Reads all sources; `events` afterwards."""

    def __init__(self, sources: list[Source], shells: list[Shell], api: Api) -> None:
        self.sources, self.api = sources, api
        self.widgets = {name: kind for shell in shells for name, kind in shell.widgets().items()}
        self.functions: dict[str, tuple[Source, ast.FunctionDef]] = {}
        self.classes: dict[str, tuple[Source, ast.ClassDef]] = {}
        self.scopes: dict[str, dict[str, Types]] = {}  # module -> names
        self.attributes: dict[tuple[str, str], set[str]] = defaultdict(set)
        self.parameters: dict[tuple[str, str], set[str]] = defaultdict(set)
        self.results: dict[str, set[str]] = defaultdict(set)
        self.events: list[Event] = []
        self.recording = False
        self._bases: dict[str, list[str]] = {}  # of one round
        self._at: dict[int, set[str]] = defaultdict(set)
        for source in sources:
            self._declare(source)
        before = -1
        while before != self._known():
            before = self._known()
            self._round()
        self.recording = True
        self._round()

    # ---- classes of the extension ----

    def bases(self, name: str) -> list[str]:
        """The class and its bases in the extension, the nearest first."""
        if name not in self._bases:
            found = [name]
            for base in self._base_types(name) if name in self.classes else ():
                if base.startswith("=p:"):
                    found += [b for b in self.bases(base[3:]) if b not in found]
            self._bases[name] = found
        return self._bases[name]

    def outer_bases(self, name: str) -> list[str]:
        """Bases outside the extension: "slicer.ScriptedLoadableModule.ScriptedLoadableModuleWidget"."""
        return [b[1:] for c in self.bases(name) for b in self._base_types(c) if b.startswith("=") and b[1:3] != "p:"]

    def method(self, name: str, method: str) -> str | None:
        """The function that a class of the extension has under this name."""
        return next((f"{c}.{method}" for c in self.bases(name) if f"{c}.{method}" in self.functions), None)

    def _base_types(self, name: str) -> list[str]:
        source, node = self.classes[name]
        walk = Walk(self, source, {}, "")
        walk.quiet = True
        return sorted(t for b in node.bases for t in walk.types(b))

    def attribute(self, name: str, attribute: str) -> set[str]:
        """Types of an attribute of an object of a class of the extension."""
        found = set(self.attributes[name, attribute])
        for base in self.bases(name):
            found |= self.attributes[base, attribute]
        for base in self.outer_bases(name):
            known = SLICER_BASES.get(base.rpartition(".")[2], {}).get(attribute)
            found |= {known} if known else set()
        return found

    def types_at(self, node: ast.expr) -> set[str]:
        """Types of an expression, wherever it was met."""
        return self._at[id(node)]

    def note_types(self, node: ast.expr, types: Types) -> None:
        """Keep the types of an expression for `types_at`."""
        self._at[id(node)] |= types

    def annotation(self, node: ast.expr | None, walk: Any) -> set[str]:
        """Types that an annotation names."""
        found = set()
        for part in ast.walk(node) if node is not None else ():
            if isinstance(part, (ast.Name, ast.Attribute)):
                quiet, walk.quiet = walk.quiet, True
                found |= {t[1:] + ("" if t[1:3] == "p:" else "+") for t in walk.types(part) if t.startswith("=")}
                walk.quiet = quiet
        return found

    # ---- walking ----

    def _known(self) -> int:
        tables = (self.attributes, self.parameters, self.results)
        return sum(len(types) for table in tables for types in table.values())

    def _round(self) -> None:
        """Types travel one call further per round."""
        self._bases.clear()
        for source in self.sources:
            self._module(source)

    def _declare(self, source: Source) -> None:
        self.scopes[source.module] = {}
        for node in source.tree.body:
            if isinstance(node, ast.ClassDef):
                self.classes[f"{source.module}.{node.name}"] = (source, node)
                for item in node.body:
                    if isinstance(item, ast.FunctionDef):
                        self.functions[f"{source.module}.{node.name}.{item.name}"] = (source, item)
            elif isinstance(node, ast.FunctionDef):
                self.functions[f"{source.module}.{node.name}"] = (source, node)

    def _module(self, source: Source) -> None:
        scope = self.scopes[source.module]
        Walk(self, source, scope, "").body([n for n in source.tree.body if not isinstance(n, ast.FunctionDef)])
        for name, (where, node) in self.functions.items():
            if where is source and "." not in name.removeprefix(source.module + "."):
                self._function(source, name, node, "")
        for name, (where, node) in self.classes.items():
            if where is source:
                self._class(source, name, node)

    def _class(self, source: Source, name: str, node: ast.ClassDef) -> None:
        """Each method once for the class itself and once for every class below it, which may have other attributes."""
        walk = Walk(self, source, dict(self.scopes[source.module]), name)
        for item in node.body:
            if isinstance(item, (ast.Assign, ast.AnnAssign)):
                walk.statement(item, into=name)
            elif isinstance(item, ast.FunctionDef):
                for owner in [c for c in self.classes if name in self.bases(c)]:
                    if self.method(owner, item.name) == f"{name}.{item.name}" or owner == name:
                        self._function(source, f"{name}.{item.name}", item, owner)

    def _function(self, source: Source, name: str, node: ast.FunctionDef, owner: str) -> None:
        scope = dict(self.scopes[source.module])
        walk = Walk(self, source, scope, owner, name)
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        for argument in arguments:
            known = self.annotation(argument.annotation, walk) | self.parameters[name, argument.arg]
            scope[argument.arg] = Types({"ui"} if argument.arg == "ui" and not known else known)
        if owner and arguments:
            scope[arguments[0].arg] = Types({f"p:{owner}"})
        self.results[name] |= self.annotation(node.returns, walk)
        walk.body(node.body)
