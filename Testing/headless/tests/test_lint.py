"""Every rule of the lint: a mistake in a copy of a real file is found, its right form isn't; the tree has none."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass

import pytest
from apilock import lint, lint_text, lock, sources
from apilock.api import Api
from apilock.collect import collect
from apilock.sources import Shell, Source

PANEL, LOGIC = "DiffusionBackend/diffusion_panel/recover_view.py", "DiffusionBackend/diffusion_panel/logic.py"
ENGINE = "DiffusionBackend/diffusion_backend/paths.py"
NEEDED = (PANEL, LOGIC, "declarations.py", "notice.py")  # the other files play no part here
PREAMBLE = "import ctk, slicer, threading, vtk\nimport numpy as np\nfrom functools import partial\n"


@dataclass(frozen=True)
class Seed:
    """A mistake and its right form: whole statements at the end of `file`."""

    rule: str
    wrong: str
    right: str
    file: str = PANEL


def of_ui(rule: str, wrong: str, right: str, file: str = PANEL) -> Seed:
    """A mistake inside a function that has the panel's widgets, a node, an array and a path."""
    head = "def seeded(ui, node, array, path):\n    "
    return Seed(rule, head + wrong, head + right, file)


CONNECT = (
    "class Seeded:\n    def __init__(self, ui):\n        ui.applyButton.connect('clicked(bool)', self.slot)\n"
    "    def slot(self{}):\n        pass"
)
OBSERVE = (
    "class Seeded:\n    def setup(self, scene):\n        self.addObserver(scene, scene.EndCloseEvent, self.slot)\n"
    "    def slot(self, caller, event):\n        pass\n    def cleanup(self):\n        {}"
)
SEEDS = {
    "property called": of_ui("L1", "return ui.searchLine.text()", "return ui.searchLine.text"),
    "property of an own class called": of_ui(
        "L1", "return ui.logSection.collapsed()", "return ui.logSection.collapsed"
    ),
    "method not called": of_ui(
        "L1", "return 1 if ui.runForm.isVisible else 2", "return 1 if ui.runForm.isVisible() else 2"
    ),
    "unknown signal": of_ui(
        "L2",
        "ui.applyButton.connect('clickd()', ui.runForm.hide)",
        "ui.applyButton.connect('clicked()', ui.runForm.hide)",
    ),
    "other arguments": of_ui(
        "L2",
        "ui.seedSpin.connect('valueChanged(double)', ui.runForm.hide)",
        "ui.seedSpin.connect('valueChanged(int)', ui.runForm.hide)",
    ),
    "plain C++": of_ui(
        "L2", "slicer.qMRMLNodeComboBox().setNodeTypes([])", "slicer.qMRMLNodeComboBox().nodeTypes = []"
    ),
    "method of Qt": of_ui("L2", "qt.QLabel().setTekst('')", "qt.QLabel().setText('')"),
    "method of a node": of_ui(
        "L2", "return slicer.mrmlScene.GetNodeById(path)", "return slicer.mrmlScene.GetNodeByID(path)"
    ),
    "method of something": of_ui("L2", "return node.GetNam()", "return node.GetName()"),
    "name of VTK": of_ui("L2", "return vtk.vtkMatrix5x5()", "return vtk.vtkMatrix4x4()"),
    "keyword of a function": of_ui(
        "L2",
        "slicer.util.addVolumeFromArray(array, matrix=None)",
        "slicer.util.addVolumeFromArray(array, ijkToRAS=None)",
    ),
    "too few arguments": of_ui(
        "L2", "slicer.util.updateVolumeFromArray(node)", "slicer.util.updateVolumeFromArray(node, array)"
    ),
    "keyword of a module": of_ui(
        "L2",
        "from SampleData import SampleDataLogic as s\n    s.registerCustomSampleDataCategory(path, name=path)",
        "from SampleData import SampleDataLogic as s\n    s.registerCustomSampleDataCategory(path, title=path)",
    ),
    "keyword of a method": of_ui(
        "L2",
        "slicer.util.VTKObservationMixin().addObserver(node, path, len, group=1, prio=2)",
        "slicer.util.VTKObservationMixin().addObserver(node, path, len, group=1, priority=2)",
    ),
    "lambda with a default": of_ui(
        "L3",
        "ui.applyButton.connect('clicked(bool)', lambda n=1: n)",
        "ui.applyButton.connect('clicked()', lambda n=1: n)",
    ),
    "slot with a default": Seed("L3", CONNECT.format(", name='x'"), CONNECT.format(", checked")),
    "slot that needs more": Seed("L3", CONNECT.format(", checked, more"), CONNECT.format("")),
    "partial": of_ui(
        "L4",
        "ui.applyButton.connect('clicked()', partial(max, 1))",
        "ui.applyButton.connect('clicked()', ui.runForm.hide)",
    ),
    "new attribute": of_ui("L5", "ui.applyButton.owner = node", "ui.applyButton.enabled = True"),
    "attribute of an own class": of_ui("L5", "ctk.ctkSliderWidget().step = 1", "ctk.ctkSliderWidget().singleStep = 1"),
    "read only": of_ui("L5", "ui.searchLine.displayText = path", "ui.searchLine.text = path"),
    "import of PySide": Seed("L6", "import PySide6", "import qt"),
    "end of the process": of_ui("L7", "sys.exit(1)", "raise ValueError(path)"),
    "print of a node": of_ui("L7", "print(node)", "print(f'{node.GetID()}')"),
    "import of torch": Seed("L8", "import torch", "import json"),
    "import of the engine": Seed("L8", "from diffusion_backend import run", "from diffusion_backend import predicates"),
    "installs in setup": Seed(
        "L9",
        "class Seeded:\n    def setup(self):\n        slicer.util.pip_install('x')",
        "class Seeded:\n    def install(self):\n        slicer.util.pip_install('x')",
    ),
    "installs while imported": Seed("L9", "slicer.util.pip_install('x')", "pass"),
    "name of the wheel": of_ui(
        "L10", "return slicer.arrayFromVolume(node)", "return slicer.util.arrayFromVolume(node)"
    ),
    "widget in the logic": Seed(
        "L11",
        "def seeded():\n    import qt\n    return qt.QLabel()",
        "def seeded():\n    import qt\n    return qt.QTimer.singleShot(0, len)",
        LOGIC,
    ),
    "pop-up in the logic": of_ui("L11", "slicer.util.errorDisplay(path)", "slicer.util.arrayFromVolume(node)", LOGIC),
    "VTK in the engine": Seed("L11", "import vtk", "import math", ENGINE),
    "boolean voxels": of_ui(
        "L12",
        "slicer.util.updateVolumeFromArray(node, array > 1)",
        "slicer.util.updateVolumeFromArray(node, (array > 1).astype(np.uint8))",
    ),
    "wide voxels": of_ui(
        "L12",
        "slicer.util.addVolumeFromArray(array.astype(np.int64))",
        "slicer.util.addVolumeFromArray(array.astype(np.int16))",
    ),
    "relative path": of_ui("L14", "slicer.util.loadVolume('ct.nrrd')", "slicer.util.loadVolume(path)"),
    "observer that stays": Seed("L15", OBSERVE.format("pass"), OBSERVE.format("self.removeObservers()")),
    "text of a widget": of_ui("L16", "ui.stateLabel.setText('Ready')", "ui.stateLabel.setText(_('Ready'))"),
    "text as property": of_ui("L16", "ui.applyButton.toolTip = 'Runs'", "ui.applyButton.toolTip = _('Runs')"),
    "text in pieces": of_ui(
        "L16", "ui.stateLabel.setText(f'{path} ready')", "ui.stateLabel.setText(_('{path} ready').format(path=path))"
    ),
    "sentence of an error": of_ui(
        "L16", "raise ValueError('The file is empty.')", "raise ValueError(_('The file is empty.'))"
    ),
    "f-string inside": of_ui("L16", "return _(f'{path} is empty')", "return _('{path} is empty').format(path=path)"),
    "hidden translation": of_ui("L16", "first, _ = path, 1", "first, _rest = path, 1"),
    "tuple and list": of_ui(
        "R7", "return ui.roiSelector.nodeTypes == ['x']", "return list(ui.roiSelector.nodeTypes) == ['x']"
    ),
    "exec": of_ui("R8", "qt.QDialog().exec()", "qt.QDialog().exec_()"),
    "enum as number": of_ui("R11", "return int(qt.Qt.Checked)", "return qt.Qt.Checked"),
    "timer without owner": of_ui(
        "R13", "timer = qt.QTimer()\n    timer.start(5)", "timer = qt.QTimer(ui.runForm)\n    timer.start(5)"
    ),
    "single shot with an object": of_ui("R14", "qt.QTimer.singleShot(0, node, path)", "qt.QTimer.singleShot(0, node)"),
    "keyword of a constructor": of_ui("R15", "return qt.QLabel(text=path)", "return qt.QLabel(path)"),
    "keyword of VTK": of_ui("R15", "vtk.vtkMatrix4x4().GetElement(i=0, j=1)", "vtk.vtkMatrix4x4().GetElement(0, 1)"),
    "own signal": of_ui("R16", "return qt.Signal()", "return qt.QObject()"),
    "subclass": Seed("R17", "class Seeded(ctk.ctkSliderWidget):\n    pass", "class Seeded(qt.QWidget):\n    pass"),
    "bytes as text": of_ui("R18", "return str(qt.QByteArray(path))", "return qt.QByteArray(path).data().decode()"),
    "children": of_ui(
        "R19", "return ui.runForm.findChild(qt.QLabel, path)", "return slicer.util.findChild(ui.runForm, path)"
    ),
    "node in a thread": of_ui(
        "R22",
        "threading.Thread(target=lambda: slicer.util.arrayFromVolume(node).sum())",
        "threading.Thread(target=lambda: array.sum())",
    ),
    "node deep in a thread": Seed(
        "R22",
        "def seeded_a():\n    return seeded_b()\ndef seeded_b():\n    return slicer.mrmlScene\n"
        "def seeded_c():\n    threading.Thread(target=seeded_a)",
        "def seeded_a():\n    return seeded_b()\ndef seeded_b():\n    return 1\n"
        "def seeded_c():\n    threading.Thread(target=seeded_a)",
    ),
    "settings as numbers": of_ui(
        "R20", "return qt.QSettings().value('a/b', False)", "return qt.QSettings().value('a/b', 'x')"
    ),
}
SYNTAX = {
    "of Python 3.14 in the panel": (PANEL, "try:\n    pass\nexcept OSError, ValueError:\n    pass"),
    "of Python 3.11 in the engine": (ENGINE, "try:\n    pass\nexcept* ValueError:\n    pass"),
}
ALSO = {"own signal": {"R16", "L2"}, "VTK in the engine": {"L11"}}  # two rules for one mistake


