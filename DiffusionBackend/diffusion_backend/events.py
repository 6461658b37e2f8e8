"""How a run talks: JSON lines for a parent process, a bar with the remaining time for a person; errors become exit
codes."""

from __future__ import annotations

import json
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO

from .errors import Cancelled, EngineError, InputError, MemoryExhausted

Report = Callable[[dict[str, Any]], None]
BAR = 24


class JsonLines:
    """One event a line, ASCII, flushed at once."""

    def __init__(self, stream: TextIO, **always: Any) -> None:
        self.stream, self.always = stream, always
        self.lock = threading.Lock()

    def __call__(self, event: dict[str, Any]) -> None:
        # where the reader is gone, --parent-pipe decides whether the run goes on
        with self.lock, suppress(BrokenPipeError):
            print(json.dumps(event | self.always, ensure_ascii=True), file=self.stream, flush=True)


class Bar:
    """Plan, progress bar, warnings and result for a person at a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.open = stream, False

    def __call__(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "progress":
            self._bar(event)
        elif kind == "plan":
            self._line(plan_text(event))
        elif kind == "warning":
            self._line("Warning: " + event["message"])
        elif kind == "error":
            self._line("Error: " + " ".join(t for t in (event["message"], event["remedy"]) if t))
        elif kind == "result" and "message" in event:
            self._line(event["message"])

    def _bar(self, e: dict[str, Any]) -> None:
        filled = int(BAR * e["fraction"])
        step = f" step {e['step']}/{e['steps']}" if e["step"] else ""
        sample = f" sample {e['sample']}/{e['samples']}" if "sample" in e else ""
        left = "" if e["eta_s"] is None else f" {duration(e['eta_s'])} left"
        text = f"{e['stage']:<14} [{'#' * filled:<{BAR}}] {e['item']}/{e['items']}{step}{sample}{left}"
        print(f"\r{text:<78}", end="", file=self.stream, flush=True)
        self.open = True

    def _line(self, text: str) -> None:
        print(("\n" if self.open else "") + text, file=self.stream, flush=True)
        self.open = False


def plan_text(event: dict[str, Any]) -> str:
    """The plan in words."""
    stages = ", ".join(f"{s['name']}: {s['items']} × {s['calls']}" for s in event["stages"]) or "one step"
    network = f"about {duration(event['network_s'])} in the network, " if event["network_s"] else ""
    memory = f"{event['memory_mb']} MB of {event['available_mb']} MB free"
    return f"Plan: {stages}; {network}{memory}, {event['batch']} at once on {event['device']}."


def duration(seconds: float) -> str:
    """41 s, 3 min 20 s, 2 h 5 min."""
    s = max(int(round(seconds)), 0)
    if s < 60:
        return f"{s} s"
    return f"{s // 60} min {s % 60} s" if s < 3600 else f"{s // 3600} h {s % 3600 // 60} min"


def choose(mode: str) -> Callable[[dict[str, Any]], None]:
    """`mode` "json", "bar" or "auto" (a bar where standard output is a terminal)."""
    bar = mode == "bar" or (mode == "auto" and sys.stdout.isatty())
    return Bar(sys.stdout) if bar else JsonLines(sys.stdout)


def guarded(work: Callable[[], Any], report: Callable[[dict[str, Any]], None]) -> int:
    """Do `work`; every error becomes one event and an exit code. The traceback of an internal error goes to standard
    error."""
    try:
        work()
        return 0
    except EngineError as error:
        caught = error
    except KeyboardInterrupt:
        caught = Cancelled()
    except MemoryError:
        caught = MemoryExhausted("Memory ran out.", "Crop the volume or close other programs.")
    except OSError as error:
        name = f" '{error.filename}'" if error.filename else ""
        caught = InputError(f"The file{name} can't be used: {error.strerror or error}.")
    except Exception as error:  # the last border before the user: never a bare traceback
        traceback.print_exc(file=sys.stderr)
        caught = EngineError(f"Internal error: {type(error).__name__}: {error}", "Please report it with the log.")
    report({"event": "error", "kind": caught.kind, "message": caught.args[0], "remedy": caught.remedy})
    return caught.exit_code


class Stop:
    """A request to stop, from a signal or from the parent's end; asked at every step."""

    def __init__(self) -> None:
        self.flag = threading.Event()

    def __call__(self) -> bool:
        return self.flag.is_set()

    def on_signals(self) -> None:
        """SIGINT and SIGTERM ask for a stop; a second one stops at once."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._signalled)

    def _signalled(self, number: int, frame: Any) -> None:
        if self.flag.is_set():
            raise KeyboardInterrupt
        self.flag.set()

    def on_end_of(self, stream: TextIO) -> None:
        """Ask for a stop when `stream` (a pipe from the parent) closes."""
        threading.Thread(target=lambda: (stream.read(), self.flag.set()), daemon=True).start()
