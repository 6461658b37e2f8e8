"""Parameters of methods: declared once; panel widgets, `--set`, pages and validation come from the declaration."""

from __future__ import annotations

import difflib
import math
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from .errors import InputError

PRESETS = ("quick", "standard", "published")
UNITS = (
    "",
    "HU",
    "Gy",
    "mm",
    "1/mm",
    "deg",
    "%",
    "s",
    "ms",
    "MHz",
    "keV",
    "voxels",
    "pixels",
    "bins",
    "views",
    "slices",
)


@dataclass(frozen=True)
class Parameter:
    """Common part. `help` is one sentence; `level` "basic" or "advanced"; `unit` from UNITS."""

    name: str
    default: Any

    type = ""

    def parse(self, value: Any) -> Any:
        """`value` (also as text from a command line) in the parameter's type and range, or an InputError."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """The declaration as plain JSON values."""
        return {"type": self.type} | {k: list(v) if isinstance(v, tuple) else v for k, v in vars(self).items()}

    def _refuse(self, value: Any, needed: str) -> InputError:
        return InputError(f"Parameter '{self.name}' is {reprlib.repr(value)}, but {needed}.")


@dataclass(frozen=True)
class Real(Parameter):
    """A real number in [low, high]."""

    unit: str = ""
    low: float = -math.inf
    high: float = math.inf
    help: str = ""
    level: str = "basic"

    type = "real"

    def parse(self, value: Any) -> float:
        needed = f"it must be a number from {self.low:g} to {self.high:g}{' ' + self.unit if self.unit else ''}"
        try:
            number = float(value)
        except (OverflowError, TypeError, ValueError):
            raise self._refuse(value, needed) from None
        if isinstance(value, bool) or not self.low <= number <= self.high:
            raise self._refuse(value, needed)
        return number


@dataclass(frozen=True)
class Integer(Parameter):
    """A whole number in [low, high]."""

    unit: str = ""
    low: int = 0
    high: int = 2**31 - 1
    help: str = ""
    level: str = "basic"

    type = "integer"

    def parse(self, value: Any) -> int:
        needed = f"it must be a whole number from {self.low} to {self.high}{' ' + self.unit if self.unit else ''}"
        try:
            number = float(value)
        except (OverflowError, TypeError, ValueError):
            raise self._refuse(value, needed) from None
        if isinstance(value, bool) or not number.is_integer() or not self.low <= number <= self.high:
            raise self._refuse(value, needed)
        return int(number)


@dataclass(frozen=True)
class Choice(Parameter):
    """One of a few words."""

    choices: tuple[str, ...] = ()
    help: str = ""
    level: str = "basic"

    type = "choice"

    def parse(self, value: Any) -> str:
        if value not in self.choices:
            raise self._refuse(value, f"it must be one of {', '.join(self.choices)}{nearest(str(value), self.choices)}")
        return value


@dataclass(frozen=True)
class Boolean(Parameter):
    """Yes or no."""

    help: str = ""
    level: str = "basic"

    type = "boolean"

    def parse(self, value: Any) -> bool:
        words = {
            "true": True,
            "yes": True,
            "1": True,
            "on": True,
            "false": False,
            "no": False,
            "0": False,
            "off": False,
        }
        if isinstance(value, bool):
            return value
        if str(value).lower() not in words:
            raise self._refuse(value, "it must be true or false")
        return words[str(value).lower()]


@dataclass(frozen=True)
class Text(Parameter):
    """A short text of at most `longest` characters."""

    longest: int = 200
    help: str = ""
    level: str = "basic"

    type = "text"

    def parse(self, value: Any) -> str:
        if not isinstance(value, str) or len(value) > self.longest:
            shown = value[:20] + "…" if isinstance(value, str) else value
            raise self._refuse(shown, f"it must be a text of at most {self.longest} characters")
        return value


SLICE_NOISE = Choice(
    "slice_noise",
    "shared",
    choices=("shared", "independent"),
    level="advanced",
    help="Shared noise gives neighbouring slices the same random start, which avoids flicker between them.",
)


def validate(
    parameters: Iterable[Parameter], given: Mapping[str, Any], preset: Mapping[str, Any] | None = None
) -> SimpleNamespace:
    """Defaults, then the preset's values, then the given ones, each in its range, as a namespace.

    Raises InputError with the parameter's name, the value found and the range needed; an unknown name gets the
    nearest known one.
    """
    known = {p.name: p for p in parameters}
    for name in given:
        if name not in known:
            raise InputError(
                f"There is no parameter '{name}'{nearest(name, known)}. Known are: {', '.join(known) or 'none'}."
            )
    values = {name: p.default for name, p in known.items()} | dict(preset or {}) | dict(given)
    return SimpleNamespace(**{name: known[name].parse(value) for name, value in values.items()})


def nearest(word: str, known: Iterable[str]) -> str:
    """ " (did you mean 'x'?)" for the known word closest to `word`, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def pairs(texts: Iterable[str], option: str) -> dict[str, str]:
    """`NAME=VALUE` options as a dict; of two with one name the later counts."""
    result = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"{option} needs NAME=VALUE, but got '{text}'.")
        result[name] = value
    return result
