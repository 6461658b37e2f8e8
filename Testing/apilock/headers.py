"""What C++ headers of Slicer and CTK let Python reach: properties, invokable methods, slots, signals, decorators.

PythonQt knows of a CTK, qMRML or qSlicer class what Qt's meta object knows, and what decorators add. A public method
without Q_INVOKABLE is kept as kind "plain C++", so that the check can say why it can't be called.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

# comments, and what looks like code: preprocessor lines, and texts that hold // or braces
COMMENT = re.compile(r'^[ \t]*#[^\n]*|//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.DOTALL | re.MULTILINE)
CLASS = re.compile(r"\bclass\s+(?:[A-Z]\w*_EXPORT\s+)?(\w+)\s*(?:final\s*)?:\s*public\s+([\w:]+)[^{;]*\{")
PROPERTY = re.compile(r"Q_PROPERTY\(\s*([\w:<>,\s]+?[\s*&]+)(\w+)\s+READ\s+\w+([^)]*)\)")
LABEL = re.compile(r"\b(public|protected|private)\s*(?:(?:Q_SLOTS|slots)\b)?\s*:(?!:)|\b(?:Q_SIGNALS|signals)\s*:(?!:)")
METHOD = re.compile(r"^(?P<type>[\w:<>,\s*&]*?[\s*&])?(?P<name>\w+)\s*\((?P<arguments>.*)\)[^()]*$", re.DOTALL)
MACRO = re.compile(r"\bQ_(OBJECT|PROPERTY\([^)]*\)|ENUM\w*\([^)]*\)|DECLARE\w+\([^)]*\))")
WORDS = re.compile(r"\b(Q_INVOKABLE|virtual|inline|static|explicit|constexpr)\b")


@dataclass(frozen=True)
class Member:
    """One name of a class: kind (property, method, signal, enum, plain C++), C++ signature, place, C++ type."""

    kind: str
    signature: str
    file: str
    line: int
    type: str


@dataclass
class Class:
    """A class of a header: its base, and its members by name (signals by every signature that they have)."""

    name: str
    base: str
    file: str
    line: int
    members: dict[str, Member] = field(default_factory=dict)


class Headers:
    """The headers below source trees: {"Slicer": folder, "CTK": folder}. A class stands in the file of its name."""

    def __init__(self, roots: dict[str, Path]) -> None:
        self.roots = roots
        self._read: dict[str, Class | None] = {}

    @cached_property
    def files(self) -> dict[str, list[tuple[str, Path]]]:
        """File name -> places as (name with the repository, path); tests and build helpers are left out."""
        found: dict[str, list[tuple[str, Path]]] = {}
        for repository, root in self.roots.items():
            for path in sorted(root.rglob("*.h")):
                if "Testing" not in path.parts:
                    name = f"{repository}:{path.relative_to(root).as_posix()}"
                    found.setdefault(path.name, []).append((name, path))
        return found

    def find(self, name: str) -> Class | None:
        """The class of this name, or None."""
        if name not in self._read:
            self._read[name] = None
            for file, path in self.files.get(f"{name}.h", []):
                classes = parse(path.read_text(encoding="utf-8", errors="replace"), file)
                if name in classes:
                    self._read[name] = classes[name]
                    classes[name].members.update(self._decorators.get(name, {}))
        return self._read[name]

    @cached_property
    def _decorators(self) -> dict[str, dict[str, Member]]:
        found: dict[str, dict[str, Member]] = {}
        for name, places in self.files.items():
            if name.endswith("PythonQtDecorators.h"):
                for file, path in places:
                    for class_name, member in decorators(path.read_text(encoding="utf-8", errors="replace"), file):
                        found.setdefault(class_name, {})[member[0]] = member[1]
        return found

    def line(self, class_name: str, method: str) -> tuple[str, int] | None:
        """Where a header declares a method (or macro property) of a VTK class; the class itself for method ""."""
        for file, path in self.files.get(f"{class_name}.h", []):
            wanted = rf"\b{method}\b\s*[(,=]|^\s*{method}\b" if method else rf"\bclass\s+(\w+\s+)?{class_name}\b[^;]*$"
            if method[:3] in ("Set", "Get"):
                wanted += rf"|Macro\(\s*{method[3:]}\s*[,)]"
            for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
                if re.search(wanted, line) and not line.strip().startswith("//"):
                    return file, number
        return None


def parse(text: str, file: str) -> dict[str, Class]:
    """The classes of a header with what Python can reach of them."""
    clean = COMMENT.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), text)
    classes = {}
    for match in CLASS.finditer(clean):
        start, end = match.end(), _closing(clean, match.end())
        found = Class(match.group(1), match.group(2), file, _line(clean, match.start()))
        for name, member in _members(clean, start, end, file):
            found.members.setdefault(name, member)
        classes[found.name] = found
    return classes


def decorators(text: str, file: str) -> list[tuple[str, tuple[str, Member]]]:
    """(class, (method, member)) of a decorator file: slots whose first argument, or whose name, says the class."""
    found = []
    for holder in parse(text, file).values():
        for name, member in holder.members.items():
            static = re.match(r"static_(\w+?)_(\w+)$", name)
            first = re.search(r"\(\s*(\w+)\s*\*", member.signature)
            if static:
                found.append((static.group(1), (static.group(2), member)))
            elif first and not name.startswith(("new_", "delete_")):
                found.append((first.group(1), (name, member)))
    return found


def signatures(name: str, arguments: str) -> list[str]:
    """All normalised signatures of a signal: one with every argument, and one for each default left out."""
    parts = [p.strip() for p in _split(arguments) if p.strip() and p.strip() != "void"]
    kinds = [_kind(p) for p in parts]
    needed = sum("=" not in p for p in parts)
    return [f"{name}({','.join(kinds[:n])})" for n in range(len(kinds), needed - 1, -1)]


def _members(text: str, start: int, end: int, file: str) -> list[tuple[str, Member]]:
    body = text[start:end]
    found = []
    for match in PROPERTY.finditer(body):
        kind, name, rest = match.groups()
        access = "" if "WRITE" in rest else " (read only)"
        line = _line(text, start + match.start())
        found.append((name, Member("property", f"{kind.strip()} {name}{access}", file, line, kind.strip())))
    labels = [(m.start(), m.end(), m.group()) for m in LABEL.finditer(body)]
    for n, (_, begin, label) in enumerate(labels):
        stop = labels[n + 1][0] if n + 1 < len(labels) else len(body)
        access = "signal" if "ignals" in label or "SIGNALS" in label else "slot" if "lots" in label.lower() else "plain"
        if access == "signal" or label.startswith("public"):
            found += _section(text, start + begin, start + stop, access, file)
    return found


def _section(text: str, start: int, end: int, access: str, file: str) -> list[tuple[str, Member]]:
    """The members of one part of a class body between two access labels."""
    found = []
    for place, statement in _statements(text, start, end):
        line = _line(text, place)
        if re.match(r"\s*enum\b", statement):
            names = re.findall(r"(\w+)\s*(?:=[^,}]*)?[,}]", statement.partition("{")[2] + "}")
            found += [(n, Member("enum", n, file, line, "int")) for n in names]
            continue
        invokable = access != "plain" or "Q_INVOKABLE" in statement
        match = METHOD.match(" ".join(WORDS.sub(" ", statement.partition("{")[0]).split()))
        if not match or "operator" in statement or (access == "plain" and match["type"] is None):
            continue
        name, kind = match["name"], (match["type"] or "void").strip()
        plain = f"{kind} {name}({match['arguments']})"
        if access == "signal":
            found += [(s, Member("signal", s, file, line, "")) for s in signatures(name, match["arguments"])]
        else:
            found.append((name, Member("method" if invokable else "plain C++", plain, file, line, kind)))
    return sorted(found, key=lambda item: item[1].kind == "plain C++")  # an invokable overload counts


def _statements(text: str, start: int, end: int) -> list[tuple[int, str]]:
    """Statements at the depth of the class body, each with the place of its first word."""
    found, begin, place = [], start, start
    while place < end:
        if text[place] == "{":
            place = _closing(text, place + 1)
            if not re.match(r"\s*(enum|struct|class)\b", text[begin:place]):
                found.append((begin, text[begin:place]))
                begin = place + 1
        elif text[place] == ";":
            found.append((begin, text[begin:place]))
            begin = place + 1
        place += 1
    cleaned = [(b, MACRO.sub(lambda m: " " * len(m.group()), s)) for b, s in found]
    return [(b + len(s) - len(s.lstrip()), s) for b, s in cleaned if s.strip()]


def _closing(text: str, place: int) -> int:
    """The place of the brace that closes the one before `place`."""
    depth = 1
    while place < len(text) and depth:
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        place += 1
    return place - 1


def _split(arguments: str) -> list[str]:
    """Arguments at the commas outside of <> and ()."""
    parts, depth = [""], 0
    for sign in arguments:
        depth += {"<": 1, "(": 1, ">": -1, ")": -1}.get(sign, 0)
        if sign == "," and not depth:
            parts.append("")
        else:
            parts[-1] += sign
    return parts


def _kind(argument: str) -> str:
    """The normalised type of an argument: "const QString& text = x" -> "QString"."""
    kind = argument.partition("=")[0].strip()
    named = re.match(r"(.*[\s*&>])(\w+)$", kind)
    kind = (named.group(1) if named and named.group(1).strip() not in ("const", "unsigned") else kind).strip()
    constant = re.match(r"const\s+(.*?)\s*&$", kind)
    return re.sub(r"\s*([*&])\s*", r"\1", constant.group(1) if constant else kind)


def _line(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1
