"""Boots the stand-in for tests that need a scene, a panel or both."""

from __future__ import annotations

import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
for _folder in (REPOSITORY / "DiffusionBackend", REPOSITORY / "Testing"):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

import headless  # noqa: E402

headless.start()

from headless.fixtures import pytest_sessionfinish, pytest_unconfigure, scene  # noqa: E402, F401
