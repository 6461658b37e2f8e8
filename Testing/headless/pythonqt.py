"""PySide6 made to behave, and to refuse, like PythonQt: patched in place, so that `qt.QCheckBox` stays one class.

* Qt properties are attributes (`w.text`, `w.enabled = False`); their setters stay methods; `name` is `objectName`.
* `w.connect("clicked(bool)", f)` calls `f` with as many arguments as its code takes, defaults included.
* An unknown signal raises (PythonQt only prints), so does a new attribute on a widget without a Python class.
* Lists come back as tuples.
"""

from __future__ import annotations

import ctypes
import inspect
import sys
import types
import weakref
from collections.abc import Callable

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets
from shiboken6 import Shiboken

_set = Shiboken.Object.__setattr__
_connect, _disconnect = QtCore.QObject.connect, QtCore.QObject.disconnect
_links: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # object -> [(signature, callable, what Qt calls)]


def install() -> None:
    """Patch every QObject class of the Qt modules, parents first."""
    _keep_none_alive()
    found = set()
    for module in (QtCore, QtGui, QtWidgets, QtUiTools):
        for name in dir(module):
            kind = getattr(module, name)
            if isinstance(kind, type) and issubclass(kind, QtCore.QObject):
                found.add(kind)
    for kind in sorted(found, key=lambda k: len(k.__mro__)):
        _patch(kind)
    name = QtGui.QColor.name
    QtGui.QColor.name = lambda self, form=0: name(self, QtGui.QColor.NameFormat(form))


def _keep_none_alive() -> None:
    """PySide6 6.12 hands None out without counting it, as if it lived for ever, which it does from Python 3.12 on only:
    after some ten thousand calls an older Python would end ("deallocating None")."""
    if sys.version_info < (3, 12):
        ctypes.c_ssize_t.from_address(id(None)).value += 1 << 40


def properties_as_attributes(kind: type) -> None:
    """Give a class attributes for the Qt properties that it declares itself, or whose getter it overrides."""
    meta = kind.staticMetaObject
    for index in range(meta.propertyCount()):
        qt_property = meta.property(index)
        if index >= meta.propertyOffset() or qt_property.name() in kind.__dict__:
            setattr(kind, qt_property.name(), _attribute(kind, qt_property))


def is_cpp(kind: type) -> bool:
    """Whether the class stands for a C++ class, which takes no new attributes in PythonQt."""
    return kind.__module__.startswith("PySide6") or getattr(kind, "stands_for_cpp", False)


def _patch(kind: type) -> None:
    properties_as_attributes(kind)
    if "__getattribute__" in kind.__dict__:  # some classes have their own, for methods that are static and not
        kind.__getattribute__ = _getattribute(kind.__getattribute__)
    kind.__setattr__ = _setattr
    if _method(kind, "exec"):
        kind.exec_ = kind.exec  # PySide6 has this name too, with a warning
    if kind is QtCore.QObject:
        kind.name = kind.objectName


def _attribute(kind: type, qt_property) -> property:
    name = qt_property.name()
    capital = name[0].upper() + name[1:]
    getter = _method(kind, name) or _method(kind, "is" + capital)
    setter = _method(kind, "set" + capital)

    def read(self):
        value = getter(self) if getter else QtCore.QObject.property(self, name)
        return tuple(value) if isinstance(value, list) else value

    def write(self, value) -> None:
        if setter:
            setter(self, value)
        elif not QtCore.QObject.setProperty(self, name, value):
            raise ValueError(f"Property '{name}' of {type(self).__name__} does not take {value!r}.")

    static = inspect.getattr_static(kind, name, None)
    made = _BesideStatic if isinstance(static, staticmethod) else property
    attribute = made(read, write if qt_property.isWritable() else None, doc=f"Qt property '{name}'.")
    if made is _BesideStatic:
        attribute.static = getattr(kind, name)
    return attribute


class _BesideStatic(property):
    """A property whose name is also a static method, as QTimer.singleShot: the class has one, its objects the other."""

    def __get__(self, instance, owner=None):
        return self.static if instance is None else super().__get__(instance, owner)


def _method(kind: type, name: str) -> Callable | None:
    found = getattr(kind, name, None)
    static = isinstance(inspect.getattr_static(kind, name, None), (staticmethod, _BesideStatic))
    return found if callable(found) and not static else None


