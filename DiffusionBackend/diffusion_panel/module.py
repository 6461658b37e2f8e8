"""What the three modules have in common as modules: their metadata and their self-test."""

from __future__ import annotations

import html
import sys
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleTest

from . import declarations, sample_data
from .method_chooser import MARKS, matches

OLDEST = (5, 10)  # of Slicer: Python 3.12 and numpy 2
PACKAGES = ("diffusion_panel", "diffusion_backend")


class DiffusionModule(ScriptedLoadableModule):
    """Metadata of a module. Subclasses say `module` (as in the declarations), `title`, `category` and `purpose`."""

    module = ""
    title = ""
    category = ""
    purpose = ""

    def __init__(self, parent: Any) -> None:
        super().__init__(parent)
        parent.title = self.title
        parent.categories = [self.category]
        parent.dependencies = []
        parent.contributors = ["DiffusionModels developers"]
        parent.helpText = help_text(self.module, self.purpose)
        parent.acknowledgementText = acknowledgement(self.module)
        slicer.app.connect("startupCompleted()", self._register_samples)

    def _register_samples(self) -> None:
        sample_data.register(self.module, lambda method: slicer.util.getModuleLogic(self.moduleName).sample(method))


class DiffusionTest(ScriptedLoadableModuleTest):
    """Self-test of a module: its panel shows every declared method, and those that work compute."""

    def runTest(self) -> None:
        """Every test method; older versions of the application don't find them by themselves."""
        for name in [n for n in dir(self) if n.startswith("test_")]:
            self.setUp()
            getattr(self, name)()

    def setUp(self) -> None:
        """A scene without data."""
        slicer.mrmlScene.Clear(0)

    def test_every_method_is_shown(self) -> None:
        """Each method of the module can be chosen and has its inputs and parameters in the panel."""
        widget = slicer.util.getModuleWidget(type(self).__name__.removesuffix("Test"))
        for method in declarations.of_module(widget.module):
            widget.choose(method["id"])
            assert set(widget.inputs.fields) == {i["name"] for i in method["inputs"]}, method["id"]
            assert widget.form.values() == declarations.defaults(method["id"]), method["id"]

    def test_search_finds_every_method_by_its_name(self) -> None:
        """No word of a method's name hides it."""
        widget = slicer.util.getModuleWidget(type(self).__name__.removesuffix("Test"))
        for method in declarations.of_module(widget.module):
            assert matches(method, method["name"])


    def test_methods_that_work_compute(self) -> None:
        """Each method that works and needs one CT gives a changed CT on the same grid, within seconds."""
        widget = slicer.util.getModuleWidget(type(self).__name__.removesuffix("Test"))
        for method in declarations.of_module(widget.module):
            needed = [i for i in method["inputs"] if i["required"]]
            if method["state"] == "works" and [(i["kind"], i["unit"]) for i in needed] == [("volume", "HU")]:
                ct = ct_with_metal()
                main = method["outputs"][0]["name"]
                node = widget.logic.run(method["id"], {needed[0]["name"]: ct}, preset="quick")[main]
                before, after = (slicer.util.arrayFromVolume(n) for n in (ct, node))
                assert after.shape == before.shape and np.isfinite(after).all(), method["id"]
                assert np.abs(after - before.astype(float)).max() > 1, method["id"]


def ct_with_metal(size: int = 64) -> Any:
    """A volume node with one axial slice in HU: an oval of water with two pieces of metal and the streaks between."""
    j, i = (np.mgrid[:size, :size] - (size - 1) / 2) / size
    hu = np.where((j / 0.4) ** 2 + (i / 0.45) ** 2 < 1, 30.0, -1000.0)
    hu[(np.abs(j) < 0.03) & (np.abs(i) < 0.25)] = -300
    hu[(np.abs(j) < 0.05) & (np.abs(np.abs(i) - 0.25) < 0.04)] = 6000
    place = np.diag([-256 / size, -256 / size, 3.0, 1.0])
    return slicer.util.addVolumeFromArray(hu[None].astype(np.int16), ijkToRAS=place, name="Generated CT")


def help_text(module: str, purpose: str) -> str:
    """HTML: what the module is for, and its methods with their state."""
    methods = [(m, declarations.spoken(m["state"])) for m in declarations.of_module(module)]
    lines = [f"<li>{MARKS[m['state']]} {html.escape(m['name'])}: {html.escape(m['task'])} ({state})</li>"
             for m, state in methods]
    steps = _("Choose a method, give its inputs, press Apply. Results are new nodes; nothing is overwritten.")
    told = [html.escape(purpose), steps, _("Not for clinical use."), f"DiffusionModels {declarations.version()}"]
    paragraphs = [f"<p>{text}</p>" for text in told]
    return "".join([*paragraphs[:2], f"<ul>{''.join(lines)}</ul>", *paragraphs[2:]])


def too_old() -> str:
    """Why this application can't run the modules, or ""."""
    found = (slicer.app.majorVersion, slicer.app.minorVersion)
    if found >= OLDEST:
        return ""
    message = _("This is Slicer {found}, but DiffusionModels {version} needs Slicer {needed} or later. Update Slicer.")
    numbers = (".".join(map(str, v)) for v in (found, OLDEST))
    return message.format(found=next(numbers), needed=next(numbers), version=declarations.version())


def acknowledgement(module: str) -> str:
    """The publications of the methods, as HTML."""
    cited = [m["citation"] for m in declarations.of_module(module) if m["citation"]]
    lines = [f"<li>{html.escape(c['authors'].split(' and ')[0])} et al.: {html.escape(c['title'])}, {c['year']}</li>"
             for c in cited]
    thanks = _("The methods were published by these authors; the panel shows the full citation of each.")
    return f"{thanks}<ul>{''.join(lines)}</ul>"


def forget_packages() -> None:
    """Drop the shared packages from the interpreter, so that a reloaded module imports them anew."""
    for name in [n for n in sys.modules if n.split(".")[0] in PACKAGES]:
        del sys.modules[name]
