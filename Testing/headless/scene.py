"""The scene with the application logic, the logics of the loadable modules and the default nodes."""

from __future__ import annotations

import slicer_core as mrml
import vtk

LOGICS = {
    "Colors": "vtkMRMLColorLogic",
    "Volumes": "vtkSlicerVolumesLogic",
    "Tables": "vtkSlicerTablesLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "Sequences": "vtkSlicerSequencesLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "Plots": "vtkSlicerPlotsLogic",
    "VolumeRendering": "vtkSlicerVolumeRenderingLogic",
    "Markups": "vtkSlicerMarkupsLogic",
    "Models": "vtkSlicerModelsLogic",
    "Transforms": "vtkSlicerTransformLogic",
    "Texts": "vtkSlicerTextsLogic",
    "Units": "vtkSlicerUnitsLogic",
    "CropVolume": "vtkSlicerCropVolumeLogic",
    "Cameras": "vtkSlicerCamerasModuleLogic",
}


class Scene:
    """`scene`, `app_logic` and `logics` (module name -> logic)."""

    def __init__(self, cache: str) -> None:
        self.scene = mrml.vtkMRMLScene()
        self._remote = mrml.vtkMRMLRemoteIOLogic()  # without it a bundle has no folder to be unpacked into
        self._remote.GetCacheManager().SetRemoteCacheDirectory(cache)
        self._remote.SetMRMLScene(self.scene)
        self._remote.AddDataIOToScene()
        self.app_logic = mrml.vtkSlicerApplicationLogic()
        self.app_logic.SetMRMLScene(self.scene)
        self.app_logic.SetTemporaryPath(cache)
        self.app_logic.SetSliceLogics(vtk.vtkCollection())
        self.app_logic.SetViewLogics(vtk.vtkCollection())
        colors = self.app_logic.GetColorLogic()
        colors.SetMRMLScene(self.scene)
        colors.AddDefaultColorNodes()
        self.logics = {name: self._logic(name, kind) for name, kind in LOGICS.items()}
        # The module's own colour logic wants colour files that the wheel lacks: it only gives legends.
        self._colors = self.logics["Colors"]
        self.scene.RegisterNodeClass(mrml.vtkMRMLColorLegendDisplayNode())
        self.logics["Colors"] = mrml.vtkSlicerColorLogic()
        mrml.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(self.scene, True)
        crosshair = mrml.vtkMRMLCrosshairNode()
        crosshair.SetCrosshairName("default")
        self.scene.AddNode(crosshair)

    def _logic(self, name: str, kind: str):
        """A module's logic; connecting it to the scene registers the module's node classes."""
        logic = getattr(mrml, kind)()
        logic.SetMRMLApplicationLogic(self.app_logic)
        logic.SetMRMLScene(self.scene)
        self.app_logic.SetModuleLogic(name, logic)
        return logic
