"""What a run takes from the scene and what it puts there: copies of the inputs, result nodes with their provenance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
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


def remembered(request: Request, frame: int | None = None) -> dict[str, Any]:
    """What the provenance must know beyond the engine's record, as JSON values without names, paths or node ids.

    frame : number of the frame that was shown, where one of a sequence was taken."""
    nodes = [n for n, v in request.inputs.items() if node_of(v) is not None]
    texts = {n: v for n, v in request.inputs.items() if isinstance(v, str) and request.kind(n) == "text"}
    segments = {n: v[1] for n, v in request.inputs.items() if type(v) is tuple and v[1]}
    slices = list(request.slices) if request.slices else None
    return {"inputs": nodes, "texts": texts, "segments": segments, "preset": request.preset, "slices": slices,
            "frames": request.frames if frame is None else frame}  # fmt: skip


class SceneTransfer(Transfer):
    """Inputs out of the scene, results into it, beside the input that was chosen at the start."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.sequence = _moving(request)
        self.parts = max(sequences.frames(request.inputs[self.sequence]), 1) if self.sequence else 1
        self.main = next((v for n, v in request.inputs.items() if n == request.first_volume()), None)
        self.main = self.main or next(iter(request.inputs.values()), None)
        self.title = _title(request, self.main)
        self._secrets = _names(request)
        self._frame: int | None = None
        self._made: dict[str, Any] = {}
        self._ids: dict[str, str] = {}
        self._given: dict[str, Any] = {}

    def export(self, part: int) -> Iterator[None]:
        self.arrays, self._frame = {}, shown_frame(self.request)
        try:
            yield from self._export_all(part)
        except ExchangeError as error:
            raise InputProblem(str(error)) from None

    def take(self, record: dict[str, Any], arrays: dict[str, np.ndarray], part: int) -> Iterator[None]:
        main = self.request.first_volume()
        like = frame_of(self.request, main, part) if main else node_of(self.main)
        like = like if alive(node_of(like)) else None
        fresh: dict[str, Any] = {}
        try:
            for output, described in record["outputs"].items():
                whole = self._whole(described, arrays.pop(output, None), like)
                fresh[output] = exchange.create(*whole, name=self._name(output), like=like)
                if not self.sequence:
                    self._attach(fresh[output], output, record)
                yield
        except BaseException:
            remove_nodes(fresh.values())
            raise
        if self.sequence:
            self._into_sequences(fresh, record, part)
        else:
            self._made = fresh

    def finish(self) -> None:
        if self.sequence:
            for node in self._made.values():
                sequences.synchronise(node, self._source())
        self._ids = {output: node.GetID() for output, node in self._made.items()}
        self._given = {name: _by_id(value) for name, value in self.request.inputs.items()}
        self.arrays, self._made, self.main = {}, {}, None
        self.request = Request(self.request.method, {})

    def nodes(self) -> dict[str, Any]:
        found = {output: slicer.mrmlScene.GetNodeByID(i) for output, i in self._ids.items()}
        return {output: node for output, node in found.items() if node is not None}

    def inputs(self) -> dict[str, Any]:
        found = {name: given() for name, given in self._given.items()} or self.request.inputs
        return {name: value for name, value in found.items() if value is not None}

    def forget(self) -> None:
        if not self.request.inputs:  # the job is over
            self._ids, self._given = {}, {}

    def secrets(self) -> list[str]:
        return self._secrets

    def _export_all(self, part: int) -> Iterator[None]:
        """Copy input by input; then `job` is what `job.json` will hold."""
        request, described = self.request, {}
        units = {i["name"]: i["unit"] for i in request.declared["inputs"]}
        values = {name: frame_of(request, name, part) for name in request.inputs}
        main = request.first_volume() or ""
        volume = values.get(main)
        self.slab = slab(request, volume)
        for name, value in values.items():
            described[name] = self._export(name, request.kind(name), value, units[name], volume)
            yield
        self.job = {
            "schema": 1,
            "method": request.method,
            "parameters": request.params,
            **{name: getattr(request, name) for name in SETTINGS},
            "inputs": described,
            "panel": remembered(request, self._frame),
        }
        if request.reference is not None:
            unit = units.get(main, "")
            self.job["reference"] = self._export("reference", "volume", request.reference, unit, volume)
            yield

    def _export(self, name: str, kind: str, value: Any, unit: str, volume: Any) -> dict[str, Any]:
        """The description of one input; its array goes to `arrays`."""
        if node_of(value) is not None and not alive(node_of(value)):
            message = _("The input '{name}' was removed from the scene.").format(name=name)
            raise InputProblem(message, _("Choose another one."))
        exported = exchange.export(kind, value, unit=unit, reference=volume, slab=self.slab)
        if exported.array is None:
            return exported.description
        self.arrays[f"{name}.npy"] = exported.array
        return exported.description | {"file": f"{name}.npy"}

    def _whole(self, described: Mapping[str, Any], array: Any, like: Any) -> tuple[Mapping[str, Any], Any]:
        """A result inside a ROI on the grid of the whole volume: outside it the input itself, or 0 for what isn't an
        image like the input. Without the input (removed meanwhile) the result stays as small as it was computed."""
        request = self.request
        if request.roi is None or like is None or described["kind"] not in ("volume", "segmentation"):
            return described, array
        keep = described["kind"] == "volume" and described.get("display") == "compare"
        box = request.roi if alive(request.roi) else None
        return roi.paste(described, array, like, slab=self.slab, roi=box, keep=keep)

    def _into_sequences(self, fresh: dict[str, Any], record: dict[str, Any], part: int) -> None:
        """Move the results of one frame into the result sequences, which carry the provenance."""
        for output, node in fresh.items():
            if output not in self._made:
                self._made[output] = sequences.new_sequence(self._source(), self._name(output))
                self._attach(self._made[output], output, record)
            left = attached(node)
            sequences.add_frame(self._made[output], self._source(), part, node)
            for one in left:  # the node that shows the sequence has its own
                slicer.mrmlScene.RemoveNode(one)

    def _source(self) -> Any:
        """The sequence that is worked on, while it is in the scene."""
        source = self.request.inputs[self.sequence or ""]
        return source if alive(node_of(source)) else None

    def _attach(self, node: Any, output: str, record: Mapping[str, Any]) -> None:
        provenance.attach(node, output, record, remembered(self.request, self._frame), sources(self.request))

    def _name(self, output: str) -> str:
        return f"{self.title} {self.request.method.upper()} {output}"


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


