"""L16: every text that a person sees goes through `_()`.

Looked at are all string constants that read like words: those that are given to a widget, and sentences anywhere. Texts
of .ui files are translated by Slicer itself, texts of declarations by `diffusion_panel.declarations`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from .sources import Source

SHOWN_BY = {
    "setText",
    "setToolTip",
    "setWindowTitle",
    "setPlaceholderText",
    "setPlainText",
    "setHtml",
    "addItem",
    "addItems",
    "insertItem",
    "setItemText",
    "setTitle",
    "setStatusTip",
    "setAccessibleName",
    "setHorizontalHeaderLabels",
    "setTabText",
    "addTab",
    "addAction",
    "addButton",
    "addRow",
    "setSuffix",
    "setSpecialValueText",
    "showMessage",
    "setLabelText",
    "setTitleText",
    "errorDisplay",
    "warningDisplay",
    "infoDisplay",
    "messageBox",
    "delayDisplay",
    "confirmYesNoDisplay",
    "confirmOkCancelDisplay",
    "confirmRetryCloseDisplay",
    "showStatusMessage",
    "QLabel",
    "QPushButton",
    "QCheckBox",
    "QListWidgetItem",
    "QTableWidgetItem",
    "QAction",
    "getOpenFileName",
    "getSaveFileName",
    "getExistingDirectory",
    "say",
    "add_row",
    "wrapped",
}
CLASS_TEXTS = {"title", "purpose", "category", "tip"}  # of the extension's own classes
SHOWN_AS = CLASS_TEXTS | {
    "text",
    "toolTip",
    "windowTitle",
    "placeholderText",
    "suffix",
    "prefix",
    "noneDisplay",
    "helpText",
    "acknowledgementText",
    "specialValueText",
}
TRANSLATE = {"_", "translate"}
UNSEEN = {
    "compile",
    "match",
    "search",
    "sub",
    "findall",
    "split",
    "rsplit",
    "partition",
    "rpartition",
    "startswith",
    "endswith",
    "replace",
    "getLogger",
    "debug",
    "info",
    "warning",
    "error",
    "exception",
    "critical",
}
WORD = re.compile(r"[A-Za-z]{2,}")
PROSE = re.compile(r"[A-Za-z]{2,}[,;:]? [a-z]{2,}|^[A-Z][a-z]+ [A-Z]?[a-z]+")
MARKUP = re.compile(r"<[^<>]*>|https?://\S*|&\w+;|\b[\w.]+\.(py|json|npy|csv)\b")
# What reads like words and isn't shown, or stays as it is in every language: (end of the file's name, text) -> reason.
DECLARED = "a word of the declarations' format, compared with them; translated where it is shown"
DEVELOPERS = "part of the report that a user sends to developers, who read English"
LATIN = "part of a citation, the same in every language"
EXCEPTIONS = {
    ("exchange.py", "Hounsfield unit"): "the meaning of a code in DICOM, which has it in English",
    ("inputs/form.py", "vector volume"): DECLARED,
    ("inputs/form.py", "complex volume"): DECLARED,
    ("transfer.py", "vector volume"): DECLARED,
    ("transfer.py", "complex volume"): DECLARED,
    ("method_chooser.py", "import only"): DECLARED,
    ("method_chooser.py", " et al."): LATIN,
    ("module.py", "<li>{} et al.: {}, {}</li>"): LATIN,
    ("module.py", "DiffusionModels developers"): "a name, as in the catalogue of extensions",
    ("module.py", "DiffusionModels {}"): "the name of the extension, and a number",
    ("report.py", "DiffusionModels {}, method {}, state {}{}"): DEVELOPERS,
    ("report.py", "Slicer {}, Python {}, {} {}, {} processors"): DEVELOPERS,
    ("report.py", "duration {} s"): DEVELOPERS,
    ("report.py", "last {} lines of the log:"): DEVELOPERS,
    ("report.py", "import slicer\nlogic = slicer.util.getModuleLogic({})\nnodes = logic.run(\n{})\n"): "Python code",
    ("report.py", "set {} && "): "a command of Windows",
    ("segmentations.py", "label {}"): "a name in the job's file, which is the same in every language",
    ("views/__init__.py", "soft tissue"): "name of a window in the code, shown to nobody",
    ("windows.py", "soft tissue"): "name of a window in the code, shown to nobody",
    ("wording.py", "standard deviation"): "translated with the label that it becomes a part of",
}


def findings(source: Source) -> Iterator[tuple[int, str]]:
    """(line, sentence) of texts outside `_()`, of `_()` that can't be translated, and of a hidden `_`."""
    translates = any(isinstance(n, ast.ImportFrom) and any(a.asname == "_" for a in n.names) for n in source.tree.body)
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and _name(node.func) == "_" and not _is_constant(node):
            yield node.lineno, "'_()' takes one plain text, which lupdate can read: format what it gives."
        elif isinstance(node, ast.Name) and node.id == "_" and isinstance(node.ctx, ast.Store) and translates:
            yield node.lineno, "'_' is the translation in this file: name the variable otherwise, such as '_rest'."
    yield from ((line, f"'{text.strip()[:50]}' is shown without '_()'.") for line, text in untranslated(source))


