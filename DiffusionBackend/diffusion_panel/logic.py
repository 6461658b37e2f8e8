"""The logic of the three modules: run methods on nodes from panel, console and scripts. No GUI."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic

from diffusion_backend import predicates

from . import declarations, exchange, provenance, recovery, report, weights
from .facts import facts
from .geometry import ExchangeError, alive
from .jobs import EngineFailure, InputProblem, Job
from .queueing import Queue
from .recovery import Entry, Folders
from .sample_data import SampleTransfer
from .transfer import VOLUMES, Request, SceneTransfer, frame_of, node_of, remove_nodes, slab

__all__ = ["DiffusionLogic", "EngineFailure", "InputProblem", "Job", "Request"]


class DiffusionLogic(ScriptedLoadableModuleLogic):
    """Runs the methods in a process of its own, one job after the other; the application stays usable meanwhile."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self.queue = Queue(Folders(Path(slicer.app.temporaryPath) / "DiffusionModels"))
        self.queue.folders.clean()
        event = slicer.vtkMRMLScene.StartCloseEvent
        self._observer = slicer.mrmlScene.AddObserver(event, self._on_scene_close)
        self._at_quit = self.shutdown  # one object, so that it can be disconnected
        slicer.app.connect("aboutToQuit()", self._at_quit)

    # ---- running ----

    def run(
        self,
        method: str,
        inputs: Mapping[str, Any],
        params: Mapping[str, Any] | None = None,
        *,
        preset: str = "standard",
        seed: int = 0,
        samples: int = 1,
        device: str = "auto",
        threads: int | None = None,
        batch: int | None = None,
        models: Mapping[str, str] | None = None,
        roi: Any = None,
        slices: tuple[int, int] | None = None,
        reference: Any = None,
        frames: str | int | None = None,
        wait: bool = True,
    ) -> Any:
        """Run a method; a run that is asked for while another one works waits for its turn.

        inputs : name -> node, (segmentation node, {label: segment id}), text or path of a file.
        params : what differs from the preset ("quick", "standard", "published").
        roi : ROI node; the slices that it covers are computed, outside it the result equals the input.
        slices : (first, last), both included, counted along the volume's slices; the result has these alone.
        reference : the truth, for the output "metrics"; the method never sees it.
        frames : None or "current", "all", or a number, where an input volume belongs to a sequence.
        wait : True handles events until the end and returns the result nodes by output name; False returns the Job.
        Raises InputProblem before the start where something is missing, and (with `wait`) EngineFailure.
        """
        arguments = {"preset": preset, "seed": seed, "samples": samples, "device": device, "threads": threads}
        arguments |= {"batch": batch, "models": models, "roi": roi, "slices": slices, "reference": reference}
        job = self._add(method, inputs, params, frames=frames, **arguments)
        return self._result(job) if wait else job

    def estimate(self, method: str, inputs: Mapping[str, Any], params: Any = None, **arguments: Any) -> Job:
        """Ask for time and memory of a run, with the arguments of `run`; the job's `plan` holds the answer."""
        return self._add(method, inputs, params, plan_only=True, **arguments)

    def problems(
        self, method: str, inputs: Mapping[str, Any], params: Any = None, **arguments: Any
    ) -> list[str]:
        """What keeps a run (arguments as for `run`) from starting, one sentence each, as far as it can be told without
        looking at pixels; the engine has the same sentences."""
        try:
            request = make_request(method, inputs, params, **arguments)
            known = known_facts(request)
        except (InputProblem, ExchangeError) as error:
            return [str(error)]
        values = declarations.defaults(method, request.preset) | request.params
        return [s for check in request.declared["requires"] if (s := predicates.verdict(check, known, values))]

    def sample(self, method: str, *, wait: bool = True) -> Any:
        """Generate sample data for a method; returns its nodes by input name, and "reference", or (wait=False) the Job.

        Raises InputProblem for a method without sample data, and (with `wait`) EngineFailure."""
        try:
            if not declarations.method(method)["sample"]:
                raise ValueError(_("The method '{method}' has no sample data.").format(method=method))
        except ValueError as error:
            raise InputProblem(str(error)) from None
        job = Job(SampleTransfer(method), method=method)
        self.queue.add(job)
        return self._result(job) if wait else job

    @property
    def jobs(self) -> list[Job]:
        """All jobs since the start, in order."""
        return self.queue.jobs

    def cancel(self, job: Job | None = None) -> None:
        """Cancel a job, or all of them."""
        self.queue.cancel(job)

    def shutdown(self) -> None:
        """End all jobs and the engine, at the reload of the module and at the end of the application."""
        self.queue.shutdown()
        if self._observer is not None:
            slicer.mrmlScene.RemoveObserver(self._observer)
            slicer.app.disconnect("aboutToQuit()", self._at_quit)
            self._observer = None

    def acknowledge(self, model_id: str) -> None:
        """Say that you have read and accept the licence of a model; once for its weights. Raises InputProblem."""
        model = weights.find(model_id)
        if model is None or model.problem:
            message = model.problem if model else _("There is no model '{model}'.").format(model=model_id)
            raise InputProblem(message)
        try:
            weights.acknowledge(model.card)
        except OSError as error:
            message = _("The folder '{folder}' can't be written to ({reason}).")
            told = message.format(folder=weights.user_folder(), reason=error.strerror)
            raise InputProblem(told, _("Choose another folder for your models.")) from None

    # ---- results of an earlier application ----

    def recoverable(self) -> list[Entry]:
        """Complete results that an application which ended too early has left, the newest first."""
        return self.queue.folders.recoverable()

    def recover(self, entry: Entry) -> dict[str, Any]:
        """Load such a result; the folder is removed afterwards. Raises EngineFailure."""
        nodes: dict[str, Any] = {}
        try:
            record, arrays = recovery.read_result(entry.folder)
            asked = json.loads((entry.folder / recovery.JOB).read_text(encoding="utf-8"))["panel"]
            for output, described in record["outputs"].items():
                name = _("Recovered {method} {output}").format(method=entry.method.upper(), output=output)
                nodes[output] = exchange.create(described, arrays.get(output), name=name)
                provenance.attach(nodes[output], output, record, asked, {})
        except (OSError, ValueError, KeyError, ExchangeError) as error:
            remove_nodes(nodes.values())
            message = _("The result can't be read: {reason}.").format(reason=error)
            raise EngineFailure(message, _("Discard it, and run the method again."), "disk") from None
        self.discard(entry)
        return nodes

    def discard(self, entry: Entry) -> None:
        """Remove such a result for good."""
        self.queue.folders.remove(entry.folder)

    # ---- texts and settings ----

    def settings_of(self, node: Any) -> dict[str, Any]:
        """Keyword arguments for `run` that compute a result node again. Raises InputProblem for another node."""
        try:
            return provenance.settings_of(node)
        except ValueError as error:
            raise InputProblem(str(error)) from None

    def as_python(self, request: Mapping[str, Any]) -> str:
        """A run (keyword arguments of `run`) as lines for the Python console."""
        return report.as_python(self.moduleName, request)

    def as_command_line(self, request: Mapping[str, Any]) -> str:
        """A run (keyword arguments of `run`) as a command for a terminal."""
        return report.as_command_line(request)

    def report(self, job: Job) -> str:
        """What developers need to know of a job, without names, paths or UIDs."""
        return report.report(job, job.transfer.secrets())

    # ---- inside ----

    def _add(self, method: str, inputs: Mapping[str, Any], params: Any, **arguments: Any) -> Job:
        request = make_request(method, inputs, params, **arguments)
        try:
            job = Job(SceneTransfer(request), method=method, plan_only=request.plan_only)
        except ExchangeError as error:
            raise InputProblem(str(error)) from None
        self.queue.add(job)
        return job

    def _result(self, job: Job) -> dict[str, Any]:
        """Handle events until the job is over; its nodes, or its failure."""
        self.queue.wait(job)
        if job.state != "done":
            raise job.failure()
        return job.nodes

    def _on_scene_close(self, caller: Any, event: str) -> None:
        self.cancel()
        for job in self.jobs:
            job.transfer.forget()


