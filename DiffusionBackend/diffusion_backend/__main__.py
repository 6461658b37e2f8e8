"""python -m diffusion_backend describe | run | worker | simulate | batch | train | evaluate | models."""

from __future__ import annotations

import argparse
import json
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
    try:
        return COMMANDS[parsed.command][2](parsed)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(__package__):
            raise
        return missing_package(error.name)


def missing_package(name: str | None) -> int:
    """Tell a person and a parent process which package the engine lacks. Returns the exit code."""
    message = f"The Python package '{name}' isn't installed for the engine."
    remedy = "In Slicer use the panel's section 'Engine'; in a terminal install the packages that the README names."
    print(json.dumps({"event": "error", "kind": "installation", "message": message, "remedy": remedy}), flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
