"""The rules that need no names of other projects: L3 to L17, and rows of the differences of PythonQt (R…).

L1, L2, L5, L10, L13, R7, R8, R19 are found where names are looked up (collect.py); L16 is in lint_text.py.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator

from . import lint_text, lock, sources
from .api import Api
from .collect import Collected, Finding, collect
from .sources import Source
from .walk import Event, is_outer, text_of
from .wheels import QT

PANEL_PYTHON, ENGINE_PYTHON = (3, 12), (3, 10)  # the oldest Python of Slicer that we support, and of the engine
INSIDE_SLICER = {"slicer", "vtk", "qt", "ctk"}
FOREIGN = {"PySide2", "PySide6", "PyQt5", "PyQt6", "qtpy", "PythonQt", "headless"}
ALLOWED = INSIDE_SLICER | {"numpy", "diffusion_panel"} | set(sys.stdlib_module_names)
ENGINE_FILE = "diffusion_backend.predicates"  # the one file of the engine that the panel imports
THREAD_BOUND = ("slicer.", "slicer", "qt", "ctk", ":slicer.", ":qt.")  # after "@", "=" or "m"
NODE_NAME = re.compile(r"(node|volume|segmentation|transform|scene|roi)s?$", re.IGNORECASE)
INSTALLERS = {"pip_install", "pip_uninstall", "pip_ensure"}
GUI_NAMES = {
    "layoutManager",
    "mainWindow",
    "errorDisplay",
    "warningDisplay",
    "infoDisplay",
    "messageBox",
    "delayDisplay",
    "confirmYesNoDisplay",
    "confirmOkCancelDisplay",
    "confirmRetryCloseDisplay",
    "createProgressDialog",
}
UNCAST = {"bool", "bool_", "int64", "uint64", "float16", "int"}
ARRAY_SINKS = {"addVolumeFromArray": 0, "updateVolumeFromArray": 1}  # function -> which argument is the array
READERS = ("load", "save", "export")
START = {"__init__", "setup", "enter", ""}  # "" = while the file is imported


def lint(panel: list[Source] | None = None, engine: list[Source] | None = None) -> list[Finding]:
    """All findings on the extension, or on these files instead."""
    panel = sources.python() if panel is None else panel
    engine = sources.engine() if engine is None else engine
    broken = [f for s in (*panel, *engine) for f in _syntax(s)]
    if broken:
        return sorted(broken)
    collected = collect(panel, sources.shells(), Api(lock.read()))
    found = set(collected.findings)
    for event in collected.inference.events:
        for rule in EVENT_RULES:
            found |= {Finding(event.source.path, event.node.lineno, *told) for told in rule(event, collected)}
    gui_free = logic_modules(panel)
    for source in panel:
        for rule in FILE_RULES:
            found |= {Finding(source.path, line, name, text) for line, name, text in rule(source)}
        if source.module in gui_free:
            found |= {Finding(source.path, line, "L11", text) for line, text in _gui(source)}
        if not source.is_script:  # a script talks to a terminal, in English as the engine does
            found |= {Finding(source.path, line, "L16", text) for line, text in lint_text.findings(source)}
    for source in engine:
        found |= {Finding(source.path, line, "L11", text) for line, text in _slicer_in_engine(source)}
    return sorted(found)


# ---- rules on uses whose types are known ----

Told = Iterator[tuple[str, str]]


def _slots(event: Event, collected: Collected) -> Told:
    """L3, L4: what is connected takes what the signal gives."""
    if event.kind != "connect" or event.name != "connect" or len(event.call.args) < 2:
        return
    slot, signals = (
        event.call.args[1],
        text_of(collected.inference.attribute(event.owner, "signal"))
        if isinstance(event.call.args[0], ast.Attribute)
        else [getattr(event.call.args[0], "value", "")],
    )
    if not any("(" in s for s in signals):
        return
    given = max((len([a for a in s.partition("(")[2].rstrip(")").split(",") if a]) for s in signals if s), default=0)
    if isinstance(slot, ast.Lambda):
        if slot.args.defaults and given:
            yield "L3", "PythonQt fills the lambda's defaults with the signal's arguments: connect a method."
        elif len(slot.args.args) - len(slot.args.defaults) > given:
            yield "L3", f"the lambda needs {len(slot.args.args)} arguments, the signal gives {given}."
    elif isinstance(slot, ast.Call) and ast.unparse(slot.func).endswith("partial"):
        yield "L4", "PythonQt doesn't cut arguments for functools.partial: connect a method."
    for kind in event.slots:
        if kind.startswith("p:"):
            yield "L4", "PythonQt doesn't cut arguments for callable objects: connect a method."
        elif kind.startswith("f:"):
            name, _, owner = kind[2:].partition("|")
            arguments = collected.inference.functions[name][1].args
            positional = len(arguments.posonlyargs + arguments.args) - bool(owner)
            if arguments.defaults and given and positional - len(arguments.defaults) < given:
                yield "L3", f"PythonQt fills the defaults of '{name.rpartition('.')[2]}' with the signal's arguments."
            elif positional - len(arguments.defaults) > given:
                yield "L3", f"'{name.rpartition('.')[2]}' needs {positional} arguments, the signal gives {given}."


def _calls(event: Event, collected: Collected) -> Told:
    """Keyword arguments, arrays, paths and Qt's peculiarities in calls."""
    call = event.call
    if event.kind != "call" or call is None:
        return
    for kind in event.types:
        name = kind.rpartition(".")[2]
        if call.keywords and kind.startswith(("=qt.", "=ctk.", "=slicer.q", "=vtk.", "=slicer.vtk", "m:qt.", "m:vtk.")):
            yield "R15", f"'{name}' takes no keyword arguments in PythonQt and VTK: use setters."
        yield from _python_call(kind, call, collected)
        if kind.startswith("m:slicer.util."):
            yield from _util_call(name, call)
        if kind == "m:qt.QTimer.singleShot" and len(call.args) != 2:
            yield "R14", "write 'qt.QTimer.singleShot(milliseconds, callable)'."
        if (
            kind == "m:qt.QSettings.value"
            and call.args[1:]
            and not isinstance(getattr(call.args[1], "value", None), (str, type(None)))
        ):
            yield "R20", "settings come back as texts: write 'slicer.util.settingsValue(key, default, converter)'."
    if isinstance(call.func, ast.Name) and call.args:
        inner = collected.inference.types_at(call.args[0])
        if (
            call.func.id == "int"
            and ast.unparse(call.args[0]).startswith(("qt.", "ctk."))
            and isinstance(call.args[0], ast.Attribute)
        ):
            yield "R11", "pass enum members on as they are, without int()."
        if call.func.id in ("str", "bytes") and "qt.QByteArray" in inner:
            yield "R18", "str() of a QByteArray is its repr: write '.data().decode()'."


