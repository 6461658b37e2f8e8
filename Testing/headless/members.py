"""Qt properties of the stand-in's own widgets, each with its setter, as the C++ classes declare them."""

from __future__ import annotations

from collections.abc import Callable

from PySide6 import QtCore


def member(kind, name: str, default, changed: str = "") -> tuple[QtCore.Property, Callable]:
    """A property and its setter: `minimum, setMinimum = member(float, "minimum", 0.0, "_apply")`.

    kind: type of the property (str names a Qt type); changed: method that is called after each write.
    """
    field = "_" + name

    def read(self):
        value = getattr(self, field, default)
        return tuple(value) if isinstance(value, (list, tuple)) else value

    def write(self, value) -> None:
        setattr(self, field, value)
        if changed:
            getattr(self, changed)()

    return QtCore.Property(kind, read, write), write
