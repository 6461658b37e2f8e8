"""Where and how a run is computed: device, threads, samples, seed, region, reference."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _

from .inputs.base import narrow
from .state import Settings

LARGEST_SEED = 2**31 - 1


class RunSettings:
    """The form at the top of the section "Run". ui : the panel's widgets. changed : called after every change.
    volume : gives the input volume, None without one."""

    def __init__(self, ui: Any, changed: Callable[[], None], volume: Callable[[], Any]) -> None:
        self.ui, self._changed, self._volume, self._setting = ui, changed, volume, False
        self.devices = {
            "auto": _("Automatic"),
            "cpu": _("Processor (CPU)"),
            "cuda": _("NVIDIA card (CUDA)"),
            "mps": _("Apple GPU (MPS)"),
        }
        for text in self.devices.values():
            ui.deviceCombo.addItem(text)
        ui.deviceCombo.connect("currentIndexChanged(int)", self._on_value)
        for spin in (ui.threadsSpin, ui.samplesSpin, ui.seedSpin):
            spin.connect("valueChanged(int)", self._on_value)
        for selector in (ui.roiSelector, ui.referenceSelector):
            narrow(selector)
            selector.connect("currentNodeChanged(vtkMRMLNode*)", self._on_node)
        ui.roiSelector.connect("nodeAddedByUser(vtkMRMLNode*)", self._on_roi_added)
        ui.newSeedButton.connect("clicked()", self.draw_seed)

    def read(self, settings: Settings) -> None:
        """Write what is shown into `settings`."""
        settings.device = list(self.devices)[self.ui.deviceCombo.currentIndex]
        settings.threads, settings.samples = self.ui.threadsSpin.value, self.ui.samplesSpin.value
        settings.seed = self.ui.seedSpin.value
        settings.roi, settings.reference = self.ui.roiSelector.currentNode(), self.ui.referenceSelector.currentNode()

    def show(self, settings: Settings) -> None:
        """Show `settings`."""
        self._setting = True
        known = list(self.devices)
        self.ui.deviceCombo.setCurrentIndex(known.index(settings.device) if settings.device in known else 0)
        self.ui.threadsSpin.setValue(settings.threads)
        self.ui.samplesSpin.setValue(settings.samples)
        self.ui.seedSpin.setValue(settings.seed)
        self.ui.roiSelector.setCurrentNode(settings.roi)
        self.ui.referenceSelector.setCurrentNode(settings.reference)
        self._setting = False

    def draw_seed(self) -> None:
        """Another seed, at random."""
        self.ui.seedSpin.setValue(random.randint(0, LARGEST_SEED))

    def _on_roi_added(self, roi: Any) -> None:
        """A new region begins as the box around the input."""
        volume = self._volume()
        if volume is not None:
            bounds = [0.0] * 6
            volume.GetRASBounds(bounds)
            lows, highs = bounds[::2], bounds[1::2]
            roi.SetCenterWorld([(low + high) / 2 for low, high in zip(lows, highs)])
            roi.SetSizeWorld([high - low for low, high in zip(lows, highs)])

    def _on_value(self, value: int) -> None:
        if not self._setting:
            self._changed()

    def _on_node(self, node: Any) -> None:
        if not self._setting:
            self._changed()
