"""Texts to copy: a report for the developers, a run as Python, a run as command line."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from . import declarations, process
from .jobs import Job

DEFAULTS = {
    "params": {}, "preset": "standard", "seed": 0, "samples": 1, "device": "auto", "threads": None, "batch": None,
    "models": {}, "roi": None, "slices": None, "reference": None, "frames": None,
}  # fmt: skip
KEPT_BACK = ("inputs", "reference", "panel", "parameters")  # parts of job.json that say more than settings
SUFFIXES = {"projections": ".npz", "segmentation": ".seg.nrrd", "text": ".txt"}
_PRIVATE = re.compile(
    r"""(?P<quoted>(?P<mark>["'])[^"'\n]*[/\\][^"'\n]*(?P=mark))"""  # a path in quotes, blanks included
    r"""|(?P<path>(?:[A-Za-z]:\\|\\\\|(?<![\w/.])~?/)[^\s"'<>|:;,]+)"""
    r"""|(?P<uid>\b\d+(?:\.\d+){4,}\b)"""
)


def report(job: Job, secrets: Iterable[str] = ()) -> str:
    """State, versions, device, memory, parameters and the last log lines of a job, without names, paths or UIDs.

    secrets : texts that must not appear, such as the names of the input nodes and the paths of input files."""
    record, asked = job.record, dict(getattr(job.transfer, "job", {}))
    lines = [
        f"DiffusionModels {declarations.version()}, method {job.method}, state {job.state}"
        f"{f' ({job.kind})' if job.kind else ''}",
        f"Slicer {slicer.app.applicationVersion}, Python {platform.python_version()}, {platform.system()} "
        f"{platform.machine()}, {os.cpu_count()} processors",
        *_told("engine", record.get("versions")),
        *_told("request", {k: v for k, v in asked.items() if k not in KEPT_BACK}),
        *_told("parameters", record.get("parameters")),
        *_told("models", {slot: model["id"] for slot, model in record.get("models", {}).items()}),
        *_told("run", {k: record[k] for k in ("device", "threads", "batch_used", "domain") if k in record}),
        *_told("timings", record.get("timings")),
        *_told("plan", {k: v for k, v in (job.plan or {}).items() if k not in ("event", "job")}),
        *_told("progress", {k: v for k, v in job.progress.items() if k not in ("event", "job")}),
        f"duration {_seconds(job):.1f} s",
    ]
    told = [*([f"{job.message} {job.remedy}"] if job.message else []), *job.warnings]
    lines += [scrub(line, secrets) for line in [*told, f"last {len(job.log)} lines of the log:", *job.log]]
    return "\n".join(lines) + "\n"


def scrub(text: str, secrets: Iterable[str] = ()) -> str:
    """`text` without the secrets, without paths (of Python files the name stays) and without DICOM UIDs."""
    for secret in sorted({s for s in secrets if s}, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "<name>", text)
    return _PRIVATE.sub(_anonymous, text)


def as_python(module: str, request: Mapping[str, Any]) -> str:
    """Lines for the Python console that do what the panel does. `request`: keyword arguments of `run`."""
    arguments = [repr(request["method"]), f"inputs={{{', '.join(_input_pairs(request['inputs']))}}}"]
    for name, default in DEFAULTS.items():
        value = _changed(request) if name == "params" else request.get(name, default)
        if value != default and value is not None:
            arguments.append(f"{name}={_literal(value)}")
    body = "".join(f"    {argument},\n" for argument in arguments)
    return f"import slicer\nlogic = slicer.util.getModuleLogic({module!r})\nnodes = logic.run(\n{body})\n"


def as_command_line(request: Mapping[str, Any]) -> str:
    """The run as a command for a terminal. Inputs without an up-to-date file get the name under which to save them; a
    line in front says so."""
    declared = {i["name"]: i for i in declarations.method(request["method"])["inputs"]}
    words, remarks = [process.engine_python(), "-m", "diffusion_backend", "run", request["method"]], []
    for name, value in {**request["inputs"], "reference": request.get("reference")}.items():
        if value is None:
            continue
        kind = declared.get(name, {}).get("kind", "volume")
        path = _file_of(value, kind)
        if not path:
            path = name + SUFFIXES.get(kind, ".nrrd")
            remarks.append("# " + _("Save '{name}' as {path} first.").format(name=name, path=path))
        words += ["--reference", path] if name == "reference" else ["--input", f"{name}={path}"]
    words += ["--output", "result"]
    words += [w for k, v in _changed(request).items() for w in ("--set", f"{k}={v}")]
    words += [w for k, v in (request.get("models") or {}).items() for w in ("--model", f"{k}={v}")]
    for name in ("preset", "seed", "samples", "device", "threads", "batch"):
        if request.get(name, DEFAULTS[name]) != DEFAULTS[name]:
            words += [f"--{name}", str(request[name])]
    if any(request.get(name) is not None for name in ("roi", "slices", "frames")):
        whole = _("The command computes the whole volume: crop it first, or save the frame that you want.")
        remarks.append("# " + whole)
    path = _joined([f"PYTHONPATH={process.PACKAGES}"])
    start = f"set {path} && " if sys.platform == "win32" else f"{path} "
    return "\n".join([*remarks, start + _joined(words)]) + "\n"


def _changed(request: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that differ from those of the preset."""
    usual = declarations.defaults(request["method"], request.get("preset", "standard"))
    return {k: v for k, v in (request.get("params") or {}).items() if k not in usual or usual[k] != v}


def _told(title: str, values: Mapping[str, Any] | None) -> list[str]:
    return [f"{title}: " + ", ".join(f"{k} = {v}" for k, v in values.items())] if values else []


def _seconds(job: Job) -> float:
    return (job.ended or time.time()) - (job.started or time.time())


def _anonymous(found: re.Match[str]) -> str:
    if found["uid"]:
        return "<uid>"
    name = re.split(r"[/\\]", found[0].strip("\"'"))[-1]
    return f"<path>/{name}" if re.fullmatch(r"[\w.]+\.py", name) else "<path>"


def _input_pairs(inputs: Mapping[str, Any]) -> list[str]:
    return [f"{name!r}: {_literal(value)}" for name, value in inputs.items() if value is not None]


def _literal(value: Any) -> str:
    """A value as Python text; nodes by their id."""
    if hasattr(value, "GetID"):
        return f"slicer.mrmlScene.GetNodeByID({value.GetID()!r})"
    if isinstance(value, tuple):
        return f"({', '.join(_literal(v) for v in value)})"
    return repr(str(value) if isinstance(value, Path) else value)


def _file_of(value: Any, kind: str) -> str:
    """The file that holds an input as it is now, a text itself, or "" ."""
    if isinstance(value, tuple):
        value = value[0]
    if isinstance(value, (str, Path)):
        return str(value)
    if kind == "text" and hasattr(value, "GetText"):
        return value.GetText()
    storage = value.GetStorageNode() if hasattr(value, "GetStorageNode") else None
    if storage is None or value.GetModifiedSinceRead() or value.GetParentTransformNode():
        return ""
    file = storage.GetFullNameFromFileName() or ""
    return file if os.path.isfile(file) else ""


def _joined(words: list[str]) -> str:
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)