def _python_call(kind: str, call: ast.Call, collected: Collected) -> Told:
    """L2: a call of one of Slicer's own Python functions fits its signature."""
    holder, _, name = kind.removeprefix("m:").rpartition(".")
    api = collected.inference.api
    judged = kind.startswith("m:") and name != "__init__"  # which is called through the class
    known = (api.named(f"{holder}.{name}") or api.member(holder, name)) if judged else None
    if known and known.kind in ("function", "method") and known.checked in ("source", "wheel slicer-core"):
        signature = known.signature.replace("(self, ", "(").replace("(self)", "()")
        if known.file.endswith(".py") and (wrong := _misfit(signature, call)):
            yield "L2", f"{holder}.{name}{signature} {wrong}."


def _util_call(name: str, call: ast.Call) -> Told:
    """Arguments of a function of `slicer.util`: arrays (L12), paths (L14)."""
    array = next(iter(call.args[ARRAY_SINKS.get(name, 0) :]), None)
    if name in ARRAY_SINKS and array is not None and (kind := _uncast(array)):
        yield "L12", f"VTK has no image of type {kind}: cast the array before '{name}'."
    first = call.args[0] if call.args else None
    if name.startswith(READERS) and isinstance(first, ast.Constant) and isinstance(first.value, str):
        yield "L14", f"the path '{first.value}' is relative to wherever Slicer was started: give a whole path."


