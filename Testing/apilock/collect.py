"""Every name of Slicer, VTK, Qt and CTK that the extension uses, and what is wrong with the use of one.

What an object is, is inferred (infer.py). Where nothing is known of it, VTK's methods are looked up by name alone, and
other calls are counted, not judged.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from . import wheels
from .api import Api, typed
from .infer import Inference
from .sources import Shell, Source
from .walk import Event, is_outer

UIC = {"buddy", "visible"}  # properties that Qt's loader of .ui files takes although the class has none of that name
VTK_VERBS = ("Get", "Set", "Add", "Remove", "Create", "Is", "Has", "Update", "Start", "End", "Invoke", "Deep")
LISTS = ("QStringList", "QList")


@dataclass(frozen=True, order=True)
class Finding:
    """Something to correct. rule : "L1" to "L17" (lint.py), "R…" for a row of the differences of PythonQt."""

    path: str
    line: int
    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule} {self.text}"


@dataclass
class Collected:
    """inference : with all events. counts : how the uses were resolved."""

    inference: Inference
    findings: set[Finding] = field(default_factory=set)
    counts: Counter = field(default_factory=Counter)
    unresolved: Counter = field(default_factory=Counter)

    def add(self, event: Event, rule: str, text: str) -> None:
        self.findings.add(Finding(event.source.path, event.node.lineno, rule, text))


def collect(sources: list[Source], shells: list[Shell], api: Api) -> Collected:
    """Look up all names; `api.used` holds them afterwards."""
    found = Collected(Inference(sources, shells, api))
    calls = {id(n.func) for s in sources for n in ast.walk(s.tree) if isinstance(n, ast.Call)}
    parents = {id(child): n for s in sources for n in ast.walk(s.tree) for child in ast.iter_child_nodes(n)}
    for event in found.inference.events:
        if event.kind == "member":
            for kind in _judged(api, event):
                _member(found, api, event, kind, id(event.node) in calls, parents.get(id(event.node)))
        elif event.kind == "store":
            for kind in _judged(api, event):
                _store(found, api, event, kind)
        elif event.kind == "signal":
            _signal(found, api, event)
        elif event.kind == "untyped":
            _untyped(found, api, event)
    for shell in shells:
        found.findings |= set(_shell(shell, api))
    return found


def _judged(api: Api, event: Event) -> list[str]:
    """The types that must have the member. Of several classes of nodes one is enough: `IsA` and the like tell them
    apart where the program runs; an object of the extension's own may be meant as well."""
    nodes = [k for k in event.types if not k.startswith("@") and wheels.vtk(k.strip("=+").rpartition(".")[2])]
    having = [k for k in nodes if api.member(k, event.name)]
    own = any(k.startswith("p:") for k in event.types)
    return sorted(set(event.types) - set(nodes)) + (having or ([] if own else sorted(nodes)[:1]))


def _member(found: Collected, api: Api, event: Event, kind: str, called: bool, parent: ast.AST | None) -> None:
    name = event.name
    if kind.startswith("@"):
        if kind.startswith("@p:"):
            return
        known = api.use(api.named(f"{kind[1:]}.{name}"))
        is_module = known is None and f"{kind[1:]}.{name}".startswith(("vtk.util", "slicer.util", "slicer.modules"))
        is_module |= known is None and kind == "@slicer" and bool(api.python(f"slicer.{name}"))
        if known is None and not is_module:
            in_util = kind == "@slicer" and name in api.python("slicer.util")
            text = (
                f"'slicer.{name}' is there in the wheel alone; write 'slicer.util.{name}'."
                if in_util
                else (f"'{kind[1:]}.{name}' is unknown. {ADVICE}")
            )
            event_rule = "L10" if kind == "@slicer" else "L2"
            found.add(event, event_rule, text)
        found.counts["typed"] += known is not None
        return
    outer = kind[1:] if kind.startswith("=") else kind
    if not is_outer(outer) or outer.startswith("slicer.modules."):
        return
    known = api.use(api.member(kind, name))
    if known is None:
        found.add(event, "L2", f"'{outer.rstrip('+')}' has no '{name}' that Python can reach. {ADVICE}")
        return
    found.counts["typed"] += 1
    _form(found, event, kind, known, called, parent)


