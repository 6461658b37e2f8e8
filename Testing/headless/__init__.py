"""A stand-in for the Slicer application: real MRML, Slicer's own slicer.util, and Qt that behaves like PythonQt.

    import headless
    headless.start()               # slicer, qt and ctk can be imported from here on
    module = headless.load_module("DiffusionReconstruction/DiffusionReconstruction.py")
    headless.grab(module.widgetRepresentation(), "panel.png")

What it proves and what it does not: README.md.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")
FOLDER = Path(__file__).resolve().parent
_state: dict = {}


def start(*, main_window: bool = True, testing: bool = True):
    """Make `slicer`, `qt` and `ctk` importable and the application run; later calls only return `slicer.app`.

    main_window: False as with the option --no-main-window: `slicer.app.layoutManager()` is None.
    testing: True as with the option --testing: message boxes are logged instead of shown.
    """
    if "app" not in _state:
        os.environ["PATH"] = os.pathsep.join([str(FOLDER), os.environ.get("PATH", "")])  # PythonSlicer lies there
        os.environ["HEADLESS_PYTHON"] = sys.executable
        sys.path.insert(0, str(FOLDER / "site"))
        from . import errors
        from .app import make_application

        errors.install()
        _state["app"] = make_application(main_window, testing)
    return _state["app"]


def load_module(path: str | Path):
    """Load a scripted module from its file and return `slicer.modules.<name in lower case>`."""
    from .modules import load

    return load(Path(path))


def grab(widget, path: str | Path, width: int = 400, height: int | None = None) -> Path:
    """Write a widget as PNG, `width` pixels wide and as high as it wants to be there (or `height` pixels)."""
    from .pictures import grab as grab_widget

    return grab_widget(widget, Path(path), width, height)


def palette(name: str) -> None:
    """Show all widgets in the "light" or the "dark" palette."""
    from .pictures import set_palette

    set_palette(name)


def clear() -> None:
    """Close the scene and empty it, as between two patients; singleton nodes stay, as in the application."""
    import slicer

    slicer.mrmlScene.Clear(0)


def leave(status: int) -> None:
    """End the process at once: the order in which VTK and Qt destroy their singletons is left to nobody."""
    if "app" in _state:
        _state["app"].clean_up()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
