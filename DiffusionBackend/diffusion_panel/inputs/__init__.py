"""One input widget per declared kind, and the form that shows those of a method."""

from .form import KINDS, InputForm

__all__ = ["KINDS", "InputForm"]
