"""What a run takes from the scene and what it puts there: copies of the inputs, result nodes with their provenance."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from . import declarations, exchange, provenance, roi, sequences
from .geometry import ExchangeError, alive, name_of
from .jobs import InputProblem, Transfer

VOLUMES = ("volume", "vector volume", "complex volume")
SETTINGS = ("preset", "models", "seed", "samples", "device", "threads", "batch", "plan_only")


@dataclass
class Request:
    """What is asked of a method: the arguments of `DiffusionLogic.run`.

    inputs : name -> node, (segmentation node, {label: segment id}), text or path. slices : (first, last), both
    included, along the volume's slices. frames : None or "current", "all", or the number of a frame."""

    method: str
    inputs: dict[str, Any]
    params: dict[str, Any] = field(default_factory=dict)
    preset: str = "standard"
    seed: int = 0
    samples: int = 1
    device: str = "auto"
    threads: int | None = None
    batch: int | None = None
    models: dict[str, str] = field(default_factory=dict)
    roi: Any = None
    slices: tuple[int, int] | None = None
    reference: Any = None
    frames: str | int | None = None
    plan_only: bool = False

    @property
    def declared(self) -> dict[str, Any]:
        """The method's declaration."""
        return declarations.method(self.method)

    def kind(self, name: str) -> str:
        """The declared kind of an input."""
        return next(i["kind"] for i in self.declared["inputs"] if i["name"] == name)

    def first_volume(self) -> str | None:
        """The name of the first input volume: it gives grid, slices and place of the results."""
        return next((i["name"] for i in self.declared["inputs"]
                     if i["kind"] in VOLUMES and self.inputs.get(i["name"]) is not None), None)  # fmt: skip


def remembered(request: Request) -> dict[str, Any]:
    """What the provenance must know beyond the engine's record, as JSON values without names, paths or node ids."""
    nodes = [n for n, v in request.inputs.items() if node_of(v) is not None]
    texts = {n: v for n, v in request.inputs.items() if isinstance(v, str) and request.kind(n) == "text"}
    segments = {n: v[1] for n, v in request.inputs.items() if type(v) is tuple and v[1]}
    slices = list(request.slices) if request.slices else None
    return {"inputs": nodes, "texts": texts, "segments": segments, "preset": request.preset, "slices": slices,
            "frames": request.frames}  # fmt: skip


