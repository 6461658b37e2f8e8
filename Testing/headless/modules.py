"""Scripted modules: found by file, made as the module factory of the application makes them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import qt
import slicer


class ModuleFactory:
    """`slicer.modules`: one attribute per module."""


class LoadableModule:
    """A module of the application itself: only its logic is here."""

    def __init__(self, name: str, logic) -> None:
        self.name, self._logic = name, logic

    def logic(self):
        return self._logic


def load(path: Path):
    """Load the scripted module `path`; the instance of its class X is made with the module object as parent."""
    raise NotImplementedError
