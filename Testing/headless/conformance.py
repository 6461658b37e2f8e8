"""Slicer's own Python tests on the stand-in: SLICER_SRC=CHECKOUT python -m headless.conformance FILE RESULT.json

The `slicer` package is the stand-in's; what it lacks (`parameterNodeWrapper`, `packaging`, `testing`, …) comes from the
checkout, unchanged. `tests/test_conformance.py` runs each file in a process of its own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import unittest
from pathlib import Path

import headless


def prepare(checkout: Path) -> None:
    """Let `slicer` find the checkout's Python files after our own, and give it the widgets that they ask for."""
    import slicer
    import slicer_core.MRMLCore

    from . import conformance_widgets

    conformance_widgets.install()
    slicer.__path__.insert(1, str(checkout / "Base" / "Python" / "slicer"))
    sys.modules["MRMLCorePython"] = slicer_core.MRMLCore
    sys.path.append(str(checkout / "Modules" / "Loadable" / "SubjectHierarchy"))
    import SubjectHierarchyLib  # noqa: F401  (the module of this name imports it in the application)


def run(path: Path) -> dict:
    """Run a file of tests: {"run": number, "failed": {test: last line of the report}, "reports": what slots raised}."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    tests = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = tests
    spec.loader.exec_module(tests)
    result = unittest.TextTestRunner(verbosity=2).run(unittest.defaultTestLoader.loadTestsFromModule(tests))
    failed = {test.id(): report.strip().splitlines()[-1] for test, report in result.failures + result.errors}
    failed |= {test.id(): "passes though it was expected to fail" for test in result.unexpectedSuccesses}
    failed |= {test.id(): f"skipped: {reason}" for test, reason in result.skipped}
    return {"run": result.testsRun, "failed": failed, "reports": headless.errors.take()}


if __name__ == "__main__":
    headless.start()
    prepare(Path(os.environ["SLICER_SRC"]))
    Path(sys.argv[2]).write_text(json.dumps(run(Path(sys.argv[1]))), encoding="utf-8")
    headless.leave(0)
