"""One pass over a function or a module: types of expressions, and notes of what is used on the way. See infer.py."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .api import SCRIPTED
from .sources import Source

CLASS_NAMED = {"AddNewNodeByClass", "CreateNodeByClass", "GetSingletonNode", "GetFirstNodeByClass", "getNodesByClass"}
FIRST_OF = {"sorted", "list", "tuple", "set", "reversed", "iter", "enumerate"}
ROOTS = {"slicer", "qt", "ctk", "vtk", *SCRIPTED}
CONTAINER = {"values", "items", "copy", "get", "pop", "append", "insert", "add", "setdefault"}
Types = frozenset


@dataclass
class Event:
    """Something that the checks look at. kind : member, store, connect, signal, call, untyped. types : of the receiver
    (of the function for call). owner : the class of the extension whose method is walked. slots : types of a slot."""

    kind: str
    source: Source
    node: ast.AST
    types: Types
    name: str = ""
    call: ast.Call | None = None
    owner: str = ""
    slots: Types = Types()


class Walk:
    """`whole` is the Inference, `scope` the names that the function or module knows."""

    def __init__(self, whole: Any, source: Source, scope: dict, owner: str, function: str = "") -> None:
        self.whole, self.source, self.scope, self.owner, self.function = whole, source, scope, owner, function
        self.quiet = False

    def note(self, kind: str, node: ast.AST, types: Iterable[str], **more: Any) -> None:
        if self.whole.recording and not self.quiet:
            self.whole.events.append(Event(kind, self.source, node, Types(types), owner=self.owner, **more))

    def body(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            self.statement(statement)

    def statement(self, node: ast.stmt, into: str = "") -> None:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            self._import(node)
        elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            types = self.types(node.value) if node.value is not None else Types()
            if isinstance(node, ast.AnnAssign):
                types |= self.whole.annotation(node.annotation, self)
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                self.assign(target, types, node.value, into)
        elif isinstance(node, (ast.For, ast.AsyncFor)):
            self.assign(node.target, inside(self.types(node.iter)), None)
            self.body(node.body + node.orelse)
        elif isinstance(node, ast.Return):
            self.whole.results[self.function] |= self.types(node.value) if node.value else set()
        elif isinstance(node, ast.With):
            for item in node.items:
                types = self.types(item.context_expr)
                if item.optional_vars is not None:
                    self.assign(item.optional_vars, types, None)
            self.body(node.body)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            if isinstance(node, ast.FunctionDef):
                self.body(node.body)
        else:
            self._parts(node)

    def _parts(self, node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.types(child)
            elif isinstance(child, ast.stmt):
                self.statement(child)
            else:
                self._parts(child)

    def assign(self, target: ast.expr, types: Types, value: ast.expr | None, into: str = "") -> None:
        if isinstance(target, ast.Name):
            self.scope[target.id] = self.scope.get(target.id, Types()) | types
            if into:
                self.whole.attributes[into, target.id] |= types
        elif isinstance(target, ast.Attribute):
            holders = self.types(target.value)
            self.note("store", target, holders, name=target.attr)
            for holder in holders:
                if holder.startswith("p:"):
                    self.whole.attributes[holder[2:], target.attr] |= types
        elif isinstance(target, (ast.Tuple, ast.List)):
            values = value.elts if isinstance(value, (ast.Tuple, ast.List)) else []
            for n, part in enumerate(target.elts):
                known = self.types(values[n]) if len(values) == len(target.elts) else inside(types)
                self.assign(part, known, None, into)
        elif isinstance(target, ast.Subscript):
            self._hold(target.value, types)

    def _hold(self, holder: ast.expr, types: Types) -> None:
        """`holder` is a container that gets values of these types."""
        inside = Types("[]" + t for t in types if not t.startswith("'"))
        if isinstance(holder, ast.Name):
            self.scope[holder.id] = self.scope.get(holder.id, Types()) | inside
        elif isinstance(holder, ast.Attribute):
            for owner in self.types(holder.value):
                if owner.startswith("p:"):
                    self.whole.attributes[owner[2:], holder.attr] |= inside

    def types(self, node: ast.expr) -> Types:
        """The types of an expression; notes what is used on the way."""
        method = getattr(self, "_" + type(node).__name__.lower(), None)
        found = Types(method(node)) if method else Types()
        if method is None:
            self._parts(node)
        if self.whole.recording:
            self.whole.note_types(node, found)
        return found

    def _constant(self, node: ast.Constant) -> set[str]:
        return {"'" + node.value} if isinstance(node.value, str) and len(node.value) < 80 else set()

    def _name(self, node: ast.Name) -> Types:
        known = self.scope.get(node.id, Types()) | self.whole.scopes[self.source.module].get(node.id, Types())
        full = f"{self.source.module}.{node.id}"
        if full in self.whole.classes:
            return known | {f"=p:{full}"}
        return known | {f"f:{full}"} if full in self.whole.functions else known

    def _attribute(self, node: ast.Attribute) -> set[str]:
        found: set[str] = set()
        holders = self.types(node.value)
        for holder in holders:
            found |= self._reach(holder, node.attr)
        if any(h[0] in "@=" or is_outer(h) for h in holders):
            self.note("member", node, holders, name=node.attr)
        return found

    def _reach(self, holder: str, name: str) -> set[str]:
        """What `holder.name` is."""
        whole, api = self.whole, self.whole.api
        if holder.startswith("@p:"):
            full = f"{holder[3:]}.{name}"
            if full in whole.scopes:
                return {f"@p:{full}"}
            if full in whole.classes:
                return {f"=p:{full}"}
            return {f"f:{full}"} if full in whole.functions else set(whole.scopes[holder[3:]].get(name, ()))
        if holder.startswith("@"):
            return self._named(f"{holder[1:]}.{name}")
        if holder.startswith(("p:", "=p:")):
            owner = holder.partition(":")[2]
            method = whole.method(owner, name)
            outer = {f"m:{b}.{name}" for b in whole.outer_bases(owner) if not method and api.member(b, name)}
            return ({f"f:{method}|{owner}"} if method else whole.attribute(owner, name)) | outer
        if holder == "ui":
            kind = whole.widgets.get(name, "")
            return {widget_type(kind)} if kind else set()
        if holder.startswith("slicer.modules.") and name == "logic":
            return {f"m:{holder}.logic"}
        if not is_outer(holder) and not holder.startswith("="):
            return set()
        kind = holder.lstrip("=")
        found = api.member(holder, name)
        if found is None:
            return set()
        if found.kind == "class":
            return {f"={kind}.{name}"}
        return {f"m:{kind}.{name}"} if found.kind in ("method", "function", "plain C++") else set(found.gives)

    def _named(self, dotted: str) -> set[str]:
        """What a name inside a module of Slicer, Qt, CTK or VTK is."""
        found = self.whole.api.named(dotted)
        if dotted in ("slicer.modules", "slicer.util") or (found is None and dotted.startswith("vtk.util")):
            return {f"@{dotted}"}
        if found is None:
            return {f"@{dotted}"} if dotted.startswith("slicer.") and self.whole.api.python(dotted) else set()
        if found.kind == "module":
            return {dotted}
        if found.kind == "class":
            return {f"={found.key}"}
        return {f"m:{dotted}"} if found.kind == "function" else set(found.gives)

    def _call(self, node: ast.Call) -> set[str]:
        arguments = [self.types(a) for a in node.args]
        keywords = {k.arg: self.types(k.value) for k in node.keywords}
        function = self.types(node.func)
        self._note_call(node, function, arguments)
        found: set[str] = set()
        for kind in function:
            found |= self._called(kind, node, arguments, keywords)
        if isinstance(node.func, ast.Name) and not function:
            if node.func.id in FIRST_OF and arguments:
                found |= arguments[0]
            elif node.func.id in ("next", "max", "min") and arguments:
                found |= inside(arguments[0])
            elif node.func.id == "zip":
                found |= {t for a in arguments for t in a if t.startswith("[]")}
        if isinstance(node.func, ast.Attribute):
            name = node.func.attr
            holders = self.types(node.func.value) if name in CONTAINER else Types()
            if name in ("append", "insert", "add", "setdefault"):
                self._hold(node.func.value, Types(t for a in arguments for t in a))
            found |= {t for t in holders if t.startswith("[]") and name in ("values", "items", "copy")}
            found |= inside(holders) if name in ("get", "pop", "setdefault") else set()
        return found

    def _note_call(self, node: ast.Call, function: Types, arguments: list[Types]) -> None:
        if not isinstance(node.func, ast.Attribute):
            self.note("call", node, function, call=node)
            return
        quiet, self.quiet = self.quiet, True
        holders = self.types(node.func.value)
        self.quiet = quiet
        name = node.func.attr
        if name in ("connect", "disconnect") and node.args and text_of(arguments[0]):
            self.note("connect", node, holders, name=name, call=node, slots=arguments[1] if arguments[1:] else Types())
            for signal in text_of(arguments[0]):
                self.note("signal", node, holders, name=signal, call=node)
        elif not function and not any(h[0] in "@='[" or h.startswith(("p:", "ui")) or is_outer(h) for h in holders):
            self.note("untyped", node, holders, name=name, call=node)
        self.note("call", node, function, name=name, call=node)

    def _called(self, kind: str, node: ast.Call, arguments: list[Types], keywords: dict) -> set[str]:
        whole = self.whole
        if kind.startswith("=p:"):
            start = whole.method(kind[3:], "__init__")
            if start:
                self._bind(start, arguments, keywords, bound=True)
            else:  # a dataclass
                for name, types in keywords.items():
                    whole.attributes[kind[3:], name] |= types
            return {kind[1:]}
        if kind.startswith("="):
            return {kind[1:]}
        if kind.startswith("f:"):
            name, _, owner = kind[2:].partition("|")
            self._bind(name, arguments, keywords, bound=bool(owner))
            return whole.results[name]
        if not kind.startswith("m:"):
            return set()
        holder, _, name = kind[2:].rpartition(".")
        if name in CLASS_NAMED and arguments and (named := text_of(arguments[0])):
            return {("[]" if name == "getNodesByClass" else "") + f"slicer.{n}" for n in named}
        if kind == "m:slicer.util.childWidgetVariables":
            return {"ui"}
        if kind == "m:slicer.util.loadUI":
            return {"slicer.qMRMLWidget"}
        if holder.startswith("slicer.modules."):
            module = whole.api.named(holder)
            return {f"slicer.{module.signature.removeprefix('logic: ')}"} if module and name == "logic" else set()
        found = whole.api.named(f"{holder}.{name}") if holder in ("slicer.util",) else whole.api.member(holder, name)
        return set(found.gives) if found else set()

    def _bind(self, name: str, arguments: list[Types], keywords: dict[str | None, Types], bound: bool) -> None:
        """What a call passes becomes a type of the parameters."""
        if name not in self.whole.functions or self.quiet:
            return
        node = self.whole.functions[name][1]
        names = [a.arg for a in (*node.args.posonlyargs, *node.args.args)][1 if bound else 0 :]
        for parameter, types in [*zip(names, arguments), *((k, t) for k, t in keywords.items() if k)]:
            self.whole.parameters[name, parameter] |= types

    def _tuple(self, node: ast.Tuple | ast.List | ast.Set) -> set[str]:
        found = set()
        for item in node.elts:
            types = self.types(item.value if isinstance(item, ast.Starred) else item)
            found |= set(types) if isinstance(item, ast.Starred) else {"[]" + t for t in types}
        return found

    _list = _set = _tuple

    def _dict(self, node: ast.Dict) -> set[str]:
        for key in node.keys:
            if key is not None:
                self.types(key)
        return {"[]" + t for value in node.values for t in self.types(value)}

    def _subscript(self, node: ast.Subscript) -> Types:
        self.types(node.slice)
        held = self.types(node.value)
        return held if isinstance(node.slice, ast.Slice) else inside(held)

    def _ifexp(self, node: ast.IfExp) -> Types:
        self.types(node.test)
        return self.types(node.body) | self.types(node.orelse)

    def _boolop(self, node: ast.BoolOp) -> Types:
        return Types(t for value in node.values for t in self.types(value))

    def _listcomp(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp) -> set[str]:
        self._generators(node.generators)
        return {"[]" + t for t in self.types(node.elt)}

    _setcomp = _generatorexp = _listcomp

    def _dictcomp(self, node: ast.DictComp) -> set[str]:
        self._generators(node.generators)
        self.types(node.key)
        return {"[]" + t for t in self.types(node.value)}

    def _generators(self, generators: list[ast.comprehension]) -> None:
        for generator in generators:
            self.assign(generator.target, inside(self.types(generator.iter)), None)
            for test in generator.ifs:
                self.types(test)

    def _lambda(self, node: ast.Lambda) -> set[str]:
        self.types(node.body)
        return set()

    def _namedexpr(self, node: ast.NamedExpr) -> Types:
        types = self.types(node.value)
        self.assign(node.target, types, None)
        return types

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        for alias in node.names:
            if isinstance(node, ast.Import):
                root = alias.name.partition(".")[0]
                if root in ROOTS:
                    self.scope[alias.asname or root] = Types({f"@{alias.name if alias.asname else root}"})
                continue
            module = node.module or ""
            if node.level:
                parts = self.source.package.split(".")
                module = ".".join([*parts[: len(parts) - node.level + 1], *([module] if module else [])])
            if module.split(".")[0] in ROOTS:
                self.note("member", node, {f"@{module}"}, name=alias.name)
                self.scope[alias.asname or alias.name] = Types(self._named(f"{module}.{alias.name}"))
            elif module in self.whole.scopes:
                self.scope[alias.asname or alias.name] = Types(self._reach(f"@p:{module}", alias.name))


def is_outer(kind: str) -> bool:
    """Whether this is an object of a class of Qt, CTK, VTK or Slicer."""
    return kind.startswith(("qt.", "ctk.", "vtk.", "slicer.", *(f"{name}." for name in SCRIPTED)))


def inside(types: Iterable[str]) -> Types:
    return Types(t[2:] for t in types if t.startswith("[]"))


def text_of(types: Iterable[str]) -> list[str]:
    return sorted(t[1:] for t in types if t.startswith("'"))


def widget_type(kind: str) -> str:
    return f"ctk.{kind}" if kind.startswith("ctk") else f"qt.{kind}" if kind.startswith("Q") else f"slicer.{kind}"
