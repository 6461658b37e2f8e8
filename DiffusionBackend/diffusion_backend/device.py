"""The device that computes: chosen, and tried before it is trusted."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .errors import InputError

TOLERANCE = 1e-3  # relative; full float32 gives about 1e-6, a wrong kernel gives anything
ACCELERATORS = ("cuda", "mps")


def choose(asked: str, warn: Callable[[str], None]) -> str:
    """The device to use. "auto" takes the best one that computes rightly, and says why a better one isn't taken.

    Raises InputError when the one asked for isn't there or fails its trial: it is never replaced silently."""
    there = {name: available(name) for name in (*ACCELERATORS, "cpu")}
    if asked == "auto":
        for name in ACCELERATORS:
            reason = trial(name) if there[name] else "absent"
            if not reason:
                return name
            if there[name]:
                warn(f"The device '{name}' isn't used, because {reason}; the run takes the CPU.")
        return "cpu"
    if not there.get(asked):
        known = ", ".join(name for name in there if there[name])
        raise InputError(f"The device '{asked}' isn't available here. Available: {known}.")
    reason = trial(asked) if asked in ACCELERATORS else ""
    if reason:
        remedy = "Choose the CPU, or install another torch."
        raise InputError(f"The device '{asked}' can't be used, because {reason}.", remedy)
    return asked


def available(name: str) -> bool:
    """Whether torch sees the device."""
    return name == "cpu" or (torch.cuda.is_available() if name == "cuda" else torch.backends.mps.is_available())


def trial(device: str) -> str:
    """"" when a 2D and a 3D convolution give the CPU's result on `device`, else what is wrong."""
    generator = torch.Generator().manual_seed(0)
    for convolve, dims in ((torch.nn.functional.conv2d, 2), (torch.nn.functional.conv3d, 3)):
        x, w = (torch.randn(2, 2, *[n] * dims, generator=generator) for n in (8, 3))
        wanted = convolve(x, w)
        try:
            found = convolve(x.to(device), w.to(device)).cpu()
        except (RuntimeError, NotImplementedError) as error:
            if "no kernel image" in str(error):
                return "this torch build has no code for it"
            return f"a {dims}D convolution fails on it ({str(error).splitlines()[0]})"
        if float((found - wanted).abs().max()) > TOLERANCE * float(wanted.abs().max()):
            return f"a {dims}D convolution gives wrong values on it"
    return ""
