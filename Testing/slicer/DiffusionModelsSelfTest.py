"""Self-test of the extension as a whole, run by CTest in the application itself. The modules' own tests compute every
method; here is what goes beyond one run: scene files, cancel, and where everything lies."""

from __future__ import annotations

import shutil
import tempfile
import time
import unittest
from pathlib import Path
from typing import Any

import slicer

MODULES = ("DiffusionReconstruction", "DiffusionSegmentation", "DiffusionSynthesis")
SECONDS = 120  # more than a run or its end takes on two slow cores


def wait(condition: Any, what: str) -> None:
    """Handle events until the condition holds."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, f"After {SECONDS} s still not: {what}."
        slicer.app.processEvents()
        time.sleep(0.01)


class DiffusionModelsSelfTest(unittest.TestCase):
    """Starts with an empty scene and the first method of DiffusionReconstruction that works with bundled weights."""

    def setUp(self) -> None:
        from diffusion_panel.module import ct_with_metal

        slicer.mrmlScene.Clear(0)
        self.widget = slicer.util.getModuleWidget("DiffusionReconstruction")
        self.widget.enter()  # as the application does when the user comes to the module
        self.logic = self.widget.logic
        method = next(m for m in self.widget.chooser.methods if m["state"] == "works" and m["models"])
        self.method, self.input = method["id"], method["inputs"][0]["name"]
        self.ct = ct_with_metal()

    def test_all_files_lie_beside_the_modules(self) -> None:
        """Each module has its icon, and the shared files are found in the same installation or source tree."""
        from diffusion_panel import declarations

        for name in MODULES:
            self.assertFalse(getattr(slicer.modules, name.lower()).icon.isNull(), name)
        root = declarations.resource("methods.json").parent
        for parts in (("UI", "DiffusionPanel.ui"), ("Anatomy", "terminology.json"), ("Models",), ("Physics",)):
            self.assertTrue(declarations.resource(*parts).is_relative_to(root), parts)

    def test_a_scene_file_restores_settings_and_results(self) -> None:
        """Save as MRB, close, load: the panel shows the same, and the result tells how to compute it again."""
        from diffusion_panel import declarations

        quick = declarations.defaults(self.method, "quick")
        self.widget.take({"method": self.method, "inputs": {self.input: self.ct}, "params": quick, "seed": 3})
        result = next(iter(self.logic.run(**self.widget.request()).values()))
        shown, name, how = self._shown(), result.GetName(), self.logic.settings_of(result)
        self.assertEqual((shown["parameters"], shown["seed"]), (quick, 3))
        folder = Path(tempfile.mkdtemp())
        try:
            self.assertTrue(slicer.util.saveScene(str(folder / "scene.mrb")))
            slicer.mrmlScene.Clear(0)
            self.assertNotEqual(self._shown(), shown)
            slicer.util.loadScene(str(folder / "scene.mrb"))
            self.widget.enter()
            self.assertEqual(self._shown(), shown)
            again = self.logic.settings_of(slicer.util.getNode(name))
            self.assertEqual({k: again[k] for k in ("method", "seed", "params")},
                             {k: how[k] for k in ("method", "seed", "params")})  # fmt: skip
        finally:
            shutil.rmtree(folder)

    def test_cancel_ends_the_run_and_leaves_the_scene_alone(self) -> None:
        """Cancel in the midst of sampling: state, nodes and the engine that is ready for the next run."""
        before = slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLStorableNode")
        job = self.logic.run(self.method, {self.input: self.ct}, samples=64, wait=False)
        wait(lambda: job.progress or job.is_over, "the run computes")
        self.assertFalse(job.is_over, job.message)
        self.logic.cancel(job)
        wait(lambda: job.is_over, "the run is over")
        self.assertEqual(job.state, "cancelled", job.message)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLStorableNode"), before)
        self.assertTrue(self.logic.run(self.method, {self.input: self.ct}, preset="quick"))

    def _shown(self) -> dict[str, Any]:
        """What the panel shows, nodes by name."""
        settings = self.widget.read()
        nodes = {name: node.GetName() if node else None for name, node in settings.inputs.items()}
        return {**vars(settings), "inputs": nodes}
