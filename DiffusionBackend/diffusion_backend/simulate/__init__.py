"""Simulated test data, one file a task. Each has INPUTS and PARAMETERS (declared as for a method) and

    simulate(inputs, p, seed) -> {file name: Grid or Segmentation}      # "projections.npz", "reference.nrrd", ...
    example() -> the same for a generated phantom, the sample data of the methods

`run_task` reads the inputs, checks the parameters and writes the files together with `simulation.json` (task,
parameters, seed).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..checks import default_checks, enforce
from ..data import Grid, Item
from ..errors import InputError
from ..io import images
from ..io.folders import move_files, temporary, write_text
from ..io.projections import write_projections
from ..params import pairs, validate
from ..provenance import versions
from ..terminal import read_inputs


def run_task(module: Any, arguments: argparse.Namespace) -> None:
    """The command `simulate TASK --input … --output FOLDER [--set NAME=VALUE]… [--seed N]`."""
    p = validate(module.PARAMETERS, pairs(arguments.settings, "--set"))
    inputs = read_inputs(module.INPUTS, arguments.input)
    for declared in module.INPUTS:
        if declared.required and declared.name not in inputs:
            raise InputError(f"The simulation needs the input '{declared.name}'. Give it with --input PATH.")
    enforce(tuple(c for i in module.INPUTS for c in default_checks(i.name, i.kind)), inputs, p)
    made: dict[str, Item] = module.simulate(inputs, p, arguments.seed)
    write_files(made, {"task": arguments.task, "parameters": vars(p), "seed": arguments.seed}, arguments.output)


def write_files(made: Mapping[str, Item], record: Mapping[str, Any], output: Path) -> None:
    """Write the files of a task, and `simulation.json` with `record` and versions, into the folder `output`."""
    with temporary(output.absolute().parent, ".diffusion-") as work:
        for name, item in made.items():
            write(item, work / name)
        write_text(work / "simulation.json", json.dumps({**record, "versions": versions()}, indent=1))
        move_files(work, output, last="simulation.json")
    print(f"Written to {output}: {', '.join(made)}")


def write(item: Item, path: Path) -> None:
    """One item as the file that its name says."""
    if path.suffix == ".npz" and isinstance(item, Grid):
        write_projections(item, path)
    else:
        images.write_item(item, path)  # type: ignore[arg-type]