def planted(form: str) -> tuple[list[Source], list[Source], dict[str, tuple[str, range]]]:
    """Copies of the files with all seeds in one form ("wrong", "right"), and where each seed lies."""
    panel = [s for s in sources.python() if s.path.endswith(NEEDED)]
    engine = [s for s in sources.engine() if s.path == ENGINE]
    places: dict[str, tuple[str, range]] = {}
    for group in (panel, engine):
        for number, source in enumerate(group):
            lines = source.text.splitlines() + (PREAMBLE.splitlines() if source.path == PANEL else [])
            for n, (name, seed) in enumerate(SEEDS.items()):
                if seed.file == source.path:
                    code = (
                        getattr(seed, form).replace("seeded", f"seeded{n}").replace("Seeded", f"Seeded{n}").splitlines()
                    )
                    places[name] = (source.path, range(len(lines) + 1, len(lines) + len(code) + 1))
                    lines += code
            group[number] = Source(source.path, source.module, "\n".join(lines) + "\n")
    return panel, engine, places


@pytest.fixture(scope="module", params=["wrong", "right"])
def linted(request):
    """(form, what the lint says of a seed's lines)."""
    panel, engine, places = planted(request.param)
    findings = lint.lint(panel, engine)

    def rules(name: str) -> set[str]:
        path, lines = places[name]
        return {f.rule for f in findings if f.path == path and f.line in lines}

    return request.param, rules