def _form(found: Collected, event: Event, kind: str, known: wheels.Found, called: bool, parent: ast.AST | None) -> None:
    """Whether a member is used in the form that its kind has in PythonQt."""
    name, is_class = event.name, kind.startswith("=")
    if known.kind == "plain C++":
        found.add(event, "L2", f"'{known.key}' is plain C++ (no slot, no Q_INVOKABLE): Python can't call it.")
    elif known.kind == "property" and called and not is_class:
        found.add(event, "L1", f"'{name}' is a property: read it as '.{name}', without parentheses.")
    elif known.kind == "method" and not called and _is_value(event.node, parent):
        found.add(event, "L1", f"'{name}' is a method: it is always true without parentheses.")
    elif (
        known.kind == "property"
        and known.signature.startswith(LISTS)
        and isinstance(parent, ast.Compare)
        and any(isinstance(other, ast.List) for other in parent.comparators)
    ):
        found.add(event, "R7", f"'{name}' comes back as a tuple: compare list(….{name}).")
    elif name == "exec":
        found.add(event, "R8", "write 'exec_()'.")
    elif name in ("findChild", "findChildren") and kind.startswith(("qt.", "ctk.", "slicer.q")):
        found.add(event, "R19", f"write 'slicer.util.{name}(widget, …)'.")


def _is_value(node: ast.AST, parent: ast.AST | None) -> bool:
    """Whether an expression is used as a value, not called or handed on."""
    if isinstance(parent, (ast.If, ast.While, ast.IfExp)):
        return parent.test is node
    return isinstance(parent, (ast.Compare, ast.BoolOp, ast.UnaryOp, ast.BinOp, ast.FormattedValue))


def _store(found: Collected, api: Api, event: Event, kind: str) -> None:
    if not is_outer(kind):
        return
    known = api.use(api.member(kind, event.name))
    if api.properties(kind):
        if known is None or known.kind != "property":
            found.add(event, "L5", f"'{kind}' has no property '{event.name}': a C++ object takes no new attribute.")
        elif known.signature.endswith("(read only)"):
            found.add(event, "L5", f"'{event.name}' of '{kind}' is read only.")
    elif known is None:
        found.add(event, "L5", f"'{kind}' has no '{event.name}'; keep the value in an object of your own.")
    found.counts["typed"] += 1


def _signal(found: Collected, api: Api, event: Event) -> None:
    kinds = [k for k in event.types if is_outer(k)]
    if not kinds or not event.name:
        found.counts["signals of unknown objects"] += not kinds and bool(event.name)
        return
    for kind in kinds:
        known = api.use(api.member(kind, event.name.replace(" ", "")))
        if known is None or known.kind != "signal":
            found.add(event, "L2", f"'{kind}' has no signal '{event.name}'. {ADVICE}")
        found.counts["typed"] += 1


def _untyped(found: Collected, api: Api, event: Event) -> None:
    """A call on something unknown: VTK's methods by name; Qt's are counted where nothing else has such a name."""
    name = event.name
    if name.startswith(VTK_VERBS) and name not in _own_names(found.inference):
        if api.use(wheels.any_vtk_member(name)):
            found.counts["by name alone"] += 1
        else:
            found.add(event, "L2", f"no class of VTK or MRML has a method '{name}'.")
    elif _sounds_like_qt(name) and name not in _own_names(found.inference):
        found.counts["unresolved"] += 1
        found.unresolved[f"{event.source.path}:{event.node.lineno} {name}"] += 1


def _sounds_like_qt(name: str) -> bool:
    camel = name[:1].islower() and any(c.isupper() for c in name)
    return camel and (name.startswith(("set", "add", "current")) or wheels.qt_member("QWidget", name) is not None)


def _own_names(inference: Inference) -> set[str]:
    return {name.rpartition(".")[2] for name in (*inference.functions, *inference.classes)}


def _shell(shell: Shell, api: Api) -> Iterator[Finding]:
    """Classes, properties and connections of a .ui file."""
    kinds = shell.widgets()
    for widget in shell.root.iter("widget"):
        kind = typed(widget.get("class", ""))
        if api.use(api.class_(kind)) is None:
            yield Finding(shell.path, 0, "L13", f"the class '{kind}' of '{widget.get('name')}' is unknown. {ADVICE}")
            continue
        for item in widget.findall("property"):
            name = item.get("name", "")
            known = None if name in UIC or item.get("stdset") == "0" else api.use(api.member(kind, name))
            if name not in UIC and item.get("stdset") != "0" and (known is None or known.kind != "property"):
                yield Finding(shell.path, 0, "L13", f"'{kind}' ('{widget.get('name')}') has no property '{name}'.")
    for link in shell.root.iter("connection"):
        for end, what in (("sender", "signal"), ("receiver", "slot")):
            kind, name = typed(kinds.get(link.findtext(end, ""), "")), link.findtext(what, "")
            known = api.use(api.member(kind, name if what == "signal" else name.partition("(")[0]))
            if known is None or known.kind == "plain C++":
                yield Finding(shell.path, 0, "L13", f"'{link.findtext(end)}' ({kind}) has no {what} '{name}'.")


ADVICE = "If it exists, add it with its header: python -m apilock update (SLICER_SRC and CTK_SRC name the checkouts)."