def _by_id(value: Any) -> Callable[[], Any]:
    """An input without holding its node: a function that gives it, or None when it has left the scene."""
    node = node_of(value)
    if node is None:
        return lambda: value
    found, segments = node.GetID(), value[1] if type(value) is tuple else None

    def given() -> Any:
        there = slicer.mrmlScene.GetNodeByID(found) if found else None
        return (there, segments) if there is not None and segments else there

    return given


def _title(request: Request, main: Any) -> str:
    """How results name their origin: node, file, else the method."""
    if node_of(main) is not None:
        return name_of(node_of(main))
    name = next((n for n, v in request.inputs.items() if v is main), None)
    is_text = name is None or request.kind(name) == "text"
    return request.declared["name"] if is_text else Path(main).stem


def _names(request: Request) -> list[str]:
    """Names and paths that no report may hold."""
    given = [v for v in (*request.inputs.values(), request.roi, request.reference) if v is not None]
    return [str(v) if isinstance(v, (str, Path)) else name_of(node_of(v)) for v in given]


def shown_frame(request: Request) -> int | None:
    """Number of the frame that is taken where a volume shows a sequence; None otherwise."""
    if request.frames not in (None, "current"):
        return None
    moving = [v for n, v in request.inputs.items() if request.kind(n) in VOLUMES and _is_moving(v)]
    browser = sequences.sequence_of(moving[0])[1] if moving else None
    return browser.GetSelectedItemNumber() if browser is not None else (0 if moving else None)


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
    return sequences.frame(value, shown_frame(request) or 0)


def _is_moving(value: Any) -> bool:
    node = node_of(value)
    return node is not None and alive(node) and sequences.is_sequence(node)
