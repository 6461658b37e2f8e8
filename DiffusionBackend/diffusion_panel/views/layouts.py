"""The layout for comparing and the way back to the user's own layout.

The user's layout is remembered in the layout node (so it survives a saved scene), not in this package.
"""

from __future__ import annotations

import slicer

LAYOUT = 27001
GROUP = 27  # a view group of our own: linked views here never move the user's views
VIEWS = ("DiffusionInput", "DiffusionResult", "DiffusionChange")
COLORS = ("#F34A33", "#4A90D9", "#EDD54C")
LAYOUTS = "DiffusionModels.Layouts"  # attribute of the layout node: "<the user's> <ours>"
_VIEW = (
    '<item><view class="vtkMRMLSliceNode" singletontag="{name}">'
    '<property name="orientation" action="default">Axial</property>'
    '<property name="viewlabel" action="default">{name}</property>'
    '<property name="viewcolor" action="default">{color}</property>'
    '<property name="viewgroup" action="default">{group}</property>'
    "</view></item>"
)
_BELOW = {
    "table": '<item><view class="vtkMRMLTableViewNode" singletontag="TableView1"/></item>',
    "plot": '<item><view class="vtkMRMLPlotViewNode" singletontag="PlotView1"/></item>',
}


def description(views: int = 3, below: tuple[str, ...] = ()) -> str:
    """The layout's XML: `views` slice views side by side; beneath them what `below` names ("plot", "table")."""
    above = "".join(_VIEW.format(name=n, color=c, group=GROUP) for n, c in zip(VIEWS[:views], COLORS))
    row = f'<layout type="horizontal" split="true">{above}</layout>'
    if not below:
        return row
    beneath = f'<layout type="horizontal" split="true">{"".join(_BELOW[name] for name in below)}</layout>'
    if not views:
        return beneath
    return (
        f'<layout type="vertical" split="true"><item splitSize="650">{row}</item>'
        f'<item splitSize="350">{beneath}</item></layout>'
    )


def manager():
    """The layout manager; None without a main window."""
    return slicer.app.layoutManager()


def may_switch(force: bool = False) -> bool:
    """Whether the arrangement of the views may be changed: there are views, and no test runs (or `force`)."""
    return manager() is not None and (force or not slicer.app.testingEnabled())


def register() -> None:
    """Make the layout known, so that a saved scene which uses it opens; call it when a module is set up."""
    if manager() is not None:
        _node().AddLayoutDescription(LAYOUT, description())


def switch(layout: int, xml: str = "") -> None:
    """Change to a layout (`xml` = a new description of it) and remember the one that the user had."""
    node = _node()
    user = former()
    before = node.GetViewArrangement() if user is None else user
    if xml and not node.AddLayoutDescription(layout, xml):
        node.SetLayoutDescription(layout, xml)
    manager().setLayout(layout)
    if before != layout:
        node.SetAttribute(LAYOUTS, f"{before} {layout}")


def former() -> int | None:
    """The user's layout to which `restore` goes back; None when the present layout is the user's own choice."""
    if manager() is None:
        return None
    before, ours = (_node().GetAttribute(LAYOUTS) or "0 0").split()
    return int(before) if _node().GetViewArrangement() == int(ours) else None


def restore() -> None:
    """Back to the layout that the user had; nothing to do where he has chosen another one meanwhile."""
    before = former()
    if before is not None:
        manager().setLayout(before)
        _node().RemoveAttribute(LAYOUTS)


def shows(node_class: str) -> bool:
    """Whether the present layout has a view of this class ("vtkMRMLViewNode", "vtkMRMLTableViewNode", …)."""
    return f'"{node_class}"' in (_node().GetCurrentLayoutDescription() or "")


def _node():
    return manager().layoutLogic().GetLayoutNode()
