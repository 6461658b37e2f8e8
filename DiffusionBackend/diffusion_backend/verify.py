"""python -m diffusion_backend.verify PACKAGE...: whether packages that were just installed work, in this process.

The panel runs it after an installation. Its last line is an event: "verified" with the versions and with what is wrong
with accelerators, or "error"."""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any


def main(names: list[str]) -> int:
    """Import the packages, exchange an array between numpy and torch, convolve. Returns the exit code."""
    found: dict[str, str] = {}
    for name in names:
        try:
            found[name] = str(getattr(importlib.import_module(name), "__version__", ""))
        except Exception as error:  # also OSError of a library, RuntimeError of two versions of numpy
            return _tell({"event": "error", "message": f"'{name}' can't be imported ({_words(error)})."}, 1)
    try:
        wrong = _trials()
    except Exception as error:
        return _tell({"event": "error", "message": f"torch doesn't compute ({_words(error)})."}, 1)
    return _tell({"event": "verified", "versions": found, "wrong": wrong}, 0)


def _trials() -> dict[str, str]:
    """Accelerator -> what is wrong with it, for those that torch sees. Raises what torch raises on the CPU."""
    import numpy as np
    import torch

    from . import device

    array = np.arange(4, dtype=np.float32)
    if not np.array_equal(torch.from_numpy(array).numpy(), array):  # fails where torch doesn't know this numpy
        raise RuntimeError("arrays change on their way through torch")
    if reason := device.trial("cpu"):
        raise RuntimeError(reason)
    return {name: device.trial(name) for name in device.ACCELERATORS if device.available(name)}


def _words(error: BaseException) -> str:
    """The first line of an exception, with its class."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300] if str(error).strip() else ''}"


def _tell(event: dict[str, Any], code: int) -> int:
    print(json.dumps(event), flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
