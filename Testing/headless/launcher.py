"""The application's command line, as far as scripts and tests use it (`Testing/headless/Slicer`).

    Slicer --no-main-window --python-script FILE arguments…
    Slicer --testing --additional-module-paths FOLDER… --python-code CODE
    Slicer script.py arguments…

Exit status as in the application: the number given to `slicer.util.exit`; 1 where Python code failed; with --testing a
failed slot makes 1 out of 0. `--python-script` alone does not end the application: the script must.
Where the application only prints that a script is missing, the stand-in ends with 1.
"""

from __future__ import annotations

import argparse
import re
import sys
import traceback
import types
from pathlib import Path

import headless

SCRIPT_OPTIONS = ("--python-script",)  # everything after the script belongs to it
IGNORED = ("--no-splash", "--disable-settings", "--ignore-slicerrc", "--disable-modules",
           "--disable-builtin-modules", "--disable-cli-modules", "--disable-loadable-modules",
           "--disable-builtin-cli-modules", "--disable-builtin-loadable-modules",
           "--disable-builtin-scripted-loadable-modules")


def main(arguments: list[str]) -> int:
    """Run the application until a script ends it."""
    own, script, script_arguments = _split(arguments)
    options = _parse(own)
    ends = options.testing or options.python_code is not None or (script is not None and not script[0])
    app = headless.start(main_window=not options.no_main_window, testing=options.testing)
    app.commandOptions().runPythonAndExit = ends
    state = {"failed": False}

    def begin() -> None:
        try:
            _load_modules(options.additional_module_paths)
            app.startupCompleted.emit()
            _execute(options.python_code, script[1] if script else None, script_arguments)
        except SystemExit as end:
            app.exit(end.code if isinstance(end.code, int) else int(end.code is not None))
            return
        except Exception:
            traceback.print_exc()
            state["failed"] = True
        if app.commandOptions().runPythonAndExit:
            app.exit(int(state["failed"]))

    from PySide6 import QtCore

    QtCore.QTimer.singleShot(0, begin)
    status = app.exec()
    in_slot = any("Traceback" in message for message in headless.errors.recorded)
    return 1 if status == 0 and options.testing and (in_slot or state["failed"]) else status


def _split(arguments: list[str]) -> tuple[list[str], tuple[bool, Path] | None, list[str]]:
    """Own options; (given by --python-script?, script); the script's arguments."""
    for index, argument in enumerate(arguments):
        if argument in SCRIPT_OPTIONS and index + 1 < len(arguments):
            return arguments[:index], (True, Path(arguments[index + 1])), arguments[index + 2:]
    if arguments and arguments[0].endswith(".py"):
        return [], (False, Path(arguments[0])), arguments[1:]
    return arguments, None, []


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="Slicer", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--no-main-window", action="store_true")
    parser.add_argument("--testing", action="store_true")
    parser.add_argument("--python-code", "-c")
    parser.add_argument("--additional-module-paths", "--additional-module-path", nargs="+", type=Path, default=[])
    for name in IGNORED:
        parser.add_argument(name, action="store_true", help="accepted; nothing here depends on it")
    return parser.parse_args(arguments)


def _load_modules(folders: list[Path]) -> None:
    """Load the scripted modules of the folders: files X.py with a class X."""
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"There is no module folder '{folder}'.")
        for path in sorted(folder.glob("*.py")):
            if re.search(rf"^class {re.escape(path.stem)}\b", path.read_text(encoding="utf-8"), re.MULTILINE):
                headless.load_module(path)


def _execute(code: str | None, script: Path | None, arguments: list[str]) -> None:
    """Run the code, then the script, in a fresh `__main__` with the names that the application has put there."""
    main_module = types.ModuleType("__main__")
    sys.modules["__main__"] = main_module
    names = main_module.__dict__
    exec("import slicer, qt, ctk, vtk", names)
    if code is not None:
        exec(compile(code, "<python-code>", "exec"), names)
    if script is not None:
        if not script.is_file():
            print(f"There is no script '{script}'.", file=sys.stderr)
            raise SystemExit(1)
        sys.argv = [str(script), *arguments]
        names["__file__"] = str(script)
        exec(compile(script.read_text(encoding="utf-8"), str(script), "exec"), names)


if __name__ == "__main__":
    headless.leave(main(sys.argv[1:]))
