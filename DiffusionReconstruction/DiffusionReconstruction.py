"""Diffusion Reconstruction: a module of 3D Slicer."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from slicer.i18n import tr as _

if importlib.util.find_spec("diffusion_panel") is None:  # source tree; when installed the packages lie beside this file
    sys.path.append(str(Path(__file__).resolve().parents[1] / "DiffusionBackend"))

import diffusion_panel.module  # its test is not imported by name: unittest would run it as one of this file
from diffusion_panel.logic import DiffusionLogic
from diffusion_panel.module import DiffusionModule
from diffusion_panel.widget import DiffusionWidget


class DiffusionReconstruction(DiffusionModule):
    """Metadata of the module."""

    module = "reconstruction"
    title = _("Diffusion Reconstruction")
    category = _("Tomographic Reconstruction")
    purpose = _(
        "Generative diffusion models for images from measurements: CT with"
        " metal, few views or photon counting, undersampled MR, ultrasound."
    )


class DiffusionReconstructionWidget(DiffusionWidget):
    """The panel, made from the declarations of the reconstruction methods."""

    module = "reconstruction"


class DiffusionReconstructionLogic(DiffusionLogic):
    """Runs methods from panel, console and scripts."""


class DiffusionReconstructionTest(diffusion_panel.module.DiffusionTest):
    """Self-test of the module."""
