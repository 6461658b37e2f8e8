"""Which tests may be skipped: those on real images and those on Slicer's sources, where these aren't given. Every other
skip, and an expected failure without a reason, makes the run fail; the counts are printed at the end."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

LANES = {"DIFFUSIONMODELS_DATA is unset": "real data", "SLICER_SRC": "SLICER_SRC"}  # words of the reason -> lane
_counts = Counter(dict.fromkeys(LANES.values(), 0))
_others: list[str] = []


def pytest_runtest_logreport(report: Any) -> None:
    """Take note of a skip."""
    if not report.skipped:
        return
    if hasattr(report, "wasxfail"):
        if not report.wasxfail.removeprefix("reason: ").strip():
            _others.append(f"{report.nodeid}: expected to fail without a reason")
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    lane = next((lane for words, lane in LANES.items() if words in reason), None)
    if lane:
        _counts[lane] += 1
    else:
        _others.append(f"{report.nodeid}: {reason}")


def pytest_collectreport(report: Any) -> None:
    """A file that skips itself as a whole."""
    pytest_runtest_logreport(report)


def pytest_sessionfinish(session: Any) -> None:
    """A skip outside the lanes is a failure."""
    if _others and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the counts."""
    terminalreporter.write_line("skipped: " + ", ".join(f"{n} {lane}" for lane, n in _counts.items()))
    for other in _others:
        terminalreporter.write_line(f"NOT ALLOWED TO SKIP {other}", red=True)
