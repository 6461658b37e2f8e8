"""The error channel: what VTK, Qt and Python report while no caller listens is recorded, so that a test can fail.

Recorded are errors and warnings of VTK's output window, exceptions in Qt slots and in VTK observers (both end in
`sys.excepthook`), and warnings of Qt itself.
"""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import vtk
from PySide6 import QtCore

# What is no fault of the code under test.
ALLOWED = (
    r"No such signal .*\(vtk",  # connections of a .ui file with VTK types: made by name afterwards
    r"QObject::connect: +\((sender|receiver) name",  # second and third line of the message above
    "plugin does not support",  # the screen-less platform of Qt
    "Failed to load presets",  # the wheel has no share folder for volume rendering presets
    "orientation preset name: Reformat",  # MRML's own reader says so of every oblique slice view in a scene
)
recorded: list[str] = []


def install() -> None:
    """Start recording; called once by `headless.start`."""
    vtk.vtkLogger.SetStderrVerbosity(vtk.vtkLogger.VERBOSITY_OFF)
    window = vtk.vtkOutputWindow.GetInstance()
    window.SetDisplayModeToNever()
    window.AddObserver("ErrorEvent", _on_vtk)
    window.AddObserver("WarningEvent", _on_vtk)
    sys.excepthook = _on_exception
    QtCore.qInstallMessageHandler(_on_qt)


def record(message: str) -> None:
    """Keep a message and print it, unless it is on the list of allowed ones."""
    if not any(re.search(pattern, message) for pattern in ALLOWED):
        recorded.append(message.strip())
        print(message.strip(), file=sys.stderr)


def take() -> list[str]:
    """The messages since the last call."""
    messages = recorded[:]
    recorded.clear()
    return messages


@contextmanager
def expect(pattern: str) -> Iterator[list[str]]:
    """The block must report at least one message that contains the regular expression; others stay recorded.

    Yields a list that holds the matching messages when the block has ended.
    """
    before = take()
    matching: list[str] = []
    try:
        yield matching
    finally:
        messages = take()
        matching += [m for m in messages if re.search(pattern, m)]
        recorded.extend(before + [m for m in messages if m not in matching])
    if not matching:
        raise AssertionError(f"An error like '{pattern}' was expected; reported were: {messages or 'none'}.")


@vtk.calldata_type(vtk.VTK_STRING)
def _on_vtk(caller, event: str, text: str) -> None:
    record(text)


def _on_exception(kind, value, trace) -> None:
    record("".join(traceback.format_exception(kind, value, trace)))


def _on_qt(kind, context, text: str) -> None:
    if kind != QtCore.QtMsgType.QtDebugMsg and kind != QtCore.QtMsgType.QtInfoMsg:
        record(f"Qt: {text}")
