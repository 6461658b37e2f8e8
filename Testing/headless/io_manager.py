"""Readers and writers behind `slicer.util.loadVolume`, `loadSegmentation`, `loadSequence`, `loadScene`, `save…`."""

from __future__ import annotations

import os
from typing import Any

import slicer_core as mrml
import vtk

# Extension -> file type; longer extensions first, because .seg.nrrd ends like .nrrd.
FILE_TYPES = {".seg.nrrd": "SegmentationFile", ".seq.nrrd": "SequenceFile", ".nii.gz": "VolumeFile",
              ".nrrd": "VolumeFile", ".nhdr": "VolumeFile", ".nii": "VolumeFile", ".mha": "VolumeFile",
              ".mrb": "SceneFile", ".mrml": "SceneFile", ".tsv": "TableFile", ".csv": "TableFile"}
_VOLUME_OPTIONS = {"labelmap": 1, "center": 2, "singleFile": 4, "autoWindowLevel": 8, "discardOrientation": 16}


class IOManager:
    """What `slicer.app.coreIOManager()` answers; problems are added to the messages, never raised."""

    def __init__(self, scene) -> None:
        self._scene, self._app_logic, self._logics = scene.scene, scene.app_logic, scene.logics
        self._readers = {"VolumeFile": self._volume, "SegmentationFile": self._segmentation,
                         "SequenceFile": self._sequence, "TableFile": self._table, "SceneFile": self._read_scene}

    def fileType(self, path: str) -> str:
        """The type of a file by its extension; "NoFile" for one that nobody reads."""
        name = os.path.basename(path).lower()
        return next((kind for extension, kind in FILE_TYPES.items() if name.endswith(extension)), "NoFile")

    def fileWriterFileType(self, node) -> str:
        """The name of a node's file type; all storable nodes are written by their storage node."""
        return node.GetNodeTagName() + "File"

    def loadNodes(self, file_type: str, properties: dict[str, Any], loaded=None, messages=None) -> bool:
        """Read `properties["fileName"]`; nodes are added to the collection `loaded`."""
        messages = messages or mrml.vtkMRMLMessageCollection()
        path = os.path.abspath(properties["fileName"])
        reader = self._readers.get(file_type)
        if reader is None or not os.path.exists(path):
            reason = "no such file" if reader else f"nothing reads files of type '{file_type}'"
            messages.AddMessage(vtk.vtkCommand.ErrorEvent, f"'{path}' was not read: {reason}.")
            return False
        result = reader(path, properties, messages)
        if loaded is not None and isinstance(result, vtk.vtkObject):
            loaded.AddItem(result)
        return bool(result)

    def saveNodes(self, file_type: str, properties: dict[str, Any], messages=None) -> bool:
        """Write one node, or the scene, to `properties["fileName"]`."""
        messages = messages or mrml.vtkMRMLMessageCollection()
        path = os.path.abspath(properties["fileName"])
        if file_type == "SceneFile":
            return self._write_scene(path, messages)
        node = self._scene.GetNodeByID(properties["nodeID"])
        storage = node.CreateDefaultStorageNode()
        storage.UnRegister(None)
        if node.GetStorageNode() and node.GetStorageNode().IsA(storage.GetClassName()):
            storage = node.GetStorageNode()
        else:
            self._scene.AddNode(storage)
            node.SetAndObserveStorageNodeID(storage.GetID())
        storage.SetFileName(path)
        storage.SetUseCompression(bool(properties.get("useCompression", storage.GetUseCompression())))
        done = bool(storage.WriteData(node))
        messages.AddMessages(storage.GetUserMessages())
        return done

    # -- readers ----------------------------------------------------------------------------------------------------
    def _volume(self, path: str, properties: dict, messages):
        options = sum(bit for name, bit in _VOLUME_OPTIONS.items() if properties.get(name))
        if "autoWindowLevel" not in properties:
            options += _VOLUME_OPTIONS["autoWindowLevel"]
        name = properties.get("name") or _stem(path)
        node = self._logics["Volumes"].AddArchetypeVolume(path, name, options, None, messages)
        if node is not None and properties.get("show", True):
            selection = self._app_logic.GetSelectionNode()
            if node.IsA("vtkMRMLLabelMapVolumeNode"):
                selection.SetActiveLabelVolumeID(node.GetID())
            else:
                selection.SetActiveVolumeID(node.GetID())
            self._app_logic.PropagateVolumeSelection(0)
        return node

    def _segmentation(self, path: str, properties: dict, messages):
        name = properties.get("name") or _stem(path)
        return self._logics["Segmentations"].LoadSegmentationFromFile(path, True, name, None, messages)

    def _sequence(self, path: str, properties: dict, messages):
        node = self._logics["Sequences"].AddSequence(path, messages)
        if node is not None:
            if properties.get("name"):
                node.SetName(properties["name"])
            browser = self._scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", node.GetName() + " browser")
            browser.AddSynchronizedSequenceNode(node)
            self._logics["Sequences"].UpdateProxyNodesFromSequences(browser)
        return node

    def _table(self, path: str, properties: dict, messages):
        return self._logics["Tables"].AddTable(path, properties.get("name") or _stem(path), True, "", messages)

    def _read_scene(self, path: str, properties: dict, messages) -> bool:
        clear = bool(properties.get("clear", False))
        if path.lower().endswith(".mrb"):
            return self._scene.ReadFromMRB(path, clear, messages)
        self._scene.SetURL(path)
        return bool(self._scene.Connect(messages) if clear else self._scene.Import(messages))

    def _write_scene(self, path: str, messages) -> bool:
        if path.lower().endswith(".mrb"):
            return self._scene.WriteToMRB(path, None, messages)
        if path.lower().endswith(".mrml"):
            return bool(self._scene.Commit(path, messages))
        os.makedirs(path, exist_ok=True)
        return self._scene.SaveSceneToSlicerDataBundleDirectory(path, None, messages)


def _stem(path: str) -> str:
    """The file's name without its extension, one of two parts included."""
    name = os.path.basename(path)
    extension = next((e for e in FILE_TYPES if name.lower().endswith(e)), os.path.splitext(name)[1])
    return name[: len(name) - len(extension)]
