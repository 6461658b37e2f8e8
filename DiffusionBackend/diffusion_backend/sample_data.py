"""Sample data: generated on this machine, for every method that declares them, with the result to expect."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

from . import methods
from .data import Item
from .errors import InputError
from .io.arrays import save_item
from .io.folders import complete, write_text
from .run import Report

REFERENCE = "reference"


def make(method_id: str) -> dict[str, Item]:
    """File name -> item: the method's required inputs and the reference. InputError for a method without sample."""
    method = methods.load(method_id).METHOD
    if method.sample is None:
        raise InputError(f"The method '{method_id}' has no sample data.")
    wanted = {i.name for i in method.inputs if i.required} | {REFERENCE}
    made = import_module(f"{__package__}.simulate.{method.sample.simulation}").example()
    return {file: item for file, item in made.items() if Path(file).stem in wanted}


def write(method_id: str, output: Path) -> None:
    """The command `sample`: files that `run` takes."""
    from .simulate import write_files  # it reads inputs as the terminal form does, which runs jobs

    made = make(method_id)
    write_files(made, {"sample": method_id}, output)
    inputs = " ".join(f"--input {Path(f).stem}={output / f}" for f in made if Path(f).stem != REFERENCE)
    print(f"Try: python -m diffusion_backend run {method_id} {inputs} --reference {output / 'reference.nrrd'} --output …")
    print(expected(method_id))


def expected(method_id: str) -> str:
    """What a run with the standard preset and seed 0 gives, in words."""
    sample = methods.declaration(method_id).sample
    assert sample
    before = "" if sample.before is None else f", {sample.before:g} HU before"
    return f"Expected with preset standard and seed 0: error (RMSE) {sample.after:g} HU{before}."


def run_job(folder: Path, method_id: str, report: Report) -> Path:
    """Fill `folder`/result as a run does, with the sample data as outputs."""
    method = methods.load(method_id).METHOD
    kinds = {i.name: (i.kind, i.unit) for i in method.inputs} | {REFERENCE: ("volume", "HU")}
    report({"event": "progress", "stage": "sample data"})
    outputs = {}
    with complete(folder / "result") as fresh:
        for file, item in make(method_id).items():
            kind, unit = kinds[name := Path(file).stem]
            outputs[name] = save_item(fresh, name, item) | {"kind": kind, "unit": unit, "display": "none"}
        about = {"id": method.id, "name": method.name}
        record = {"schema": 1, "method": about, "sample": True, "outputs": outputs}
        write_text(fresh / "result.json", json.dumps(record, indent=1))
    report({"event": "result", "folder": str(folder / "result")})
    return folder / "result"
