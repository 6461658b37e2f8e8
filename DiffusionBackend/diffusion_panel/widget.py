"""The panel of the three modules: its parts, the parameter node behind them, and the life of the scene."""

from __future__ import annotations

import sys
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleWidget
from slicer.util import VTKObservationMixin

from . import declarations, state, views
from .estimate_view import EstimateView
from .form import ParameterForm
from .inputs import InputForm
from .installation import Installation
from .installation_view import InstallationView
from .job_view import JobView
from .method_chooser import RUNNABLE, MethodChooser, default_method
from .model_slots import ModelForm
from .module import forget_packages, too_old
from .recover_view import RecoverView
from .results import ResultView
from .run_actions import RunActions
from .run_settings import RunSettings
from .sample_data import REFERENCE
from .weights_view import WeightsView

CHECK_MS = 200  # the inputs are checked when nothing has changed for so long


class DiffusionWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Subclasses say `module` (as in the declarations). The logic class is that of the module's file."""

    module = ""

    def __init__(self, parent: Any = None) -> None:
        self.logic: Any = None
        self.ui: Any = None
        self.node: Any = None  # the parameter node, None while the scene closes and before the first entry
        self.parts: list[Any] = []
        self._showing = self._storing = False
        self._check_timer: Any = None
        self.installation: Any = None
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)

    def setup(self) -> None:
        """Load the shell, fill it from the declarations, follow the scene."""
        super().setup()
        self.panel = slicer.util.loadUI(str(declarations.resource("UI", "DiffusionPanel.ui")))
        self.layout.addWidget(self.panel)
        self.ui = slicer.util.childWidgetVariables(self.panel)
        self.panel.setMRMLScene(slicer.mrmlScene)
        self.layout.addStretch(1)
        self.logic = getattr(sys.modules[type(self).__module__], f"{self.moduleName}Logic")()
        self.installation = Installation()
        self._check_timer = qt.QTimer()
        self._check_timer.setSingleShot(True)
        self._check_timer.setInterval(CHECK_MS)
        self._check_timer.connect("timeout()", self.check)
        self._build()
        views.register()
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self._on_start_close)
        self.addObserver(scene, scene.EndCloseEvent, self._on_scene_ready)
        self.addObserver(scene, scene.EndImportEvent, self._on_scene_ready)
        self.addObserver(scene, scene.NodeRemovedEvent, self._on_node_removed)
        self.attach()

    def _build(self) -> None:
        ui, methods = self.ui, declarations.of_module(self.module)
        self.engine = InstallationView(ui.engineWidget, self.installation, self._on_engine)
        self.chooser = MethodChooser(ui, methods, self._on_method)
        self.models = ModelForm(ui.modelsWidget, self.on_changed)
        self.inputs = InputForm(ui.inputsWidget, self.on_changed)
        self.form = ParameterForm(
            ui.basicWidget, ui.advancedWidget, ui.advancedSection, ui.presetCombo, ui.resetButton, self.on_changed
        )
        self.settings = RunSettings(ui, self.on_changed, self.inputs.volume)
        self.jobs = JobView(ui, self.logic, self._on_job_finished)
        self.estimate = EstimateView(ui, self.logic, self.request_if_possible, lambda: self.jobs.active() is None)
        self.actions = RunActions(ui, self)
        self.results = ResultView(ui, methods, self.rerun)
        self.weights = WeightsView(ui.weightsWidget, self._on_weights)
        ui.sampleButton.connect("clicked()", self.load_sample)
        self.recovery = RecoverView(ui, self.logic, self.results.refresh)

    # ---- life of module and scene ----

    def enter(self) -> None:
        """The user comes to this module."""
        if self.ui is not None:
            self.attach()
            self.engine.refresh()
            self.weights.refresh()
            self.models.refresh()
            self.inputs.refresh()
            self.recovery.refresh()
            self.results.refresh()
            self.check()

    def exit(self) -> None:
        """The user goes to another module: jobs go on."""

    def cleanup(self) -> None:
        """The module is unloaded or reloaded, perhaps after a setup that failed."""
        self.removeObservers()
        if self._check_timer is not None:
            self._check_timer.stop()
        self.node = None
        for name in ("estimate", "jobs", "inputs", "engine", "weights"):
            part = getattr(self, name, None)
            if part is not None:
                part.release()
        if self.ui is not None:
            self._showing = True
            self.panel.setMRMLScene(None)
        if self.installation is not None:
            self.installation.release()
        if self.logic is not None:
            self.logic.shutdown()

    def onReload(self) -> None:
        """Reload the shared packages together with the module's file."""
        forget_packages()
        super().onReload()

    def attach(self) -> None:
        """Show what the parameter node of the scene says; a fresh one gets the settings of a fresh panel."""
        node = self.logic.getParameterNode()
        if node is not self.node:
            self._detach()
            self.node = node
            self.addObserver(node, "ModifiedEvent", self._on_node_modified)
        self.restore()

    def _detach(self) -> None:
        if self.node is not None:
            self.removeObserver(self.node, "ModifiedEvent", self._on_node_modified)
            self.node = None

    def _on_start_close(self, caller: Any, event: Any) -> None:
        self._detach()
        self.jobs.cancel_all()
        self.estimate.release()
        self._showing = True
        self.inputs.clear()
        self.settings.show(state.Settings())
        self._showing = False

    def _on_scene_ready(self, caller: Any, event: Any) -> None:
        """A scene was closed or loaded; a panel that isn't shown waits for `enter`."""
        if self.parent.isEntered:
            self.attach()
            self.results.refresh()

    def _on_node_removed(self, caller: Any, event: Any) -> None:
        if self.node is not None and not slicer.mrmlScene.IsClosing():
            self._check_timer.start()

    def _on_node_modified(self, caller: Any, event: Any) -> None:
        if not self._storing and not slicer.mrmlScene.IsImporting():
            self.restore()

    # ---- settings ----

    def choose(self, method_id: str) -> None:
        """Choose a method as a click does. ValueError where this module doesn't have it."""
        if not self.chooser.choose(method_id):
            raise ValueError(_("The module has no method '{method}'.").format(method=method_id))
        self._on_method()

    def read(self) -> state.Settings:
        """What the panel shows."""
        settings = state.Settings(method=self.chooser.current()["id"], preset=self.form.preset())
        self.settings.read(settings)
        settings.inputs, settings.extras = self.inputs.nodes(), self.inputs.extras()
        settings.parameters, settings.models = self.form.values(), self.models.values()
        return settings

    def restore(self) -> None:
        """Show what the parameter node says."""
        stored = state.load(self.node)
        method_id = stored.method
        if not self.chooser.choose(method_id):
            method_id = default_method(self.chooser.methods)
            self.chooser.choose(method_id)
        self._show(self.chooser.current())

    def _show(self, method: dict[str, Any], inputs: dict[str, Any] | None = None) -> None:
        """Build the parts of `method` and fill them from the parameter node; `inputs` are nodes to begin with."""
        stored = state.load(self.node, method)
        known = state.knows(self.node, method["id"])
        self._showing = True
        try:
            self.settings.show(stored)
            if set(self.form.fields) != {p["name"] for p in method["parameters"]} or self.form.method is not method:
                self.models.show(method)
                self.inputs.show(method)
                self.form.show(method)
            self.models.set_values(stored.models)
            self.inputs.restore(stored.inputs, stored.extras)
            self.inputs.fill(inputs or {}, needed_alone=known)
            if not known:
                self.inputs.suggest(shown_volume())
            self.form.set_values(stored.parameters)
            self.form.name_preset(stored.preset)
        finally:
            self._showing = False
        self._chain_focus()
        self.on_changed()

    def _on_method(self) -> None:
        """Another method was chosen: inputs of the same name and kind are taken along."""
        method = self.chooser.current()
        given = {(d["name"], d["kind"]): field.node() for d, field in self.inputs.declared()}
        self._show(method, {i["name"]: given.get((i["name"], i["kind"])) for i in method["inputs"]})

    def on_changed(self) -> None:
        """Something in the panel has changed: store it, check it a little later."""
        if self._showing or self.node is None or self.chooser.current() is None:
            return
        self._storing = True
        try:
            state.store(self.node, self.read())
        finally:
            self._storing = False
        self.jobs.error.say("")
        self.models.follow(self.form.values())
        self.estimate.forget()
        self._check_timer.start()

    def _chain_focus(self) -> None:
        """Tab goes through the generated widgets where they are, not after everything else."""
        ui = self.ui
        order = [ui.methodSection, ui.searchLine, ui.methodList, ui.bibtexButton, *self.models.combos.values()]
        order += [ui.inputsSection, *self.inputs.focus_widgets(), ui.parametersSection, ui.presetCombo, ui.resetButton]
        order += [*self.form.widgets("basic"), ui.advancedSection, *self.form.widgets("advanced")]
        order += [ui.runSection, ui.deviceCombo]
        for before, after in zip(order, order[1:]):
            qt.QWidget.setTabOrder(before, after)

    # ---- running ----

    def request(self, **changes: Any) -> dict[str, Any]:
        """The keyword arguments for `logic.run` that the panel stands for."""
        s = self.read()
        preset = s.preset if s.preset in self.chooser.current()["presets"] else "standard"
        request = {"method": s.method, "inputs": self.inputs.values(), "params": s.parameters, "preset": preset}
        request |= {"seed": s.seed, "samples": s.samples, "device": s.device, "threads": s.threads or None}
        request |= {"models": s.models, "roi": s.roi, "reference": s.reference}
        if self.inputs.all_frames():
            request["frames"] = "all"
        return request | changes

    def problems(self) -> list[str]:
        """What keeps the run from starting, one sentence each."""
        method = self.chooser.current()
        if method is None or method["state"] not in RUNNABLE:
            return [_("This method is planned and can't be run yet.")]
        unusable = too_old() or self.engine.problem()
        if unusable:
            return [unusable]
        request = self.request()
        return self.models.problems(request["params"]) + self.logic.problems(**request)

    def request_if_possible(self) -> dict[str, Any] | None:
        """The request, or None while something keeps it from starting."""
        return self.request() if self.actions.ready else None

    def check(self) -> None:
        """Evaluate the checks and show what may be done."""
        if self.node is not None and self.chooser.current() is not None:
            self.actions.refresh(self.problems())
            self.estimate.later()

    def apply(self, **changes: Any) -> Any:
        """Start the run, or put it into the queue; returns the job, None where it can't be started."""
        self.jobs.error.say("")
        try:
            job = self.logic.run(**self.request(**changes), wait=False)
        except RuntimeError as error:
            self.jobs.error.say(str(error))
            return None
        self.actions.refresh_buttons()
        return job

    def load_sample(self) -> Any:
        """Generate sample data for the chosen method and take them as its inputs; returns the job."""
        return self.logic.sample(self.chooser.current()["id"], wait=False)

    def _take_sample(self, job: Any) -> None:
        """Choose what a sample job has made, unless another method was chosen meanwhile."""
        if job.state != "done" or self.chooser.current()["id"] != job.method:
            return
        nodes = job.nodes
        reference = nodes.pop(REFERENCE, None)
        self.take({"method": job.method, "inputs": nodes, "reference": reference})
        self.chooser.show_expected()
        if reference is not None:
            slicer.util.setSliceViewerLayers(background=next(iter(nodes.values()), reference), fit=True)

    def rerun(self, node: Any) -> Any:
        """Take all settings of a result node, and run again."""
        try:
            settings = self.logic.settings_of(node)
            self.take(settings)
        except (RuntimeError, ValueError) as error:
            self.jobs.error.say(str(error))
            return None
        extra = {k: settings[k] for k in ("slices", "batch", "frames") if settings.get(k) is not None}
        return self.apply(**extra)

    def take(self, request: dict[str, Any]) -> None:
        """Show the settings of keyword arguments for `logic.run`."""
        self.choose(request["method"])
        self._showing = True
        try:
            self.inputs.take(request.get("inputs", {}))
            self.form.set_values(request.get("params") or {})
            self.models.set_values(request.get("models") or {})
            self.settings.show(state.Settings(**{
                "seed": request.get("seed", 0), "samples": request.get("samples", 1),
                "device": request.get("device", "auto"), "threads": request.get("threads") or 0,
                "roi": request.get("roi"), "reference": request.get("reference"),
            }))
        finally:
            self._showing = False
        self.on_changed()

    def _on_weights(self) -> None:
        """There are other models, or they lie elsewhere."""
        self.models.refresh()
        self._on_engine()

    def _on_engine(self) -> None:
        """What the engine's process was started with has changed: it starts anew, unless it works."""
        if self.jobs.active() is None:
            self.logic.queue.worker.kill()
        self.check()

    def _on_job_finished(self, job: Any) -> None:
        self.actions.refresh_buttons()
        self.estimate.resume()
        if job.kind == "installation":
            self.engine.tell(" ".join(part for part in (job.message, job.remedy) if part))
        if job.transfer.sample:
            self._take_sample(job)
        elif job.state == "done":
            self.results.refresh()
            views.present(declarations.method(job.method), job.inputs, job.nodes)


def shown_volume() -> Any:
    """The volume that the slice views show, or None."""
    selection = slicer.app.applicationLogic().GetSelectionNode()
    return slicer.mrmlScene.GetNodeByID(selection.GetActiveVolumeID() or "") if selection else None