@pytest.mark.parametrize("name", SEEDS)
def test_a_mistake_is_found_and_its_right_form_is_not(linted, name):
    form, rules = linted
    assert rules(name) == (ALSO.get(name, {SEEDS[name].rule}) if form == "wrong" else set())


def test_every_rule_has_a_mistake():
    rules = {s.rule for s in SEEDS.values()} | {"L13", "L17"}
    assert {f"L{n}" for n in range(1, 18)} <= rules


@pytest.mark.parametrize("name", SYNTAX)
def test_newer_syntax_is_found(name):
    path, code = SYNTAX[name]
    group = sources.engine() if path == ENGINE else sources.python()
    source = next(s for s in group if s.path == path)
    new = Source(path, source.module, source.text + code + "\n")
    found = lint.lint([new], []) if path == PANEL else lint.lint([], [new])
    assert [(f.rule, f.path) for f in found] == [("L17", path)]


@pytest.mark.parametrize(
    "old, new",
    [
        ('class="ctkCollapsibleButton" name="logSection"', 'class="ctkCollapsableButton" name="logSection"'),
        ('<property name="placeholderText">', '<property name="placeHolderText">'),
        ("<signal>mrmlSceneChanged(vtkMRMLScene*)</signal>", "<signal>sceneChanged(vtkMRMLScene*)</signal>"),
        ("<slot>setMRMLScene(vtkMRMLScene*)</slot>", "<slot>setScene(vtkMRMLScene*)</slot>"),
    ],
)
def test_mistakes_in_a_ui_file(old, new):
    path = "Resources/UI/DiffusionPanel.ui"
    text = (sources.REPOSITORY / path).read_text(encoding="utf-8")
    assert old in text
    for content, rules in ((text, set()), (text.replace(old, new, 1), {"L13"})):
        found = collect([], [Shell(path, ET.fromstring(content))], Api(lock.read())).findings
        assert {f.rule for f in found} == rules


@pytest.mark.parametrize("line, rules", [
    ("print(volumeNode)", {"L7"}), ("print(line)", set()), ("sys.exit(2)", {"L7"}), ("print('Two words of it')", set()),
    ("import PySide6", {"L6"}), ("import headless", {"L6"}), ("from diffusion_backend import batch", set()),
    ("slicer.util.exit(2)", set()), ("slicer.util.exit(code=2)", {"L2"}), ("slicer.arrayFromVolume(0)", {"L10"}),
])  # fmt: skip
def test_scripts_for_slicer_may_print_and_import_more(line, rules):
    script = Source("Resources/Batch/Made.py", "Made", f"import sys\nimport slicer\n{line}\n")
    assert {f.rule for f in lint.lint([script], [])} == rules


def test_no_exception_of_the_translation_rule_is_left_over():
    needed = {(s.path, text) for s in sources.python() for _, text in lint_text.untranslated(s, excepted=False)}
    stale = [e for e in lint_text.EXCEPTIONS if not any(p.endswith(e[0]) and text == e[1] for p, text in needed)]
    assert not stale and all(lint_text.EXCEPTIONS.values())


def test_the_extension_has_no_finding():
    assert [str(f) for f in lint.lint()] == []
