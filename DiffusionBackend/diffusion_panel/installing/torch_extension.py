"""torch through the extension "PyTorch", which other extensions of the same Slicer share."""

from __future__ import annotations

import os
import sysconfig
from typing import Any

import slicer
from slicer.i18n import tr as _

from .failures import InstallFailure, explain


def usable() -> bool:
    """Whether the extension is there and Slicer's own packages can be written to."""
    return hasattr(slicer.modules, "pytorchutils") and os.access(sysconfig.get_path("purelib"), os.W_OK)


def install(requirement: Any) -> None:
    """Let the extension install torch into Slicer's Python. Raises InstallFailure.

    It has no way of doing that in the background, and must be called on the GUI thread: the application hardly answers
    until it returns. Afterwards torch is loaded in Slicer's own process, too."""
    import PyTorchUtils

    try:
        installed = PyTorchUtils.PyTorchUtilsLogic().installTorch(
            askConfirmation=False, torchVersionRequirement=str(requirement.specifier)
        )
    except Exception as error:  # whatever pip, light-the-torch or the import of torch raise
        told = explain([str(getattr(error, "output", "") or ""), str(error)], package=requirement.name)
        remedy = _("Install torch in the module 'PyTorch Utils', which shows pip's messages, and come back.")
        raise InstallFailure(told.message, remedy) from error
    if installed is None:
        message = _("The PyTorch extension has not installed torch.")
        raise InstallFailure(message, _("Install it in the module 'PyTorch Utils', and come back."))