class SceneTransfer(Transfer):
    """Inputs out of the scene, results into it, beside the input that was chosen at the start."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.sequence = _moving(request)
        self.parts = sequences.frames(request.inputs[self.sequence]) if self.sequence else 1
        main = request.first_volume() or next(iter(request.inputs), "")
        self.main = request.inputs.get(main)
        self.title = name_of(node_of(self.main))
        self.slab: roi.Slab | None = None
        self.nodes: dict[str, Any] = {}

    def secrets(self) -> list[str]:
        """Names and paths that no report may hold."""
        given = (*self.request.inputs.values(), self.request.roi, self.request.reference)
        return [str(v) if isinstance(v, (str, Path)) else name_of(node_of(v)) for v in given if v is not None]

    def export(self, part: int) -> Iterator[None]:
        self.arrays, described, request = {}, {}, self.request
        units = {i["name"]: i["unit"] for i in request.declared["inputs"]}
        values = {name: frame_of(request, name, part) for name in request.inputs}
        main = request.first_volume()
        volume = values.get(main or "")
        self.slab = self._slab(volume)
        for name, value in values.items():
            described[name] = self._export(name, request.kind(name), value, units[name], volume)
            yield
        self.job = {
            "schema": 1,
            "method": request.method,
            "parameters": request.params,
            **{name: getattr(request, name) for name in SETTINGS},
            "inputs": described,
            "panel": remembered(request),
        }
        if request.reference is not None:
            unit = units.get(main or "", "")
            self.job["reference"] = self._export("reference", "volume", request.reference, unit, volume)
            yield

    def take(self, record: dict[str, Any], arrays: dict[str, np.ndarray], part: int) -> Iterator[None]:
        like = frame_of(self.request, self.request.first_volume() or "", part) or self.main
        like = like if alive(node_of(like)) else None
        fresh: dict[str, Any] = {}
        try:
            for output, described in record["outputs"].items():
                title = f"{self.title} {self.request.method.upper()} {output}"
                node = exchange.create(*self._whole(described, arrays.pop(output, None), like), name=title, like=like)
                fresh[output] = node
                if not self.sequence:
                    provenance.attach(node, output, record, remembered(self.request), sources(self.request))
                yield
        except BaseException:
            remove_nodes(fresh.values())
            raise
        if self.sequence:
            self._into_sequences(fresh, record, part)
        else:
            self.nodes = fresh

    def finish(self, complete: bool) -> dict[str, Any]:
        self.arrays = {}
        if self.sequence:
            source = self.request.inputs[self.sequence]
            source = source if alive(node_of(source)) else None
            for node in self.nodes.values():
                sequences.synchronise(node, source)
        return self.nodes

    def _into_sequences(self, fresh: dict[str, Any], record: dict[str, Any], part: int) -> None:
        """Move the results of one frame into the result sequences, which carry the provenance."""
        source = self.request.inputs[self.sequence or ""]
        source = source if alive(node_of(source)) else None
        for output, node in fresh.items():
            if output not in self.nodes:
                title = f"{self.title} {self.request.method.upper()} {output}"
                self.nodes[output] = sequences.new_sequence(source, title)
                remember = remembered(self.request), sources(self.request)
                provenance.attach(self.nodes[output], output, record, *remember)
            sequences.add_frame(self.nodes[output], source, part, node)

    def _export(self, name: str, kind: str, value: Any, unit: str, volume: Any) -> dict[str, Any]:
        """The description of one input; its array goes to `arrays`."""
        if node_of(value) is not None and not alive(node_of(value)):
            message = _("The input '{name}' was removed from the scene.").format(name=name)
            raise InputProblem(message, _("Choose another one."))
        try:
            exported = exchange.export(kind, value, unit=unit, reference=volume, slab=self.slab)
        except ExchangeError as error:
            raise InputProblem(str(error)) from None
        if exported.array is None:
            return exported.description
        self.arrays[f"{name}.npy"] = exported.array
        return exported.description | {"file": f"{name}.npy"}

    def _slab(self, volume: Any) -> roi.Slab | None:
        """The slices that are computed; all when None."""
        try:
            return slab(self.request, volume)
        except ExchangeError as error:
            raise InputProblem(str(error)) from None

    def _whole(self, described: Mapping[str, Any], array: Any, like: Any) -> tuple[Mapping[str, Any], Any]:
        """A result inside a ROI on the grid of the whole volume: outside it the input itself, or 0 for what isn't an
        image like the input. Without the input (removed meanwhile) the result stays as small as it was computed."""
        request = self.request
        if request.roi is None or like is None or described["kind"] not in ("volume", "segmentation"):
            return described, array
        keep = described["kind"] == "volume" and described.get("display") == "compare"
        box = request.roi if alive(request.roi) else None
        return roi.paste(described, array, like, slab=self.slab, roi=box, keep=keep)


def slab(request: Request, volume: Any) -> roi.Slab | None:
    """The part of the volumes that a run computes, None for all. ExchangeError where ROI and volume don't meet."""
    if request.roi is not None:
        return roi.slab_of(request.roi, volume)
    if request.slices is None:
        return None
    first, last = request.slices
    return roi.axial_axis(volume) if volume is not None else 0, first, last + 1


def sources(request: Request) -> dict[str, Any]:
    """The nodes that a result refers to, by input name, those that are still in the scene."""
    given = {**request.inputs, provenance.ROI: request.roi, provenance.REFERENCE: request.reference}
    nodes = {name: node_of(value) for name, value in given.items()}
    return {name: node for name, node in nodes.items() if node is not None and alive(node)}


def remove_nodes(nodes: Iterable[Any]) -> None:
    """Take nodes out of the scene with what shows and stores them."""
    for node in list(nodes):
        for one in (*attached(node), node):
            slicer.mrmlScene.RemoveNode(one)


def attached(node: Any) -> list[Any]:
    """The nodes that show and store a node."""
    shows = node.GetNumberOfDisplayNodes() if hasattr(node, "GetNumberOfDisplayNodes") else 0
    found = [node.GetNthDisplayNode(i) for i in range(shows)]
    found += [node.GetStorageNode()] if hasattr(node, "GetStorageNode") else []
    return [one for one in found if one is not None]


def node_of(value: Any) -> Any:
    """The node of an input value, None for texts and paths."""
    value = value[0] if type(value) is tuple else value
    return value if hasattr(value, "GetID") else getattr(value, "node", None)


def _moving(request: Request) -> str | None:
    """The input whose frames are computed one by one, when all frames are asked for."""
    if request.frames != "all":
        return None
    return next((n for n, v in request.inputs.items() if request.kind(n) in VOLUMES and _is_moving(v)), None)


def frame_of(request: Request, name: str, part: int) -> Any:
    """An input's value for one part of the job: a frame of its sequence when it has one."""
    value = request.inputs.get(name)
    if value is None or request.kind(name) not in VOLUMES or not _is_moving(value):
        return value
    if request.frames == "all":
        return sequences.frame(value, min(part, sequences.frames(value) - 1))
    if isinstance(request.frames, int):
        return sequences.frame(value, request.frames)
    if value.IsA("vtkMRMLVolumeNode"):
        return value
    _sequence, browser = sequences.sequence_of(value)
    return sequences.frame(value, browser.GetSelectedItemNumber() if browser is not None else 0)


def _is_moving(value: Any) -> bool:
    node = node_of(value)
    return node is not None and alive(node) and sequences.is_sequence(node)
