"""Options that the commands `run` and `batch` share; known without torch."""

from __future__ import annotations

import argparse
from pathlib import Path

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
