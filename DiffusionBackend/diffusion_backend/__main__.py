"""python -m diffusion_backend describe | run | worker | simulate | batch | train | evaluate | models."""

from __future__ import annotations

import argparse
import sys

from . import __version__
from .commands import COMMANDS


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and do what it says. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m diffusion_backend", description="Engine of DiffusionModels. Not for clinical use."
    )
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, (help_text, add, _) in COMMANDS.items():
        add(subparsers.add_parser(name, help=help_text, description=help_text))
    parsed = parser.parse_args(arguments)
    return COMMANDS[parsed.command][2](parsed)


if __name__ == "__main__":
    sys.exit(main())