def _misfit(signature: str, call: ast.Call) -> str:
    """What keeps a call from fitting a signature; "" where it fits, or can't be told."""
    arguments = ast.parse(f"def f{signature}: pass").body[0].args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args)]
    keywords = [k.arg for k in call.keywords]
    if None in keywords or any(isinstance(a, ast.Starred) for a in call.args):
        return ""
    if arguments.kwarg is None and (unknown := set(keywords) - {*names, *(a.arg for a in arguments.kwonlyargs)}):
        return f"has no argument '{min(unknown)}'"
    if arguments.vararg is None and len(call.args) > len(names):
        return f"takes at most {len(names)} arguments in order, not {len(call.args)}"
    needed = names[: len(names) - len(arguments.defaults)]
    missing = [n for n in needed[len(call.args) :] if n not in keywords]
    return f"needs the argument '{missing[0]}'" if missing else ""


def _uncast(array: ast.expr) -> str:
    """The unsuitable type that an expression visibly has; "" where none is seen."""
    if isinstance(array, ast.Compare):
        return "bool"
    named = [array.args[0]] if isinstance(array, ast.Call) and getattr(array.func, "attr", "") == "astype" else []
    named += [k.value for k in getattr(array, "keywords", []) if k.arg == "dtype"]
    words = {ast.unparse(n).rpartition(".")[2].strip("'\"") for n in named}
    return next(iter(words & UNCAST), "")


def _threads(event: Event, collected: Collected) -> Told:
    """R22: what runs in a thread, and all that it calls in the extension, touches neither Qt nor MRML."""
    call = event.call
    if event.kind != "call" or call is None:
        return
    if not ast.unparse(call.func).endswith("Thread") and not any(k.endswith(".Background") for k in event.types):
        return
    inference, seen = collected.inference, set()
    todo = [*call.args, *(k.value for k in call.keywords)]
    while todo:
        part = todo.pop()
        for node in ast.walk(part):
            types = inference.types_at(node)
            if any(k[0] in "@m=" and k[1:].startswith(THREAD_BOUND) for k in types) or any(map(is_outer, types)):
                yield "R22", f"'{ast.unparse(node)}' in a thread: read and write nodes and widgets outside of it."
                return
            for name in {k[2:].partition("|")[0] for k in types if k.startswith("f:")} - seen:
                seen.add(name)
                todo += inference.functions[name][1].body


EVENT_RULES: tuple[Callable, ...] = (_slots, _calls, _threads)


# ---- rules on files ----


def _syntax(source: Source) -> Iterator[Finding]:
    """L17."""
    version = ENGINE_PYTHON if source.is_engine else PANEL_PYTHON
    try:
        ast.parse(source.text, feature_version=version)
    except SyntaxError as error:
        text = f"no syntax of Python {version[0]}.{version[1]}: {error.msg}."
        yield Finding(source.path, error.lineno or 0, "L17", text)


def _imports(source: Source) -> Iterator[tuple[int, str, str]]:
    """L6, L8: what a file of the panel imports."""
    nested = {id(n) for f in ast.walk(source.tree) if isinstance(f, (ast.FunctionDef, ast.Lambda)) for n in ast.walk(f)}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom) and not node.level:
            parts = node.module == "diffusion_backend"
            names = [f"{node.module}.{a.name}" for a in node.names] if parts else [node.module]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        else:
            continue
        for name in names:
            root = name.split(".")[0]
            if root in FOREIGN:
                yield node.lineno, "L6", f"'{root}' isn't there in Slicer: import qt."
            elif id(node) not in nested and root not in ALLOWED and name != ENGINE_FILE and not source.is_script:
                yield node.lineno, "L8", f"'{name}' may be missing, and the panel with it: import it where needed."
            elif root == "diffusion_backend" and name != ENGINE_FILE and not source.is_script:
                yield node.lineno, "L8", f"of the engine the panel imports '{ENGINE_FILE}' alone."


def _ends(source: Source) -> Iterator[tuple[int, str, str]]:
    """L7: the end of the process, and print."""
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name in ("sys.exit", "exit", "quit", "os._exit"):
            yield node.lineno, "L7", f"'{name}' would end Slicer: raise an exception; scripts call slicer.util.exit."
        elif name == "print" and any(_may_be_node(a, source.is_script) for a in node.args):
            yield node.lineno, "L7", "print of an object: a node prints its whole state. Print a text."


