"""Job folder <-> run. A job is a folder with `job.json` and arrays; its result is the folder `result` inside,
complete or absent.

`job.json` (schema 1): method, parameters, preset, inputs (file, kind, unit, ijkToRAS ...), seed, samples, device,
threads, batch, models.
`reference`, described as an input is, is the truth to compare with: it is read after the run, for the output `metrics`.
`sample`: true asks for the sample data of the method instead of a run.
`result.json` (schema 1): outputs (file, kind, unit, display, ijkToRAS ...) and the record of the run (see
`provenance`).
A file `cancel` in the job folder stops the run at the next step.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from . import methods, models, sample_data
from .data import Grid, Item, Table
from .errors import InputError
from .execute import Request, Result, Surroundings, execute
from .io.arrays import load_item, save_item
from .io.folders import complete, write_text
from .items import Items, Slices
from .report import metrics_table
from .run import Denoise, Report

SCHEMA = 1
JOB, RESULT, CANCEL = "job.json", "result.json", "cancel"
PREVIEW_PIXELS = 256
_COUNT, _FLAG = (int, type(None)), (bool,)
TYPES: dict[str, tuple[type, ...]] = {
    "method": (str,), "parameters": (dict,), "preset": (str,), "models": (dict,), "seed": (int,), "samples": (int,),
    "device": (str,), "threads": _COUNT, "batch": _COUNT, "plan_only": _FLAG, "keep_partial": _FLAG, "inputs": (dict,),
}  # fmt: skip


def write_job(folder: Path, request: Request, inputs: Mapping[str, Item], reference: Grid | None = None) -> None:
    """Fill the existing `folder` with a job; `job.json` comes last."""
    method = methods.load(request.method).METHOD
    kinds = {i.name: i.kind for i in method.inputs}
    described = {n: save_item(folder, n, item) | {"kind": kinds.get(n, "volume")} for n, item in inputs.items()}
    job = {"schema": SCHEMA, **asdict(request), "inputs": described}
    if reference is not None:
        job["reference"] = save_item(folder, "reference", reference)
    write_text(folder / JOB, json.dumps(job, indent=1))


def read_job(folder: Path) -> tuple[Request, dict[str, Item]]:
    """The request of a job folder and its inputs (memory-mapped). Raises InputError when it isn't a job of this
    schema."""
    job = _job(folder)
    request = Request(**{f.name: job[f.name] for f in fields(Request) if f.name in job})
    return request, {name: load_item(folder, described) for name, described in job.get("inputs", {}).items()}


def _job(folder: Path) -> dict[str, Any]:
    try:
        if not (folder / JOB).is_file():  # a pipe would never end
            raise FileNotFoundError
        job = json.loads((folder / JOB).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"'{folder.name}' is no job folder: {JOB} can't be read ({type(error).__name__}).") from None
    if not isinstance(job, dict) or job.get("schema") != SCHEMA:
        found = job.get("schema") if isinstance(job, dict) else None
        raise InputError(f"The job '{folder.name}' has schema {found!r}, but this version reads schema {SCHEMA}.")
    if "method" not in job:
        raise InputError(f"The job '{folder.name}' names no method.")
    wrong = [key for key, types in TYPES.items() if key in job and type(job[key]) not in types]
    if wrong or not all(type(model) is str for model in job.get("models", {}).values()):
        name = wrong[0] if wrong else "models"
        raise InputError(f"The job '{folder.name}' has a value of the wrong type for '{name}'.")
    return job


def run_job(folder: Path, report: Report, cancelled: Callable[[], bool] = lambda: False) -> Path | None:
    """Run the job in `folder`; returns the result folder, None when the job asked for the plan alone.

    On any error and on cancel nothing is left under the name of the result.
    """
    if _job(folder).get("sample") is True:
        return sample_data.run_job(folder, str(_job(folder)["method"]), report)
    request, inputs = read_job(folder)
    module = methods.load(request.method)
    around = Surroundings(
        report=report,
        cancelled=lambda: cancelled() or (folder / CANCEL).exists(),
        card=lambda model: models.read_card(models.find(model)),
        load=_denoiser,
        keep=(lambda *batch: _keep(folder, report, *batch)) if request.keep_partial else None,
        show_preview=lambda image, stage: _preview(folder, report, image, stage),
    )
    result = execute(module, request, inputs, around)
    if result is None:
        return None
    metrics = _metrics(folder, module.METHOD, inputs, result, report)
    write_result(folder / "result", result, module.METHOD, request, metrics)
    report({"event": "result", "folder": str(folder / "result")})
    return folder / "result"


def _metrics(folder: Path, method: Any, inputs: Mapping[str, Item], result: Result, report: Report) -> Table | None:
    """The outputs to compare against the job's reference; None without one, or where nothing lies on its grid."""
    described = _job(folder).get("reference")
    if described is None:
        return None
    compared = {o.name for o in method.outputs if o.display == "compare"}
    outputs = {name: item for name, item in result.outputs.items() if name in compared}
    table = metrics_table(inputs, outputs, load_item(folder, described), result.record["parameters"])
    if table is None:
        sentence = "No output has the size and voxel size of the reference; there are no metrics."
        report({"event": "warning", "message": sentence})
    return table


