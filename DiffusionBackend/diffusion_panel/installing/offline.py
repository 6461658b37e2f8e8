"""What a computer without internet needs: the files by name and version, and how to fetch them on another one."""

from __future__ import annotations

import shlex

from slicer.i18n import tr as _

from . import commands, packages
from .failures import python_words


def needed() -> str:
    """The required files, and for each build of torch the commands that fetch them with all that they need in turn."""
    requirements = packages.requirements()
    lines = [
        _("Needed, each as a .whl file for {python}:").format(python=python_words()),
        *(f"    {r.name} {packages.bounds(r)}" for r in requirements),
        _("and what these need in turn (Slicer has some of it already; more files do no harm)."),
        "",
        _("On a computer with internet access, the same system and the same Slicer, run in a terminal:"),
    ]
    for flavour in commands.flavours():
        lines += ["", label(flavour) + ":"]
        for options, names in commands.sources(requirements, commands.index_of(flavour), None):
            arguments = ["-m", "pip", "download", "--dest", "wheels", *commands.WHEELS_ONLY, *options, *names]
            lines.append("    PythonSlicer " + " ".join(shlex.quote(a) for a in arguments).replace("'", '"'))
    lines += ["", _("Copy the folder 'wheels' to this computer, and choose it with 'From folder…'.")]
    return "\n".join(lines)


def label(flavour: str) -> str:
    """A build of torch with the size of its download, as a person chooses it."""
    if flavour == commands.CPU:
        return _("CPU (download about {size} GB)").format(size=commands.DOWNLOAD_GB[flavour])
    return _("NVIDIA GPU (download about {size} GB)").format(size=commands.DOWNLOAD_GB[flavour])
