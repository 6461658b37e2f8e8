"""Sequences (4D data): their frames as volumes, and sequences of results that move with the source's browser."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from .geometry import ExchangeError, Frame, alive, living, parts, put_beside


def showing(volume: Any) -> Any:
    """The sequence browser that shows a sequence in this volume node, or None."""
    return next((b for b in _browsers() if alive(volume) and b.IsProxyNode(volume.GetID())), None)


def sequence_of(value: Any) -> tuple[Any, Any]:
    """(sequence node, its browser or None) of a sequence, of a browser (its master) or of the volume that shows one."""
    if hasattr(value, "IsA") and value.IsA("vtkMRMLSequenceBrowserNode"):
        living(value, "vtkMRMLSequenceBrowserNode", _("sequence"))
        return living(value.GetMasterSequenceNode(), "vtkMRMLSequenceNode", _("sequence")), value
    if hasattr(value, "IsA") and value.IsA("vtkMRMLVolumeNode") and showing(value) is not None:
        return showing(value).GetSequenceNode(value), showing(value)
    living(value, "vtkMRMLSequenceNode", _("sequence"))
    return value, next((b for b in _browsers() if b.IsSynchronizedSequenceNode(value, True)), None)


def frames(value: Any) -> int:
    """How many frames a sequence (or browser, or the volume that shows one) has."""
    return sequence_of(value)[0].GetNumberOfDataNodes()


def frame(value: Any, index: int) -> Frame:
    """Frame `index` of a sequence, for `export`, `facts` and `create(like=...)` as if it were a volume node."""
    sequence, browser = sequence_of(value)
    count = sequence.GetNumberOfDataNodes()
    if not 0 <= index < count:
        raise ExchangeError(
            _("The sequence '{name}' has {count} frames (from 0), but frame {index} is asked for.").format(
                name=sequence.GetName(), count=count, index=index
            )
        )
    return Frame(sequence.GetNthDataNode(index), browser.GetProxyNode(sequence) if browser else None, index)


def new_sequence(source: Any, name: str) -> Any:
    """An empty sequence node for results of `source`, with the same index (time, ...)."""
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", slicer.mrmlScene.GenerateUniqueName(name))
    if source is not None:
        original = sequence_of(source)[0]
        sequence.SetIndexName(original.GetIndexName())
        sequence.SetIndexUnit(original.GetIndexUnit())
        sequence.SetIndexType(original.GetIndexType())
    return sequence


def add_frame(sequence: Any, source: Any, index: int, node: Any) -> None:
    """Move a result node out of the scene into frame `index` of a result sequence.

    Its transform stays with the node that shows the sequence: frames lie in a scene of their own."""
    value = sequence_of(source)[0].GetNthIndexValue(index) if source is not None else str(index)
    if hasattr(node, "SetAndObserveTransformNodeID"):
        node.SetAndObserveTransformNodeID(None)
    sequence.SetDataNodeAtValue(node, value)
    shows = node.GetNumberOfDisplayNodes() if hasattr(node, "GetNumberOfDisplayNodes") else 0
    for one in [node.GetNthDisplayNode(n) for n in range(shows)] + [node]:
        slicer.mrmlScene.RemoveNode(one)


def synchronise(sequence: Any, source: Any) -> Any:
    """Let the browser of `source` show a result sequence too (a new browser where there is none).

    Returns the node that shows the frame in the scene, under the parent transform of the source's. The browser's
    frame stays as it is."""
    original, browser = sequence_of(source) if source is not None else (None, None)
    if browser is None:
        browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", sequence.GetName() + " browser")
        browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    else:
        browser.AddSynchronizedSequenceNode(sequence)
    slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
    shown = browser.GetProxyNode(sequence)
    place = browser.GetProxyNode(original) if original is not None else None
    if place is not None and hasattr(shown, "SetAndObserveTransformNodeID"):
        shown.SetAndObserveTransformNodeID(place.GetTransformNodeID())
    put_beside(shown, place)
    return shown


def create_sequence(
    items: list[tuple[Mapping[str, Any], np.ndarray]], name: str, like: Any, create: Callable[..., Any]
) -> Any:
    """A sequence node of these descriptions and arrays; synchronised with `like` (sequence, browser, the volume that
    shows one, or None) when both have as many frames."""
    source = like if like is not None and is_sequence(like) and frames(like) == len(items) else None
    sequence = new_sequence(source, name)
    for index, (description, array) in enumerate(items):
        neighbour = frame(source, index) if source is not None else None
        add_frame(sequence, source, index, create(description, array, name=f"{name} {index}", like=neighbour))
    synchronise(sequence, source)
    return sequence


def is_sequence(value: Any) -> bool:
    """Whether a node or Frame is a sequence, a browser, or a volume that shows a sequence."""
    node = parts(value)[0]
    return node.IsA("vtkMRMLSequenceBrowserNode") or node.IsA("vtkMRMLSequenceNode") or showing(node) is not None


def _browsers() -> list[Any]:
    return list(slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode"))