def _getattribute(original: Callable) -> Callable:
    """Attribute access with our `connect`: PySide6 resolves it on the object, whatever the class says."""

    def get(self, name: str):
        if name == "connect":
            return lambda signal, *target: connect(self, signal, *target)
        if name == "disconnect":
            return lambda signal, *target: disconnect(self, signal, *target)
        return original(self, name)

    return get


def _setattr(self, name: str, value) -> None:
    kind = type(self)
    if isinstance(value, QtCore.QObject) and is_cpp(kind) and value.objectName == name:
        return  # QUiLoader of PySide6 hands a panel its children as attributes; PythonQt finds them by name
    declared = inspect.getattr_static(kind, name, None)
    if isinstance(declared, QtCore.Property):  # PySide6 sees these in its own, replaced __setattr__ only
        if declared.fset is None:
            raise AttributeError(f"Property '{name}' of {kind.__name__} cannot be set.")
        declared.fset(self, value)
        return
    if is_cpp(kind) and not name.startswith("_") and not hasattr(type(declared), "__set__"):
        raise AttributeError(f"{kind.__name__} has no property '{name}': a C++ object takes no new attribute.")
    _set(self, name, value)


def connect(sender: QtCore.QObject, signal: str, *target) -> bool:
    """`sender.connect("signal(types)", callable)` or `(…, receiver, "slot(types)")`; ValueError: no such signal."""
    if isinstance(signal, QtCore.QObject):  # PySide6's own QTimer.singleShot names the sender once more
        return _connect(signal, *target)
    if not isinstance(signal, str):  # PySide6 itself connects signal objects
        return _connect(sender, signal, *target)
    signature, count = _find(sender, signal)
    if len(target) == 2:
        return bool(_connect(sender, QtCore.SIGNAL(signature), target[0], QtCore.SLOT(target[1])))
    function = target[0]
    if not callable(function):
        raise TypeError(f"'{signal}' must be connected to something callable, not to {function!r}.")
    called = _with_arguments(function, count)
    _links.setdefault(sender, []).append((signature, function, called))
    return bool(_connect(sender, QtCore.SIGNAL(signature), called))


def disconnect(sender: QtCore.QObject, signal: str, *target) -> bool:
    """Undo `connect` for one callable, or for all of a signal; False where there was nothing to undo."""
    if not isinstance(signal, str):
        return _disconnect(sender, signal, *target)
    signature, _ = _find(sender, signal)
    links = _links.get(sender, [])
    gone = [link for link in links if link[0] == signature and (not target or link[1] == target[0])]
    for link in gone:
        links.remove(link)
        _disconnect(sender, QtCore.SIGNAL(signature), link[2])
    return bool(gone)


def _find(sender: QtCore.QObject, signal: str) -> tuple[str, int]:
    """The signature as Qt knows it, and its number of arguments. VTK types are plain Python objects here."""
    meta = sender.metaObject()
    head, _, arguments = signal.partition("(")
    listed = arguments.rstrip(") ").split(",") if arguments.rstrip(") ") else []
    kinds = ["PyObject" if kind.strip().startswith("vtk") else kind.strip() for kind in listed]
    signature = QtCore.QMetaObject.normalizedSignature(f"{head}({','.join(kinds)})").data().decode()
    index = meta.indexOfSignal(signature) if arguments else -1
    if index < 0:
        raise ValueError(f"{type(sender).__name__} has no signal '{signal}'.")
    return signature, meta.method(index).parameterCount()


def _with_arguments(function: Callable, count: int) -> Callable:
    """A function of exactly `count` parameters, because PySide6 decides by the number of parameters what it passes.

    Plain functions and methods get as many arguments as their code takes; other callables get all of them.
    """
    passed = count
    if isinstance(function, (types.FunctionType, types.MethodType)):
        code = function.__code__
        if not code.co_flags & inspect.CO_VARARGS:
            passed = min(count, code.co_argcount - isinstance(function, types.MethodType))
    names = ", ".join(f"a{i}" for i in range(count))
    used = ", ".join(f"a{i}" for i in range(passed))
    return eval(f"lambda {names}: function({used}) and None", {"function": function})
