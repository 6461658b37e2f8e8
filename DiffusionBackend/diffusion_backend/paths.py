"""Where shared data lie: the bundled `Resources` folder and the user's own model folder."""

from __future__ import annotations

import os
from pathlib import Path


def resources() -> Path:
    """The bundled `Resources` folder: beside the package when installed in Slicer, in the source tree one folder up,
    or DIFFUSIONMODELS_RESOURCES."""
    override = os.environ.get("DIFFUSIONMODELS_RESOURCES")
    if override:
        return Path(override)
    installed, source = (parent / "Resources" for parent in Path(__file__).resolve().parents[1:3])
    return installed if installed.is_dir() else source


def user_models() -> Path:
    """The folder of the user's imported or trained models: DIFFUSIONMODELS_MODELS, or one below the home folder."""
    override = os.environ.get("DIFFUSIONMODELS_MODELS")
    return Path(override) if override else Path.home() / ".diffusionmodels" / "models"
