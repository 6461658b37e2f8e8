"""The `slicer` package: MRML from the wheel, `slicer.util` from the wheel's own file, the rest from this folder.

The wheel's `slicer/__init__.py` is not used: it copies the names of `slicer.util` into `slicer`, which the
application does not do.
"""

from pathlib import Path

import slicer_core
from slicer_core import *  # noqa: F403

_here = str(Path(__file__).resolve().parent)
_wheel = Path(slicer_core.__file__).resolve().parents[1] / "slicer"
__path__ = [_here, str(_wheel)]
