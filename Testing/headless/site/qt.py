"""`qt` as the application offers it: the names of QtCore, QtGui, QtWidgets in one module, with PythonQt's behaviour."""

from headless.ui_loader import UiLoader as QUiLoader  # noqa: F401
from PySide6.QtCore import *  # noqa: F403
from PySide6.QtGui import *  # noqa: F403
from PySide6.QtWidgets import *  # noqa: F403

del Signal, Slot, Property  # noqa: F821  (PySide6's own; older versions of Slicer have none)
