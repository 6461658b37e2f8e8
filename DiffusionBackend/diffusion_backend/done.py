"""Whether a folder already holds the result of a run: made complete, by the same command, from the same inputs.

Reads names, sizes and times of files but no images, and imports no torch: a list of thousands is looked through at
once."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from . import __version__, methods, models
from .errors import ModelError
from .params import pairs

ASKED = ("method", "settings", "preset", "model", "seed", "samples", "device", "threads", "batch", "format")
DATA = (".raw", ".zraw", ".raw.gz", ".img", ".img.gz", ".json")  # files that belong to a header of the same name


def request_key(a: argparse.Namespace) -> str:
    """A digest of what decides the result of the command `run`: version, options, weights, paths, sizes and times (to
    the nanosecond) of inputs and reference. Times instead of contents: looking takes no reading."""
    asked = {name: getattr(a, name) for name in ASKED}
    given = [(text, _identity(text) or _identity(text.partition("=")[2])) for text in a.input]
    reference = str(a.reference or "")
    told = [__version__, asked, _weights(a), given, reference, _identity(reference)]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def finished(folder: Path, key: str) -> dict[str, Any] | None:
    """The content of `result.json` where the folder holds the complete result with this key, else None."""
    try:
        record = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        files = [output["file"] for output in record["outputs"].values()]
        there = record["key"] == key and all((folder / file).is_file() for file in files)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if there else None


def _identity(value: str) -> list[tuple[str, int, int]]:
    """Name, size and time of the files that an input consists of; nothing for a text."""
    if not value:  # as a path it would be the working folder
        return []
    path = Path(value)
    try:
        files = path.iterdir() if path.is_dir() else (path, *(path.with_suffix(suffix) for suffix in DATA))
        return sorted({(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file()})
    except (OSError, ValueError):  # a text that is no path
        return []


def _weights(a: argparse.Namespace) -> list[str]:
    """The digests of the weights in the method's slots."""
    asked, found = pairs(a.model, "--model"), []
    for slot in methods.load(a.method).METHOD.models:
        try:
            found.append(models.read_card(models.find(asked.get(slot.name, slot.default)))["sha256"])
        except ModelError:  # the run will say it
            found.append("")
    return found
