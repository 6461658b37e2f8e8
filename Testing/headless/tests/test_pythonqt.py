"""What the panels may rely on, and what must be refused, because PythonQt does it so."""

from __future__ import annotations

import functools

import ctk
import pytest
import qt
import slicer

import headless


def test_properties_are_attributes_and_setters_are_methods():
    label = qt.QLabel("first")
    assert label.text == "first"
    label.setText("second")
    label.enabled = False
    label.alignment = qt.Qt.AlignRight
    assert (label.text, label.enabled, label.isEnabled()) == ("second", False, False)
    assert label.alignment & qt.Qt.AlignRight
    with pytest.raises(TypeError):
        label.text()


def test_name_is_the_object_name():
    button = qt.QPushButton()
    button.setObjectName("apply")
    assert button.name == button.objectName == "apply"


def test_a_read_only_property_refuses():
    with pytest.raises(AttributeError):
        qt.QComboBox().count = 3


@pytest.mark.parametrize("make", [qt.QPushButton, qt.QTimer, ctk.ctkSliderWidget, slicer.qMRMLNodeComboBox])
def test_a_cpp_object_takes_no_new_attribute(make):
    with pytest.raises(AttributeError, match="state"):
        make().state = 1


def test_a_python_subclass_takes_new_attributes():
    class Filter(qt.QObject):
        pass

    made = Filter()
    made.state = 1
    assert made.state == 1


def test_string_lists_come_back_as_tuples():
    combo = slicer.qMRMLNodeComboBox()
    combo.nodeTypes = ["vtkMRMLTextNode"]
    assert combo.nodeTypes == ("vtkMRMLTextNode",)
    model = qt.QStringListModel(["a"])
    browser = qt.QTextBrowser()
    browser.searchPaths = ["/x"]
    assert browser.searchPaths == ("/x",) and model.rowCount() == 1


@pytest.mark.parametrize("signal", ["clickt()", "clicked(int)", "clicked"])
def test_an_unknown_signal_raises(signal):
    with pytest.raises(ValueError, match="no signal"):
        qt.QPushButton().connect(signal, print)


def test_a_slot_must_be_callable():
    with pytest.raises(TypeError, match="callable"):
        qt.QPushButton().connect("clicked()", "close")


def clicks(signal, slot) -> None:
    button = qt.QPushButton()
    button.connect(signal, slot)
    button.click()


def test_functions_get_as_many_arguments_as_their_code_takes():
    got = []
    clicks("clicked(bool)", lambda: got.append("none"))
    clicks("clicked(bool)", lambda checked: got.append(checked))
    clicks("clicked()", lambda name="N": got.append(name))
    clicks("clicked(bool)", lambda name="N": got.append(name))  # the trap: the default is overwritten
    clicks("clicked(bool)", lambda *values: got.append(values))
    assert got == ["none", False, "N", False, (False,)]


def test_methods_get_as_many_arguments_as_their_code_takes():
    class Listener:
        got = []

        def silent(self):
            self.got.append("silent")

        def told(self, checked):
            self.got.append(checked)

    listener = Listener()
    clicks("clicked(bool)", listener.silent)
    clicks("clicked(bool)", listener.told)
    assert listener.got == ["silent", False]


def test_arguments_are_not_cut_for_other_callables():
    with headless.errors.expect("TypeError"):
        clicks("clicked(bool)", functools.partial(lambda name: None, "N"))


def test_a_slot_that_wants_more_than_the_signal_has_fails():
    with headless.errors.expect("TypeError"):
        clicks("clicked()", lambda checked: None)


def test_a_method_of_qt_can_be_a_slot():
    slider, spin = qt.QSlider(), qt.QSpinBox()
    slider.connect("valueChanged(int)", spin.setValue)
    slider.value = 7
    assert spin.value == 7


def test_disconnect_takes_one_slot_or_all():
    got = []

    def first():
        got.append(1)

    button = qt.QPushButton()
    button.connect("clicked()", first)
    button.connect("clicked()", lambda: got.append(2))
    assert button.disconnect("clicked()", first) and not button.disconnect("clicked()", first)
    button.click()
    assert got == [2] and button.disconnect("clicked()")
    button.click()
    assert got == [2]


def test_signals_of_nodes_are_told_apart_by_type(scene):
    combo, got = slicer.qMRMLNodeComboBox(), []
    combo.nodeTypes, combo.noneEnabled = ["vtkMRMLTextNode"], True
    combo.setMRMLScene(scene)
    combo.connect("currentNodeChanged(vtkMRMLNode*)", got.append)
    combo.connect("currentNodeChanged(bool)", got.append)
    node = scene.AddNewNodeByClass("vtkMRMLTextNode")
    combo.setCurrentNode(node)
    assert got == [node, True]


@pytest.mark.parametrize("delay", [0, 1])
def test_single_shot_is_static_and_an_attribute(delay):
    got, timer, loop = [], qt.QTimer(), qt.QEventLoop()
    timer.singleShot = True
    qt.QTimer.singleShot(delay, lambda: got.append(timer.singleShot))
    qt.QTimer.singleShot(delay, loop.quit)
    loop.exec_()
    assert got == [True]


def test_exec_has_an_underscore():
    dialog = qt.QDialog()
    qt.QTimer.singleShot(0, dialog.accept)
    assert dialog.exec_() == qt.QDialog.Accepted
    assert qt.QEventLoop.exec_ and qt.QMenu.exec_


def test_methods_that_are_static_and_not_work(tmp_path):
    (tmp_path / "a").write_text("x")
    assert qt.QFile(str(tmp_path / "a")).exists() and not qt.QFile.exists(str(tmp_path / "b"))


def test_a_colour_has_a_name():
    assert qt.QColor(1, 2, 3).name() == "#010203" and qt.QColor(1, 2, 3).name(1) == "#ff010203"


def test_a_process_reports_its_end():
    got, process = [], qt.QProcess()
    process.connect("finished(int,QProcess::ExitStatus)", lambda code, status: got.append(code))
    process.start("/bin/sh", ["-c", "exit 3"])
    assert process.waitForFinished()
    assert got == [3]


def test_settings_forget_nothing_within_a_run():
    slicer.app.userSettings().setValue("DiffusionModels/Number", 3)
    assert slicer.util.settingsValue("DiffusionModels/Number", 0, converter=int) == 3
    assert slicer.app.userSettings().fileName().startswith(slicer.app.temporaryPath)


def test_signals_for_python_classes_are_absent():
    assert not hasattr(qt, "Signal") and not hasattr(qt, "Slot") and not hasattr(qt, "Property")
