"""Boots the stand-in, empties the scene after each test, and fails a test on an unexpected report of VTK or Qt."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
for _folder in (REPOSITORY / "DiffusionBackend", REPOSITORY / "Testing"):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

import headless  # noqa: E402

headless.start()


@pytest.fixture(autouse=True)
def scene():
    """The application's scene, emptied after the test; an unexpected report makes the test fail."""
    import slicer

    headless.errors.take()
    yield slicer.mrmlScene
    headless.clear()
    slicer.app.processEvents()
    reports = headless.errors.take()
    if reports:
        pytest.fail("Reported by VTK, Qt or a slot while the test ran:\n" + "\n".join(reports), pytrace=False)


_status = 0


def pytest_sessionfinish(session, exitstatus) -> None:
    global _status
    _status = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config) -> None:
    headless.leave(_status)
