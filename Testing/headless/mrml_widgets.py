"""Widgets that know the scene: `slicer.qMRMLWidget` and `slicer.qMRMLNodeComboBox`."""

from __future__ import annotations

import slicer_core as mrml
import vtk
from PySide6 import QtCore, QtWidgets

from .members import member

_NODE_EVENTS = ("NodeAddedEvent", "NodeRemovedEvent")
_SCENE_EVENTS = ("EndCloseEvent", "EndImportEvent", "EndBatchProcessEvent")


class qMRMLWidget(QtWidgets.QWidget):
    """A widget with a scene; in a .ui file its signal hands the scene on to the node selectors inside."""

    stands_for_cpp = True
    mrmlSceneChanged = QtCore.Signal(object)

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self._scene = None

    def mrmlScene(self):
        return self._scene

    def setMRMLScene(self, scene) -> None:
        if scene is not self._scene:
            self._scene = scene
            self.mrmlSceneChanged.emit(scene)


class qMRMLNodeComboBox(QtWidgets.QWidget):
    """A list of the scene's nodes of some classes; follows nodes that come, go and change their name."""

    stands_for_cpp = True
    currentNodeChanged = QtCore.Signal((object,), (bool,))
    currentNodeIDChanged = QtCore.Signal(str)
    nodeAddedByUser = QtCore.Signal(object)
    nodeTypes, setNodeTypes = member("QStringList", "nodeTypes", (), "_fill")
    showChildNodeTypes, setShowChildNodeTypes = member(bool, "showChildNodeTypes", True, "_fill")
    showHidden, setShowHidden = member(bool, "showHidden", False, "_fill")
    noneEnabled, setNoneEnabled = member(bool, "noneEnabled", False, "_fill")
    noneDisplay, setNoneDisplay = member(str, "noneDisplay", "None", "_fill")
    addEnabled, setAddEnabled = member(bool, "addEnabled", True, "_fill")
    baseName, setBaseName = member(str, "baseName", "")
    removeEnabled, setRemoveEnabled = member(bool, "removeEnabled", True)  # the entries of these two are not here
    renameEnabled, setRenameEnabled = member(bool, "renameEnabled", False)

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self._combo = QtWidgets.QComboBox()
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._combo)
        policy = QtWidgets.QSizePolicy.Policy
        self._combo.setSizePolicy(policy.Expanding, policy.Expanding)
        self.setSizePolicy(policy.Preferred, policy.Fixed)
        self.setFocusProxy(self._combo)
        self.setFocusPolicy(QtCore.Qt.FocusPolicy.StrongFocus)
        self._scene, self._current = None, None
        self._attributes: dict[tuple[str, str], str | None] = {}
        self._observed: dict = {}  # (object, event) -> tag
        self._fitting: dict[str, bool] = {}  # class -> whether its nodes are listed, as of the last filling
        self._combo.activated.connect(self._on_activated)
        observed = self._observed
        self.destroyed.connect(lambda: _unobserve(observed))
        self.setEnabled(False)  # no scene yet

    def setSizeAdjustPolicy(self, policy) -> None:
        """As in the application, a long name widens the selector unless this is set."""
        self._combo.setSizeAdjustPolicy(policy)

    sizeAdjustPolicy = property(lambda self: self._combo.sizeAdjustPolicy, setSizeAdjustPolicy)

    # -- scene and node ---------------------------------------------------------------------------------------------
    def mrmlScene(self):
        return self._scene

    def setMRMLScene(self, scene) -> None:
        self._scene = scene
        self.setEnabled(scene is not None)
        self._fill()

    def addAttribute(self, node_type: str, name: str, value=None) -> None:
        """List nodes of a class only if they have the attribute (with that value, where one is given)."""
        self._attributes[node_type, name] = None if value is None else str(value)
        self._fill()

    def currentNode(self):
        return self._current

    def setCurrentNode(self, node) -> None:
        """Choose a node, by itself or by its ID; a node that is not listed chooses none."""
        if isinstance(node, str):
            node = self._scene.GetNodeByID(node) if self._scene else None
        self._choose(node if node in self._nodes() else None)

    def setCurrentNodeID(self, node_id: str) -> None:
        self.setCurrentNode(node_id)

    def _current_id(self) -> str:
        return self._current.GetID() or "" if self._current else ""

    currentNodeID = QtCore.Property(str, _current_id, setCurrentNodeID)

    def nodeCount(self) -> int:
        return len(self._nodes())

    def nodeFromIndex(self, index: int):
        return self._nodes()[index]

    def addNode(self, node_type: str = ""):
        """Make a node, as the entry "Create new …" does, and choose it."""
        node = self._scene.AddNewNodeByClass(node_type or self.nodeTypes[0])
        node.SetName(self._scene.GenerateUniqueName(self.baseName or node.GetNodeTagName()))
        for (kind, name), value in self._attributes.items():
            if node.IsA(kind):
                node.SetAttribute(name, value or "")
        self._fill()
        self._choose(node)
        self.nodeAddedByUser.emit(node)
        return node

    # -- inside -----------------------------------------------------------------------------------------------------
    def _nodes(self) -> list:
        """The listed nodes in the order of the scene."""
        if self._scene is None:
            return []
        fitting: dict[str, bool] = {}  # by class: properties are slow to read, and a scene has nodes of few classes
        nodes = (self._scene.GetNthNode(n) for n in range(self._scene.GetNumberOfNodes()))
        return [n for n in nodes if self._lists(n, fitting)]

    def _fits(self, node) -> bool:
        """Whether the node's class is among the listed ones."""
        children, name = self.showChildNodeTypes, node.GetClassName()
        return any(node.IsA(t) if children else name == t for t in self.nodeTypes)

    def _lists(self, node, fitting: dict[str, bool]) -> bool:
        name = node.GetClassName()
        if name not in fitting:
            fitting[name] = self._fits(node)
        if not fitting[name] or (node.GetHideFromEditors() and not self.showHidden):
            return False
        return all(node.GetAttribute(key) is not None if value is None else node.GetAttribute(key) == value
                   for (kind, key), value in self._attributes.items() if node.IsA(kind))

    def _on_change(self, caller, event: str) -> None:
        self._fill()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _on_node(self, scene, event: str, node) -> None:
        """A node came or went; most are of a class that isn't listed."""
        name = node.GetClassName()
        if name not in self._fitting:
            self._fitting[name] = self._fits(node)
        if self._fitting[name]:
            self._fill()

    def _fill(self) -> None:
        """Bring the list up to date; where the chosen node has gone, choose none or, without none, the first.
        Nothing is chosen that wasn't before."""
        if self._scene is not None and self._scene.IsBatchProcessing():
            return
        self._fitting = {}
        nodes = self._nodes()
        self._observe(nodes)
        kept = self._current if self._current in nodes else None
        if self._current is not None and kept is None and nodes and not self.noneEnabled:
            kept = nodes[0]
        entries = [(self.noneDisplay, None)] if self.noneEnabled else []
        entries += [(n.GetName() or "", n) for n in nodes]
        if self.addEnabled:  # the type of the node to make stands in place of a node
            entries += [(f"Create new {t.removeprefix('vtkMRML').removesuffix('Node')}", t) for t in self.nodeTypes]
        self._entries = [what for _, what in entries]
        self._combo.clear()
        self._combo.addItems([text for text, _ in entries])
        self._choose(kept)

    def _observe(self, nodes: list) -> None:
        """Listen to the scene and to the listed nodes, and no longer to others; what stays is left alone: to add an
        observer takes time that grows with the number of all observers."""
        wanted = {}
        for names, slot in ((_NODE_EVENTS, self._on_node), (_SCENE_EVENTS, self._on_change)):
            if self._scene is not None:
                wanted |= {(self._scene, getattr(mrml.vtkMRMLScene, name)): slot for name in names}
        wanted |= {(node, vtk.vtkCommand.ModifiedEvent): self._on_renamed for node in nodes}
        for target, event in self._observed.keys() - wanted.keys():
            target.RemoveObserver(self._observed.pop((target, event)))
        for target, event in wanted.keys() - self._observed.keys():
            self._observed[target, event] = target.AddObserver(event, wanted[target, event])

    def _on_renamed(self, node, event: str) -> None:
        if node in self._entries:
            self._combo.setItemText(self._entries.index(node), node.GetName() or "")
        if not self._lists(node, {}) or node not in self._entries:
            self._fill()

    def _choose(self, node) -> None:
        self._combo.setCurrentIndex(self._entries.index(node) if node in self._entries else -1)
        if node is not self._current:
            self._current = node
            self.currentNodeChanged[object].emit(node)
            self.currentNodeChanged[bool].emit(node is not None)
            self.currentNodeIDChanged.emit(self._current_id())

    def _on_activated(self, index: int) -> None:
        chosen = self._entries[index]
        if isinstance(chosen, str):
            self.addNode(chosen)
        else:
            self._choose(chosen)


def _unobserve(observed: dict) -> None:
    for (target, _), tag in observed.items():
        target.RemoveObserver(tag)
    observed.clear()
