"""`ctk`: the widgets of CTK that the panels use, drawn from Qt's own child widgets."""

from __future__ import annotations

from headless.members import member
from PySide6 import QtCore, QtGui, QtWidgets


class ctkCollapsibleButton(QtWidgets.QAbstractButton):
    """A headline that folds its content; the content is laid out in the button itself, below the headline."""

    stands_for_cpp = True
    contentsCollapsed = QtCore.Signal(bool)

    def __init__(self, text="", parent=None) -> None:
        super().__init__(None if isinstance(text, str) else text)
        if parent is not None:
            self.setParent(parent)
        if isinstance(text, str):
            self.setText(text)
        self._hidden: list[QtWidgets.QWidget] = []
        self.setCheckable(True)
        self.setChecked(True)
        self.setSizePolicy(QtWidgets.QSizePolicy.Policy.Minimum, QtWidgets.QSizePolicy.Policy.Preferred)
        self.setContentsMargins(0, self._headline(), 0, 0)
        self.setMinimumHeight(self._headline())
        self.toggled.connect(self._fold)

    def setCollapsed(self, collapsed: bool) -> None:
        self.setChecked(not collapsed)

    collapsed = QtCore.Property(bool, lambda self: not self.isChecked(), setCollapsed)

    def _headline(self) -> int:
        return self.fontMetrics().height() + 8

    def _fold(self, open_: bool) -> None:
        if open_:
            for child in self._hidden:
                child.show()
            self._hidden = []
        else:
            self._hide_content()
        self.setMaximumHeight(16777215 if open_ else self._headline())
        self.updateGeometry()
        self.contentsCollapsed.emit(not open_)

    def _hide_content(self) -> None:
        for child in self.children():
            if isinstance(child, QtWidgets.QWidget) and not child.isHidden():
                child.hide()
                self._hidden.append(child)

    def event(self, event: QtCore.QEvent) -> bool:
        if event.type() in (QtCore.QEvent.Type.ChildPolished, QtCore.QEvent.Type.Polish) and not self.isChecked():
            self._hide_content()  # a .ui file sets `collapsed` before it adds the content
        return super().event(event)

    def hitButton(self, position: QtCore.QPoint) -> bool:
        return position.y() < self._headline()

    def paintEvent(self, event: QtGui.QPaintEvent) -> None:
        option = QtWidgets.QStyleOptionButton()
        option.initFrom(self)
        option.rect = QtCore.QRect(0, 0, self.width, self._headline())
        option.state |= QtWidgets.QStyle.StateFlag.State_Raised
        style, painter = self.style(), QtWidgets.QStylePainter(self)
        style.drawControl(QtWidgets.QStyle.ControlElement.CE_PushButtonBevel, option, painter, self)
        elements = QtWidgets.QStyle.PrimitiveElement
        arrow = elements.PE_IndicatorArrowDown if self.isChecked() else elements.PE_IndicatorArrowRight
        option.rect = QtCore.QRect(6, (self._headline() - 12) // 2, 12, 12)
        style.drawPrimitive(arrow, option, painter, self)
        place = QtCore.QRect(24, 0, self.width - 28, self._headline())
        style.drawItemText(painter, place, int(QtCore.Qt.AlignmentFlag.AlignVCenter) |
                           int(QtCore.Qt.TextFlag.TextShowMnemonic), self.palette, self.isEnabled(), self.text,
                           QtGui.QPalette.ColorRole.ButtonText)


class ctkSliderWidget(QtWidgets.QWidget):
    """A slider with a spin box for the same number."""

    stands_for_cpp = True
    valueChanged = QtCore.Signal(float)
    valueIsChanging = QtCore.Signal(float)
    decimals, setDecimals = member(int, "decimals", 2, "_apply")
    singleStep, setSingleStep = member(float, "singleStep", 1.0, "_apply")
    pageStep, setPageStep = member(float, "pageStep", 10.0, "_apply")
    minimum, setMinimum = member(float, "minimum", 0.0, "_apply")
    maximum, setMaximum = member(float, "maximum", 99.0, "_apply")
    suffix, setSuffix = member(str, "suffix", "", "_apply")

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self._slider = QtWidgets.QSlider(QtCore.Qt.Orientation.Horizontal)
        self._spin = QtWidgets.QDoubleSpinBox()
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._slider, 1)
        row.addWidget(self._spin)
        self.setFocusProxy(self._spin)
        self.setFocusPolicy(QtCore.Qt.FocusPolicy.StrongFocus)
        self._slider.valueChanged.connect(self._on_slider)
        self._spin.valueChanged.connect(self._on_spin)
        self._apply()

    def setValue(self, value: float) -> None:
        self._spin.setValue(value)

    value = QtCore.Property(float, lambda self: self._spin.value, setValue)

    def _apply(self) -> None:
        self._spin.setDecimals(self.decimals)
        self._spin.setRange(self.minimum, self.maximum)
        self._spin.setSingleStep(self.singleStep)
        self._spin.setSuffix(self.suffix)
        blocked = self._slider.blockSignals(True)
        self._slider.setRange(0, round((self.maximum - self.minimum) / self.singleStep))
        self._slider.setPageStep(max(round(self.pageStep / self.singleStep), 1))
        self._show_in_slider()
        self._slider.blockSignals(blocked)

    def _show_in_slider(self) -> None:
        self._slider.setValue(round((self._spin.value - self.minimum) / self.singleStep))

    def _on_slider(self, step: int) -> None:
        self._spin.setValue(self.minimum + step * self.singleStep)

    def _on_spin(self, value: float) -> None:
        blocked = self._slider.blockSignals(True)
        self._show_in_slider()
        self._slider.blockSignals(blocked)
        self.valueIsChanging.emit(value)
        self.valueChanged.emit(value)


class ctkPathLineEdit(QtWidgets.QWidget):
    """A path to type, or to pick with the button."""

    stands_for_cpp = True
    currentPathChanged = QtCore.Signal(str)
    validInputChanged = QtCore.Signal(bool)
    nameFilters, setNameFilters = member("QStringList", "nameFilters", ())

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self._line = QtWidgets.QLineEdit()
        self._button = QtWidgets.QToolButton()
        self._button.setText("…")
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._line, 1)
        row.addWidget(self._button)
        self.setFocusProxy(self._line)
        self.setFocusPolicy(QtCore.Qt.FocusPolicy.StrongFocus)
        self._line.textChanged.connect(self._on_text)
        self._button.clicked.connect(self.browse)

    def setCurrentPath(self, path: str) -> None:
        self._line.setText(path)

    currentPath = QtCore.Property(str, lambda self: self._line.text, setCurrentPath)

    def browse(self) -> None:
        filters = ";;".join(self.nameFilters)
        path = QtWidgets.QFileDialog.getOpenFileName(self, "", self.currentPath, filters)[0]
        if path:
            self.setCurrentPath(path)

    def _on_text(self, text: str) -> None:
        self.currentPathChanged.emit(text)
        self.validInputChanged.emit(QtCore.QFileInfo.exists(text))
