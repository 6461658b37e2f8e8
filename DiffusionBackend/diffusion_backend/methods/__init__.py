"""The methods, one line each: id -> module in this package. Declarations are read without torch."""

from __future__ import annotations

import importlib
from types import ModuleType

from ..errors import InputError
from ..method import Method
from ..params import nearest
from . import planned

# in the order in which pages and panels list them; a panel begins with the first
MODULES = {
    "a11": "a11_dudodp",
    "a10": "a10_ddpm_mar",
    "nmar": "nmar",
    "li": "li",
    "fbp": "fbp",
    "a14": "a14_hidiff",
}
PLANNED = {m.id: m for m in planned.METHODS}


def load(method_id: str) -> ModuleType:
    """The module of a method, with `METHOD`, `plan` and `run`."""
    if method_id in PLANNED:
        name = PLANNED[method_id].name
        raise InputError(f"The method '{method_id}' ({name}) is planned; this version can't run it yet.")
    if method_id not in MODULES:
        raise InputError(
            f"There is no method '{method_id}'{nearest(method_id, MODULES)}. Known are: {', '.join(MODULES)}."
        )
    return importlib.import_module(f"{__name__}.{MODULES[method_id]}")


def declaration(method_id: str) -> Method:
    """The declaration of a method, built or planned."""
    return PLANNED[method_id] if method_id in PLANNED else load(method_id).METHOD


def declarations() -> list[Method]:
    """The declarations of all methods: those that are built, then the planned ones."""
    return [load(method_id).METHOD for method_id in MODULES] + list(planned.METHODS)