def untranslated(source: Source, excepted: bool = True) -> Iterator[tuple[int, str]]:
    """(line, text) of texts outside `_()`; with excepted=False those of EXCEPTIONS, too."""
    parents = {id(child): node for node in ast.walk(source.tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(source.tree):
        text = _text(node, parents)
        seen = text and _is_seen(MARKUP.sub(" ", text).strip(), list(_chain(node, parents)))
        if seen and not (excepted and _is_excepted(source.path, text)):
            yield node.lineno, text


def _text(node: ast.AST, parents: dict[int, ast.AST]) -> str:
    """The text of a constant, or of a whole f-string with {} for what is put in; "" for everything else."""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    inside = isinstance(parents.get(id(node)), (ast.JoinedStr, ast.FormattedValue))
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) and not inside else ""


def _is_constant(call: ast.Call) -> bool:
    return len(call.args) == 1 and isinstance(call.args[0], ast.Constant) and isinstance(call.args[0].value, str)


def _is_seen(text: str, chain: list[tuple[ast.AST, ast.AST]]) -> bool:
    """Whether a person sees a text. chain : (node, its parent) from the constant outwards."""
    if not WORD.search(text):
        return False
    text = text.replace("{}", "word")
    shown = False
    for node, parent in chain:
        if isinstance(parent, ast.Call):
            name = _name(parent.func)
            unseen = name in UNSEEN or (name == "get" and node in parent.args[:1])  # a key
            if name in TRANSLATE or (unseen and node is not parent.func):
                return False
            shown = shown or (name in SHOWN_BY and node is not parent.func)
        elif isinstance(parent, (ast.Assign, ast.AnnAssign)) and node is parent.value:
            shown = shown or any(map(_shows, parent.targets if isinstance(parent, ast.Assign) else [parent.target]))
        elif isinstance(parent, (ast.Subscript, ast.Compare)) and not shown:
            return False
        elif isinstance(parent, ast.Assert) or (isinstance(parent, ast.Expr) and isinstance(node, ast.Constant)):
            return False  # what a failing self-test says; a docstring
    return shown or bool(PROSE.search(text))


def _shows(target: ast.expr) -> bool:
    return _name(target) in (SHOWN_AS if isinstance(target, ast.Attribute) else CLASS_TEXTS)


def _chain(node: ast.AST, parents: dict[int, ast.AST]) -> Iterator[tuple[ast.AST, ast.AST]]:
    while (parent := parents.get(id(node))) is not None and not isinstance(node, ast.stmt):
        yield node, parent
        node = parent


def _is_excepted(path: str, text: str) -> bool:
    return any(path.endswith(file) and text == other for file, other in EXCEPTIONS)


def _name(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