def write_result(final: Path, result: Result, method: Any, request: Request, metrics: Table | None = None) -> None:
    """Write the result folder under a temporary name and rename it when complete."""
    declared = {o.name: o for o in method.outputs}
    with complete(final) as fresh:
        outputs = {}
        for name, item in result.outputs.items():
            if name in declared:
                o = declared[name]
                outputs[name] = save_item(fresh, name, item) | {"kind": o.kind, "unit": o.unit, "display": o.display}
        if metrics is not None:
            described = save_item(fresh, "metrics", metrics)
            outputs["metrics"] = described | {"kind": "table", "unit": "", "display": "table"}
        text = {"schema": SCHEMA, "outputs": outputs, "preset": request.preset, **result.record}
        write_text(fresh / RESULT, json.dumps(text, indent=1))


def read_result(folder: Path) -> tuple[dict[str, Any], dict[str, Item]]:
    """`result.json` of a result folder and its outputs."""
    record = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    return record, {name: load_item(folder, described) for name, described in record["outputs"].items()}


def _denoiser(model: str, device: str) -> Denoise:
    """The model, kept for the next job of a worker while file and device stay the same."""
    folder = models.find(model)
    return _load(str(folder), models.read_card(folder)["sha256"], device)


@lru_cache(maxsize=1)
def _load(folder: str, sha256: str, device: str) -> Denoise:
    return models.load(folder, device=device)


def _preview(folder: Path, report: Report, image: Any, stage: str) -> None:
    """Write the current estimate (last two axes) as a small array that a parent can show."""
    array = image.detach().float().cpu().numpy()
    array = array.reshape(-1, *array.shape[-2:])[0]
    step = max(1, -(-max(array.shape) // PREVIEW_PIXELS))
    partial = folder / ".preview.npy"
    np.save(partial, array[::step, ::step])
    partial.replace(folder / "preview.npy")
    report({"event": "preview", "file": str(folder / "preview.npy"), "stage": stage})


def _keep(folder: Path, report: Report, stage: str, items: Items, chosen: range, pieces: Any) -> None:
    """Write the finished slices of a stage into `partial-STAGE-NAME.npy` and tell the parent which they are."""
    if not isinstance(items, Slices):
        return
    for name, piece in pieces.items() if isinstance(pieces, dict) else [("result", pieces)]:
        file = folder / f"partial-{stage}-{name}.npy"
        shape = (len(items), *piece.shape[1:])
        fresh = not file.exists()
        array = piece.detach().cpu().numpy()
        out = np.lib.format.open_memmap(file, "w+" if fresh else "r+", array.dtype, shape if fresh else None)
        out[chosen[0] : chosen[-1] + 1] = array
        out.flush()
        report({"event": "partial", "file": str(file), "stage": stage, "items": [items.keys[c] for c in chosen]})
