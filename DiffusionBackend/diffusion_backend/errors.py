"""Errors that reach the user: one readable sentence, a kind for programs, an exit code for shells.

Exit codes: 0 done, 1 internal error, 2 bad input or parameter, 3 model missing or damaged, 4 out of memory, 5
cancelled.
"""

from __future__ import annotations


class EngineError(Exception):
    """Base of all errors that carry a sentence for the user. `remedy` says what to do (may be empty)."""

    kind = "internal"
    exit_code = 1

    def __init__(self, sentence: str, remedy: str = "") -> None:
        super().__init__(sentence)
        self.remedy = remedy

    def __str__(self) -> str:
        return " ".join(part for part in (self.args[0], self.remedy) if part)


class InputError(EngineError):
    """Data, a parameter or a file from the user doesn't fit: names what was found and what is needed."""

    kind = "input"
    exit_code = 2


class ModelError(EngineError):
    """A model is missing, damaged or of the wrong interface."""

    kind = "model"
    exit_code = 3


class MemoryExhausted(EngineError):
    """The smallest possible piece of work doesn't fit into memory: names needed and available."""

    kind = "memory"
    exit_code = 4


class DiskError(EngineError):
    """A file can't be written: disk full, folder read-only or missing."""

    kind = "disk"
    exit_code = 2


class Cancelled(EngineError):
    """The user, a signal or the end of the parent process stopped the run."""

    kind = "cancelled"
    exit_code = 5

    def __init__(self, sentence: str = "The run was cancelled; nothing was written.", remedy: str = "") -> None:
        super().__init__(sentence, remedy)
