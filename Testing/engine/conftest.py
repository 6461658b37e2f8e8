"""Shared fixtures: where golden arrays and real images lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
OWN = Path(__file__).resolve().parents[1] / "golden"
GOLDEN = Path(os.environ.get("DIFFUSIONMODELS_GOLDEN") or OWN)


def golden_files(pattern: str) -> list[Path]:
    """Golden archives that match `pattern`: those of the folder named by DIFFUSIONMODELS_GOLDEN, else Testing/golden's."""
    return sorted(GOLDEN.glob(pattern)) or sorted(OWN.glob(pattern))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images named by DIFFUSIONMODELS_DATA; the test is skipped where it is unset."""
    folder = os.environ.get("DIFFUSIONMODELS_DATA")
    if not folder:
        pytest.skip("DIFFUSIONMODELS_DATA is unset: tests on real images need the folder of real images.")
    return Path(folder)