def _may_be_node(value: ast.expr, in_script: bool) -> bool:
    """Whether what is printed may be a node. A script prints much, so there its name must say so."""
    if in_script:
        return isinstance(value, (ast.Name, ast.Attribute)) and bool(NODE_NAME.search(ast.unparse(value)))
    return not isinstance(value, (ast.Constant, ast.JoinedStr))


def _installs(source: Source) -> Iterator[tuple[int, str, str]]:
    """L9: nothing is installed without a click."""
    for function, node in _with_function(source.tree):
        called = ast.unparse(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else ""
        if called in INSTALLERS and function in START:
            yield node.lineno, "L9", f"'{function or 'import'}' installs packages: the user must be asked first."


def _with_function(tree: ast.AST, name: str = "") -> Iterator[tuple[str, ast.AST]]:
    """All nodes with the function around them."""
    for child in ast.iter_child_nodes(tree):
        inner = child.name if isinstance(child, ast.FunctionDef) else name
        yield inner, child
        yield from _with_function(child, inner)


def _observers(source: Source) -> Iterator[tuple[int, str, str]]:
    """L15: who observes lets go."""
    for holder in [n for n in ast.walk(source.tree) if isinstance(n, ast.ClassDef)] + [source.tree]:
        calls = [n for n in ast.walk(holder) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)]
        names = {c.func.attr for c in calls}
        own = next((c for c in calls if c.func.attr == "addObserver"), None)
        if isinstance(holder, ast.ClassDef) and own and not names & {"removeObservers"}:
            yield own.lineno, "L15", f"'{holder.name}' never calls removeObservers: do it in cleanup."
        raw = next((c for c in calls if c.func.attr == "AddObserver"), None)
        if holder is source.tree and raw and "RemoveObserver" not in names:
            yield raw.lineno, "L15", "nothing in this file removes the observer: keep its tag, call RemoveObserver."


def _qt_forms(source: Source) -> Iterator[tuple[int, str, str]]:
    """R13, R16, R17: lifetimes, signals of one's own, base classes."""
    for function, node in _with_function(source.tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("qt.Signal", "qt.Slot", "qt.Property"):
            yield node.lineno, "R16", f"'{ast.unparse(node)}' isn't there in older Slicer: call a function."
        if isinstance(node, ast.ClassDef):
            for base in map(ast.unparse, node.bases):
                if base.startswith(("ctk.", "slicer.qMRML", "slicer.qSlicer")):
                    yield node.lineno, "R17", f"virtual methods of '{base}' can't be overridden: hold one instead."
        local = isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and function
        if local and ast.unparse(node.value) in ("qt.QTimer()", "qt.QProcess()"):
            yield node.lineno, "R13", "the object dies with this function: keep it as an attribute, or give a parent."


FILE_RULES: tuple[Callable, ...] = (_imports, _ends, _installs, _observers, _qt_forms)


def logic_modules(panel: list[Source]) -> set[str]:
    """The modules of the logic: `diffusion_panel.logic` and what it imports of the panel, directly or not."""
    by_name = {s.module: s for s in panel}
    found, todo = set(), ["diffusion_panel.logic"]
    while todo:
        name = todo.pop()
        if name in found or name not in by_name:
            continue
        found.add(name)
        for node in ast.walk(by_name[name].tree):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                base = by_name[name].package + (f".{node.module}" if node.module else "")
                todo += [base, *(f"{base}.{a.name}" for a in node.names)]
    return found - {"diffusion_panel"}


def _gui(source: Source) -> Iterator[tuple[int, str]]:
    """L11: no window in the logic. Timers and settings are no windows."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import) and any(a.name == "ctk" for a in node.names):
            yield node.lineno, "the logic shows nothing: no ctk."
        if isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            shown = name.startswith("qt.Q") and not hasattr(QT["QtCore"], name.split(".")[1])
            if shown or (name.startswith("slicer.") and node.attr in GUI_NAMES):
                yield node.lineno, f"the logic shows nothing: no '{name}'."


def _slicer_in_engine(source: Source) -> Iterator[tuple[int, str]]:
    for node in ast.walk(source.tree):
        names = (
            [a.name for a in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom) and not node.level
            else []
        )
        for name in names:
            if name.split(".")[0] in INSIDE_SLICER | FOREIGN | {"diffusion_panel"}:
                yield node.lineno, f"the engine runs without Slicer: no import of '{name}'."
