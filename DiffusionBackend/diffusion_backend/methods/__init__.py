"""The methods, one line each: id -> module in this package. Declarations are read without torch."""

from __future__ import annotations

import importlib
from types import ModuleType

from ..errors import InputError
from ..method import Method
from ..params import nearest

MODULES = {
    "a10": "a10_ddpm_mar",
    "a11": "a11_dudodp",
    "fbp": "fbp",
    "li": "li",
    "nmar": "nmar",
}


def load(method_id: str) -> ModuleType:
    """The module of a method, with `METHOD`, `plan` and `run`."""
    if method_id not in MODULES:
        raise InputError(
            f"There is no method '{method_id}'{nearest(method_id, MODULES)}. Known are: {', '.join(MODULES)}."
        )
    return importlib.import_module(f"{__name__}.{MODULES[method_id]}")


def declarations() -> list[Method]:
    """The declarations of all methods."""
    return [load(method_id).METHOD for method_id in MODULES]
