"""Warm engine processes that run one study after the other: torch is loaded once for many.

A process ends when the one that started it ends, and after ten idle minutes. A study that kills its process costs
nothing but itself: the next one gets a new process."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from .errors import Cancelled, EngineError, MemoryExhausted
from .events import Report

POLL_SECONDS = 0.2
PATIENCE_SECONDS = 5.0  # how long a run may take to stop when asked
EVENT = '{"event"'
_idle: dict[int, list[Child]] = {}
_lock = threading.Lock()


class Child:
    """One process. `threads`: of torch, unless a study asks for its own number or OMP_NUM_THREADS is set."""

    def __init__(self, threads: int) -> None:
        paths = os.pathsep.join(p for p in sys.path if p)
        environment = {"OMP_NUM_THREADS": str(threads)} | os.environ | {"PYTHONPATH": paths}
        apart: dict[str, Any] = {"start_new_session": True}  # Ctrl-C goes to the parent alone
        if os.name == "nt":
            apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}  # type: ignore[attr-defined]
        self.process = subprocess.Popen(
            [sys.executable, "-m", __package__ or "diffusion_backend", "worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env=environment,
            **apart,
        )
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def usable(self) -> bool:
        """Whether it can take another study."""
        assert self.process.stdin
        return self.process.poll() is None and not self.process.stdin.closed

    def run(self, words: list[str], hear: Report, stop: Callable[[], bool]) -> int:
        """Run one study, the words of the command `run`; returns its exit code. `hear` gets its events, at least one
        error where it failed. When `stop` says so the run has PATIENCE_SECONDS to end, and the process ends, too."""
        with suppress(OSError):  # it is gone: that shows below
            self.process.stdin.write(json.dumps(words) + "\n")  # type: ignore[union-attr]
            self.process.stdin.flush()  # type: ignore[union-attr]
        asked, failed = None, False
        while True:
            if stop():
                asked = asked or time.monotonic()
                self.close(kill=time.monotonic() - asked > PATIENCE_SECONDS)
            try:
                event = self._events.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            if event is None:
                error = Cancelled() if asked else _death(self.process.wait())
                if not failed:
                    told = {"kind": error.kind, "message": error.args[0], "remedy": error.remedy}
                    hear({"event": "error"} | told)
                return error.exit_code
            if event["event"] == "end":
                return event["exit_code"]
            failed |= event["event"] == "error"
            hear(event)

    def close(self, kill: bool = False) -> None:
        """Ask it to end, or end it."""
        with suppress(OSError):
            self.process.stdin.close()  # type: ignore[union-attr]
        if kill:
            self.process.kill()

    def _read(self) -> None:
        """Put its events into the queue, None at the end. A library may print in front of an event."""
        for line in self.process.stdout or ():
            with suppress(ValueError):
                self._events.put(json.loads(line[line.index(EVENT) :]))
        self._events.put(None)
        self.process.wait()
        self.process.stdout.close()  # type: ignore[union-attr]


@contextmanager
def child(threads: int) -> Iterator[Child]:
    """A process for one study: a warm one where there is one."""
    with _lock:
        waiting = [one for one in _idle.pop(threads, []) if one.usable]
        _idle[threads] = waiting[1:]
    one = waiting[0] if waiting else Child(threads)
    try:
        yield one
    except BaseException:
        one.close(kill=True)
        raise
    with _lock:
        if one.usable:
            _idle[threads].append(one)


def close_all() -> None:
    """End the processes that have nothing to do."""
    with _lock:
        for waiting in _idle.values():
            while waiting:
                waiting.pop().close()


def _death(code: int) -> EngineError:
    """What an exit code means that came without a word."""
    if code == -9:
        sentence = "The engine was ended by the system (signal 9), probably because memory ran out."
        return MemoryExhausted(sentence, "Run fewer studies at once, or crop the volume.")
    how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
    return EngineError(f"The engine ended unexpectedly {how}.", "Run the study alone to see more.")
