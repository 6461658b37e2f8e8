"""Where shared data lie: the bundled `Resources` folder and the user's own model folder."""

from __future__ import annotations

import os
from pathlib import Path


def resources() -> Path:
    """The bundled `Resources` folder: beside the packages in the source tree, or DIFFUSIONMODELS_RESOURCES."""
    override = os.environ.get("DIFFUSIONMODELS_RESOURCES")
    return Path(override) if override else Path(__file__).resolve().parents[2] / "Resources"


def user_models() -> Path:
    """The folder of the user's imported or trained models: DIFFUSIONMODELS_MODELS, or one below the home folder."""
    override = os.environ.get("DIFFUSIONMODELS_MODELS")
    return Path(override) if override else Path.home() / ".diffusionmodels" / "models"
