"""Load a module, run its own tests, photograph its panel and the whole window.

    python -m headless.runner MODULE.py --test --panel panel.png --window window.png --width 400 --palette dark
"""

from __future__ import annotations

import argparse
import traceback
from pathlib import Path

import headless


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, or 1 when a test failed or VTK, Qt or a slot reported an error."""
    parser = argparse.ArgumentParser(prog="python -m headless.runner", description=__doc__.splitlines()[0])
    parser.add_argument("module", type=Path, help="file of a scripted module")
    parser.add_argument("--test", action="store_true", help="run the module's class XTest")
    parser.add_argument("--panel", type=Path, help="PNG of the panel")
    parser.add_argument("--window", type=Path, help="PNG of the panel beside the views")
    parser.add_argument("--width", type=int, default=400, help="width of the panel in pixels")
    parser.add_argument("--palette", choices=("light", "dark"), default="light")
    options = parser.parse_args(arguments)
    if not options.module.is_file():
        parser.error(f"There is no module file '{options.module}'.")
    app = headless.start()
    headless.palette(options.palette)
    try:
        _run(app, options)
    except Exception:
        headless.errors.record(traceback.format_exc())
    failed = headless.errors.take()
    print(f"{options.module.stem}: {'failed' if failed else 'passed'}")
    return 1 if failed else 0


def _run(app, options: argparse.Namespace) -> None:
    import slicer

    module = headless.load_module(options.module)
    app.startupCompleted.emit()
    if options.test:
        slicer.selfTests[module.name]()
    if not (options.panel or options.window):
        return
    panel = module.widgetRepresentation()
    panel.enter()
    if options.panel:
        headless.grab(panel, options.panel, options.width)
    if options.window:
        from .mainwindow import MainWindow

        options.window.parent.mkdir(parents=True, exist_ok=True)
        MainWindow(app.layoutManager(), panel, options.width).photograph(str(options.window))


if __name__ == "__main__":
    headless.leave(main())
