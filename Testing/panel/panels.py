"""What the tests of the panel share: a loaded module, a small CT with metal, waiting for a condition."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import headless
import numpy as np
import slicer

REPOSITORY = Path(__file__).resolve().parents[2]
MODULES = {"reconstruction": "DiffusionReconstruction", "segmentation": "DiffusionSegmentation",
           "synthesis": "DiffusionSynthesis"}  # fmt: skip
SECONDS = 60.0  # a wait that takes so long has failed


def panel(module: str = "reconstruction") -> Any:
    """The panel of a module, entered, with an empty scene."""
    name = MODULES[module]
    loaded = headless.load_module(REPOSITORY / name / f"{name}.py")
    loaded.widgetRepresentation().enter()
    return slicer.util.getModuleWidget(name)


def unload() -> None:
    """End the modules as the application does, so that no panel listens to the scenes of other tests."""
    for name in MODULES.values():
        if hasattr(slicer.modules, name.lower()):
            slicer.app.moduleManager().moduleAboutToBeUnloaded.emit(name)
            delattr(slicer.modules, name.lower())
            del sys.modules[name]


def wait(condition: Callable[[], Any], what: str = "") -> None:
    """Handle events until the condition holds."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, f"waited for {what or condition}"
        slicer.app.processEvents()
        time.sleep(0.005)


def ct_with_metal(name: str = "CT", slices: int = 3, size: int = 48) -> Any:
    """An oval body of water with two pieces of metal, on an anisotropic grid."""
    k, j, i = np.mgrid[:slices, :size, :size].astype(float)
    half = size / 2
    body = ((j - half) / (0.4 * size)) ** 2 + ((i - half) / (0.45 * size)) ** 2 < 1
    array = np.where(body, 30, -1000).astype(np.int16)
    array[:, size // 2 : size // 2 + 4, size // 4 : size // 4 + 4] = 5000
    array[:, size // 2 : size // 2 + 4, -size // 4 - 4 : -size // 4] = 5000
    matrix = np.diag([-1.5, -1.5, 3.0, 1.0])
    matrix[:3, 3] = (36, 40, -20)
    return slicer.util.addVolumeFromArray(array, ijkToRAS=matrix, name=name)
