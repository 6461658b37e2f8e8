"""Boots the stand-in for its own tests."""

from __future__ import annotations

import sys
from pathlib import Path

TESTING = Path(__file__).resolve().parents[2]
if str(TESTING) not in sys.path:
    sys.path.insert(0, str(TESTING))

import headless  # noqa: E402

headless.start()

from headless.fixtures import pytest_sessionfinish, pytest_unconfigure, scene  # noqa: E402, F401