def make_request(method: str, inputs: Mapping[str, Any], params: Any = None, **arguments: Any) -> Request:
    """The request with what can be refused at once refused. Raises InputProblem."""
    try:
        declared = declarations.method(method)
        declarations.defaults(method, arguments.get("preset", "standard"))
    except ValueError as error:
        raise InputProblem(str(error)) from None
    if declared["state"] == "planned":
        raise InputProblem(_("The method '{method}' is planned and can't be run yet.").format(method=method))
    given = {name: value for name, value in inputs.items() if value is not None}
    arguments["models"] = dict(arguments.get("models") or {})
    request = Request(method, given, plain(params or {}), **arguments)
    _check_inputs(request)
    if not request.plan_only:
        _check_licences(request)
    if request.slices is not None:
        first, last = request.slices
        if not 0 <= first <= last:
            message = _("Slices {first} to {last} are asked for, but they count from 0 upwards.")
            raise InputProblem(message.format(first=first, last=last))
    if request.roi is not None and request.first_volume() is None:
        raise InputProblem(_("A ROI needs an input volume. Choose one, or no ROI."))
    return request


def known_facts(request: Request) -> dict[str, Any]:
    """Facts of every given input, as the engine will see it. Raises ExchangeError."""
    units = {i["name"]: i["unit"] for i in request.declared["inputs"]}
    values = {name: frame_of(request, name, 0) for name in request.inputs}
    volume = values.get(request.first_volume() or "")
    part = slab(request, volume)
    return {
        name: facts(request.kind(name), value, None if request.kind(name) in VOLUMES else volume,
                    unit=units[name], slab=part)
        for name, value in values.items()
    }  # fmt: skip


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as JSON values: numpy's numbers become Python's."""
    return {str(k): v.item() if isinstance(v, np.generic) else v for k, v in values.items()}


def _check_licences(request: Request) -> None:
    """Raises InputProblem for a model in use whose licence asks and wasn't acknowledged."""
    values = declarations.defaults(request.method, request.preset) | request.params
    used = declarations.model_slots(request.method, values)
    for model in weights.models() if used else []:
        if model.id in [request.models.get(s["name"], s["default"]) for s in used] and not model.problem:
            message, remedy = weights.licence_problem(model.card)
            if message:
                raise InputProblem(message, remedy)


def _check_inputs(request: Request) -> None:
    names = [i["name"] for i in request.declared["inputs"]]
    for name, value in request.inputs.items():
        if name not in names:
            message = _("The method '{method}' has no input '{name}'. It has: {names}.")
            raise InputProblem(message.format(method=request.method, name=name, names=", ".join(names)))
        if node_of(value) is not None and not alive(node_of(value)):
            message = _("The input '{name}' was removed from the scene.").format(name=name)
            raise InputProblem(message, _("Choose another one."))
    for declared in request.declared["inputs"]:
        if declared["required"] and declared["name"] not in request.inputs:
            message = _("The method '{method}' needs the input '{name}' ({kind}).")
            told = message.format(method=request.method, name=declared["name"], kind=declared["kind"])
            raise InputProblem(told, _("Choose one."))
