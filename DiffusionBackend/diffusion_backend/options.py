"""Options that the commands `run` and `batch` share; known without torch."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FORMATS = ("nrrd", "nii.gz", "mha", "seg.nrrd")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `run` that don't name data."""
    parser.add_argument(
        "--reference", type=Path, metavar="PATH", help="truth, for metrics.csv; the method never sees it"
    )
    parser.add_argument("--samples", type=int, default=1, help="repeats; 2 or more give mean and standard deviation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    parser.add_argument("--threads", type=int, help="CPU threads (default: as many as torch takes)")
    parser.add_argument("--batch", type=int, help="items at once (default 8, less where memory is short)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="settings", help="a parameter of the method"
    )
    parser.add_argument("--preset", default="standard", choices=("quick", "standard", "published"))
    parser.add_argument(
        "--model", action="append", default=[], metavar="SLOT=ID", help="a model for a slot of the method"
    )
    parser.add_argument("--format", default="nrrd", choices=FORMATS, help="file format of output volumes")
    parser.add_argument("--progress", default="auto", choices=("auto", "bar", "json"))


def add_parameters_file(parser: argparse.ArgumentParser) -> None:
    """The option --parameters, which repeats an earlier run."""
    parser.add_argument(
        "--parameters",
        action=_Settings,
        metavar="FILE",
        help="method, parameters and settings of an earlier run: its result.json, or the panel's settings as JSON; "
        "options that come later win",
    )


class _Settings(argparse.Action):
    """Takes the settings of a file as if they had been given as options."""

    def __call__(self, parser: Any, namespace: Any, file: Any, option: str | None = None) -> None:
        try:
            told = from_file(Path(file))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise argparse.ArgumentError(self, f"'{file}' doesn't hold the settings of a run ({reason})") from None
        namespace.told_method = told["method"]
        for name, value in told.items():
            if name != "method" or not namespace.method:
                setattr(namespace, name, value)


def from_file(file: Path) -> dict[str, Any]:
    """The options that compute again what a file describes: `result.json`, the panel's `settings_of` as JSON, or the
    provenance of a result node. Inputs aren't taken. ValueError where a part of a volume was computed."""
    told = json.loads(file.read_text(encoding="utf-8"))
    told = told["record"] | told.get("request", {}) if "record" in told else told
    if told.get("slices") or told.get("roi"):
        raise ValueError("a part of a volume was computed, but a list is computed whole")
    method, models = told["method"], told.get("models") or {}
    parameters = told.get("params", told.get("parameters")) or {}
    options = {
        "method": method["id"] if isinstance(method, Mapping) else method,
        "settings": [f"{name}={value}" for name, value in parameters.items()],
        "model": [f"{slot}={m['id'] if isinstance(m, Mapping) else m}" for slot, m in models.items()],
        "batch": told.get("batch_used", told.get("batch")),
    }
    kept = ("preset", "seed", "samples", "device", "threads")
    return options | {name: told[name] for name in kept if told.get(name) is not None}
