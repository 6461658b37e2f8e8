"""What is known of an input without running anything: the panel's side of the checks.

The same functions as in the engine (`diffusion_backend.predicates`), on the same arrays, without a copy: verdicts and
sentences are equal.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from diffusion_backend import predicates

from . import sequences
from .exchange import read
from .geometry import image_of, local_to_world, parts
from .roi import Slab

REMEMBERED = 64  # inputs whose facts are kept
_known: dict[Any, tuple[Any, dict[str, Any]]] = {}


def facts(kind: str, value: Any, reference: Any = None, *, unit: str = "", slab: Slab | None = None) -> dict[str, Any]:
    """Facts of an input, kept until its node, its data or its place changes. Arguments and errors as in
    `exchange.export`."""
    stamp = _stamp(kind, value), _stamp("volume", reference) if reference is not None else None
    key = (kind, unit, slab, _identity(value), _identity(reference))
    if key in _known and stamp[0] is not None and _known[key][0] == stamp:
        return _known[key][1]
    found = facts_of(*read(kind, value, unit=unit, reference=reference, slab=slab))
    if len(_known) >= REMEMBERED:
        _known.clear()
    _known[key] = (stamp, found)
    return found


def facts_of(description: dict[str, Any], array: np.ndarray | None) -> dict[str, Any]:
    """Facts of a description and its array, as `exchange.export` gives them."""
    if "text" in description:
        return predicates.text_facts(description["text"])
    if "columns" in description:
        return predicates.table_facts(description["columns"], len(description["rows"]))
    matrix = description.get("ijkToRAS")
    sizes = None if matrix is None else np.linalg.norm(np.array(matrix)[:3, :3], axis=0).tolist()
    placement = None if matrix is None else {"spacing": sizes, "ijkToRAS": matrix}
    if "labels" in description:
        return predicates.label_facts(array, placement, description["labels"])
    axes = tuple(axis["name"] for axis in description["axes"])
    return predicates.grid_facts(array, placement, axes, description["unit"], description.get("acquisition"))


def _identity(value: Any) -> Any:
    """A hashable name of an input: the id of its node, its text or path."""
    if type(value) is tuple:
        return _identity(value[0]), tuple((value[1] or {}).items())
    node = parts(value)[0]
    return node.GetID() if hasattr(node, "GetID") else str(node)


def _stamp(kind: str, value: Any) -> Any:
    """What changes whenever the facts may change; None where they are cheap or the input is unusable."""
    node, place = parts(value[0] if type(value) is tuple else value)
    if kind == "projections" and isinstance(node, (str, os.PathLike)) and os.path.isfile(node):
        status = os.stat(node)
        return status.st_mtime_ns, status.st_size
    if kind == "sequence":
        return tuple(_stamp("volume", sequences.frame(value, i)) for i in range(sequences.frames(value)))
    if not hasattr(node, "IsA") or node.GetScene() is None:
        return None
    if node.IsA("vtkMRMLVolumeNode"):
        data = (image_of(node).GetMTime(),)
    elif node.IsA("vtkMRMLSegmentationNode"):
        data = _segment_times(node.GetSegmentation())
    else:
        return None
    return node.GetMTime(), data, local_to_world(place, np.eye(4)).tobytes()


def _segment_times(segmentation: Any) -> tuple[int, ...]:
    """Times of the segments and of their source representation."""
    segments = [segmentation.GetSegment(s) for s in segmentation.GetSegmentIDs()]
    data = [s.GetRepresentation(segmentation.GetSourceRepresentationName()) for s in segments]
    times = [segmentation.GetMTime(), *(s.GetMTime() for s in segments), *(d.GetMTime() for d in data if d)]
    return tuple(times)
