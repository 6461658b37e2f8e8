"""Declarations as JSON (the content of `Resources/methods.json`) and as pages; made without torch."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from . import __version__, methods
from .errors import InputError
from .method import Method

SCHEMA = 1
BEGIN, END = "<!-- methods -->", "<!-- end of methods -->"


def as_json(method_id: str | None = None) -> str:
    """All declarations, or one, as JSON text that ends with a newline. Unlimited ranges are null."""
    if method_id:
        content: Any = _finite(methods.declaration(method_id).to_dict())
    else:
        content = {"schema": SCHEMA, "version": __version__, "methods": [_finite(m.to_dict()) for m in methods.declarations()]}
    return json.dumps(content, indent=1, ensure_ascii=True, allow_nan=False) + "\n"


def as_page(method_id: str | None = None) -> str:
    """One method as a Markdown page, or the table of all."""
    return _page(methods.declaration(method_id)) if method_id else table(methods.declarations())


def renew_table(readme: Path) -> None:
    """Replace what stands between the two markers in a Markdown file by the table of methods."""
    text = readme.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise InputError(f"'{readme.name}' has no place for the table of methods, marked by {BEGIN} and {END}.")
    before, rest = text.split(BEGIN)
    readme.write_text(
        before + BEGIN + "\n" + table(methods.declarations()) + END + rest.split(END)[1], encoding="utf-8"
    )


def table(declarations: list[Method]) -> str:
    """Markdown table of methods with their state."""
    rows = [f"| {m.id} | {m.name} | {m.module} | {m.task} | {m.state} | {m.summary} |" for m in declarations]
    return (
        "\n".join(["| id | method | module | task | state | what it does |", "|---|---|---|---|---|---|", *rows]) + "\n"
    )


def _page(m: Method) -> str:
    lines = [f"# {m.id}: {m.name}", "", m.summary, "", f"Module: {m.module}. Task: {m.task}. State: {m.state}.", ""]
    if m.citation:
        c = m.citation
        doi = f" https://doi.org/{c.doi}" if c.doi else ""
        lines += [f"{c.authors.rstrip('.')}. {c.title}. {c.journal}, {c.year}.{doi}", ""]
    for title, parts in (("Inputs", m.inputs), ("Outputs", m.outputs)):
        lines += [f"## {title}", "", "| name | kind | unit | |", "|---|---|---|---|"]
        lines += [f"| {i.name} | {i.kind} | {i.unit} | {_remark(i)} |" for i in parts] + [""]
    lines += ["## Parameters", "", "| name | default | range | unit | level | meaning |", "|---|---|---|---|---|---|"]
    lines += [_row(p.to_dict()) for p in m.parameters] + [""]
    for name, values in m.presets.items():
        changed = ", ".join(f"{k} = {v}" for k, v in values.items()) or "the defaults"
        lines.append(f"Preset {name}: {changed}.")
    lines += [
        f"Model slot {s.name}: {s.interface}, {s.dims}D, {s.channels} channel(s), {s.unit}; default {s.default}."
        for s in m.models
    ]
    return "\n".join([*lines, m.notes]).rstrip() + "\n"


def _remark(i: Any) -> str:
    marks = ["optional"] if not getattr(i, "required", True) else []
    marks += [f"when {i.when}"] if getattr(i, "when", "") else []
    return " ".join([", ".join(marks) + (":" if marks and i.help else ""), i.help]).strip()


def _row(p: dict[str, Any]) -> str:
    span = f"{p['low']:g} to {p['high']:g}" if "low" in p else ", ".join(p.get("choices", ()))
    return f"| {p['name']} | {p['default']} | {span} | {p.get('unit', '')} | {p['level']} | {p['help']} |"


def _finite(value: Any) -> Any:
    """JSON knows no infinity: null."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
