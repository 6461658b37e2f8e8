"""What the conftest files of Testing/panel and Testing/headless/tests share: import it after `headless.start()`."""

from __future__ import annotations

import pytest

import headless

_status: list[int] = []


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


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session) -> None:
    _status.append(int(session.exitstatus))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config) -> None:
    """Leave with the status of the tests, at once: VTK and Qt do not survive an orderly end of Python together."""
    if _status:
        headless.leave(_status[-1])
