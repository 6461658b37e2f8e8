"""A study of a batch as a scene: its inputs, and its results as the panel makes them. No GUI."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from .transfer import VOLUMES, Request, SceneTransfer, remove_nodes

SCENE, RESULT = "scene.mrb", "result.json"


def write(folder: Path, inputs: Mapping[str, str]) -> Path:
    """Write `scene.mrb` into the folder of a finished study, unless there is one that is newer than its result.

    inputs : name -> path or text, "id" and "reference" apart. The scene that is open is closed. OSError, ValueError,
    RuntimeError where something can't be read or written."""
    scene = folder / SCENE
    if scene.exists() and scene.stat().st_mtime_ns >= (folder / RESULT).stat().st_mtime_ns:
        return scene
    record = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    slicer.mrmlScene.Clear(0)
    transfer = SceneTransfer(_request(record, inputs))
    arrays: dict[str, np.ndarray] = {}
    for name, described in record["outputs"].items():
        described |= _content(folder / described.pop("file"), described["kind"])
        if "array" in described:
            arrays[name] = described.pop("array")
    for _step in transfer.take(record, arrays, 0):
        pass
    transfer.finish()
    partial = folder / f"scene-{os.getpid()}.mrb"  # the name without its end must hold no dot
    try:
        if not slicer.util.saveScene(str(partial)):
            raise OSError(_("the file could not be written"))
        os.replace(partial, scene)
    finally:
        partial.unlink(missing_ok=True)
        slicer.mrmlScene.Clear(0)
    return scene


def _request(record: Mapping[str, Any], inputs: Mapping[str, str]) -> Request:
    """The run as the panel would have asked for it, with the inputs in the scene."""
    models = {slot: model["id"] for slot, model in record["models"].items()}
    kept = {key: record[key] for key in ("preset", "seed", "samples", "device", "threads", "batch")}
    request = Request(record["method"]["id"], {}, record["parameters"], models=models, **kept)
    given = {name: value for name, value in inputs.items() if name not in ("id", "reference")}
    request.inputs = {name: _load(request.kind(name), value) for name, value in given.items()}
    return request


def _load(kind: str, value: str) -> Any:
    """The node of an input file; projections and texts stay what they are."""
    if kind == "segmentation":
        return slicer.util.loadSegmentation(value)
    if kind not in VOLUMES:
        return value
    path = Path(value)
    file = min(f for f in path.iterdir() if f.is_file() and not f.name.startswith(".")) if path.is_dir() else path
    return slicer.util.loadVolume(str(file), {"name": path.name.split(".")[0], "show": False})


def _content(file: Path, kind: str) -> dict[str, Any]:
    """What a file of an output holds, as a job folder describes it, with its "array"."""
    if kind == "text":
        return {"text": file.read_text(encoding="utf-8")}
    if kind == "table":
        with file.open(newline="", encoding="utf-8") as stream:
            columns, *rows = csv.reader(stream)
        return {"columns": columns, "rows": [[_cell(cell) for cell in row] for row in rows]}
    if kind == "projections":
        with np.load(file, allow_pickle=False) as archive:
            return {"array": archive["sinogram"], "acquisition": json.loads(str(archive["geometry"]))}
    node = slicer.util.loadVolume(str(file), {"labelmap": kind == "segmentation", "show": False})
    array = slicer.util.arrayFromVolume(node).copy()
    remove_nodes([node])
    return {"array": array}


def _cell(text: str) -> Any:
    try:
        return int(text) if text.lstrip("-").isdecimal() else float(text)
    except ValueError:
        return text
