"""`run` from files to files: a converter over the job folder, so that terminal, panel and batch take the same way."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from . import methods
from .data import Grid, Item, Segmentation, Text
from .done import finished, request_key
from .errors import InputError
from .events import Stop, choose, duration, guarded
from .execute import Request
from .io import images
from .io.folders import TEMPORARY, locked, move_files, temporary, write_text
from .io.projections import read_projections, write_projections
from .job import read_job, read_result, run_job, write_job
from .method import Input
from .params import pairs
from .report import write_preview


def run(arguments: argparse.Namespace) -> int:
    """The command `run`. Returns the exit code."""
    report, stop = choose(arguments.progress), Stop()
    stop.on_signals()
    if arguments.parent_pipe:
        stop.on_end_of(sys.stdin)
    return guarded(lambda: start(arguments, report, stop), report)


def start(arguments: argparse.Namespace, report: Callable[[dict[str, Any]], None], stop: Callable[[], bool]) -> None:
    """Run; with --once only where the folder lacks the result, and one process at a time."""
    if not arguments.once:
        return convert(arguments, report, stop)
    output: Path = arguments.output.absolute()
    with locked(output.with_name(f".{output.name}.lock"), stop):
        key = request_key(arguments)
        if finished(output, key):
            report({"event": "result", "folder": str(output), "message": f"Done already: {output}"})
        else:
            convert(arguments, report, stop, key)


def convert(
    arguments: argparse.Namespace, report: Callable[[dict[str, Any]], None], stop: Callable[[], bool], key: str = ""
) -> None:
    """Files to a job folder, run it, result folder to files. Nothing appears in the output folder before all is
    complete. `key` goes to `result.json` (see `done`)."""
    start = time.perf_counter()
    method = methods.load(arguments.method).METHOD
    output: Path = arguments.output
    if output.exists() and not output.is_dir():
        raise InputError(f"The output '{output}' is a file; give a folder.")
    request = Request(
        method.id,
        pairs(arguments.settings, "--set"),
        arguments.preset,
        pairs(arguments.model, "--model"),
        arguments.seed,
        arguments.samples,
        arguments.device,
        arguments.threads,
        arguments.batch,
        plan_only=arguments.plan,
    )
    inputs = read_inputs(method.inputs, arguments.input)
    reference = read_reference(arguments.reference, inputs) if arguments.reference else None
    with temporary(output.absolute().parent, TEMPORARY) as work:
        job, files = work / "job", work / "files"
        job.mkdir()
        files.mkdir()
        write_job(job, request, inputs, reference)
        del inputs, reference
        read_s = time.perf_counter() - start
        result = run_job(job, lambda e: None if e["event"] == "result" else report(e), stop)
        if result is None:
            return
        write_files(job, result, files, arguments.format, read_s, key)
        move_files(files, output, last="result.json")
    seconds = duration(time.perf_counter() - start)
    report({"event": "result", "folder": str(output), "message": f"Done in {seconds}: {output}"})


def read_reference(path: Path, inputs: Mapping[str, Item]) -> Grid:
    """The truth to compare with; refused before the run where it doesn't lie on the grid of an input volume."""
    reference = images.read_volume(path)
    volumes = {n: i.array.shape for n, i in inputs.items() if isinstance(i, Grid) and i.axes[0].name == "k"}
    if volumes and reference.array.shape not in volumes.values():
        found = " × ".join(str(n) for n in reference.array.shape)
        name, shape = next(iter(volumes.items()))
        wanted = " × ".join(str(n) for n in shape)
        raise InputError(f"The reference has {found} voxels, but the input '{name}' has {wanted}. Give the same grid.")
    return reference


def read_inputs(declared: tuple[Input, ...], given: list[str]) -> dict[str, Item]:
    """`NAME=PATH` or a single `PATH` (the first input) -> items by name."""
    known = {i.name: i for i in declared}
    named: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or (name not in known and Path(text).exists()):
            if len(given) > 1:
                raise InputError(
                    f"Give --input NAME=PATH for each of several inputs; '{text}' has no name. Names: "
                    f"{', '.join(known)}."
                )
            name, value = declared[0].name, text
        if name in named:
            raise InputError(f"The input '{name}' is given twice.")
        named[name] = value
    unknown = [n for n in named if n not in known]
    if unknown:
        raise InputError(f"There is no input '{unknown[0]}'. The method has: {', '.join(known)}.")
    return {name: read_item(known[name], value) for name, value in named.items()}


def read_item(declared: Input, value: str) -> Item:
    """One input from a path (text: the string itself or a .txt file)."""
    path = Path(value)
    if declared.kind == "text":
        return Text(path.read_text(encoding="utf-8") if path.suffix == ".txt" and path.is_file() else value)
    if declared.kind == "projections":
        return read_projections(path)
    if declared.kind == "segmentation":
        return images.read_segmentation(path)
    if declared.kind in ("volume", "vector volume"):
        return images.read_volume(path, declared.unit)
    raise InputError(f"The input '{declared.name}' ({declared.kind}) can't be read from a file yet.")


def write_files(job: Path, result: Path, files: Path, form: str, read_s: float, key: str = "") -> None:
    """The result folder as files: one per output (`metrics.csv` with a reference), `result.json`, `preview.png`."""
    start = time.perf_counter()
    record, outputs = read_result(result)
    _, inputs = read_job(job)
    for name, item in outputs.items():
        record["outputs"][name] = write_output(name, item, files, form) | {
            k: record["outputs"][name][k] for k in ("kind", "unit", "display")
        }
    if importlib.util.find_spec("matplotlib"):  # Slicer's Python has none
        write_preview(inputs, outputs, files / "preview.png")
    record["timings"]["io"] = round(record["timings"]["io"] + read_s + time.perf_counter() - start, 3)
    record["timings"]["total"] = round(sum(record["timings"].values()), 3)
    record |= {"key": key} if key else {}
    write_text(files / "result.json", json.dumps(record, indent=1))


def write_output(name: str, item: Item, files: Path, form: str) -> dict[str, Any]:
    """Write one output; returns its entry for `result.json`."""
    if isinstance(item, Text):
        write_text(files / f"{name}.txt", item.text)
        return {"file": f"{name}.txt"}
    if isinstance(item, Grid) and item.axes[-1].name == "bin":
        write_projections(item, files / f"{name}.npz")
        return {"file": f"{name}.npz"}
    if isinstance(item, (Grid, Segmentation)) and item.geometry is not None:
        label = isinstance(item, Segmentation)
        extension = form if label or form != "seg.nrrd" else "nrrd"
        images.write_item(item, files / f"{name}.{extension}")
        labels = {"labels": item.labels} if label else {}
        return {"file": f"{name}.{extension}", "ijkToRAS": [list(r) for r in item.geometry.ijk_to_ras]} | labels
    rows = [",".join(item.columns), *(",".join(str(v) for v in row) for row in item.rows)]  # type: ignore[union-attr]
    write_text(files / f"{name}.csv", "\n".join(rows) + "\n")
    return {"file": f"{name}.csv"}
