"""A warm process: reads paths of job folders from its standard input, one a line, and runs them one after the other.
A line may also be the command line of `run` as a JSON list of words; `batch` sends these.

It keeps at most one model bundle loaded, ends after ten idle minutes, and stops at once (run included) when the pipe
closes.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import sys
import threading
import time
from pathlib import Path
from typing import TextIO

from . import terminal
from .commands import run_arguments
from .errors import Cancelled, InputError
from .events import JsonLines, Stop, guarded
from .job import run_job

IDLE_SECONDS = 600.0
POLL_SECONDS = 0.5  # a signal is noticed this late while idle
LAST_SECONDS = 10.0  # how long a run may go on after the pipe has closed, for a step of it is not interrupted


def main(stdin: TextIO | None = None, stdout: TextIO | None = None, idle_seconds: float = IDLE_SECONDS) -> int:
    """Serve until the pipe closes, a signal comes or nothing has come for `idle_seconds`. Returns 0, or 5 when a run
    was stopped."""
    stop, ended = Stop(), threading.Event()
    stop.on_signals()
    lines: queue.Queue[str] = queue.Queue()
    if stdin is None:
        sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]  # as paths have it
    threading.Thread(target=_read, args=(stdin or sys.stdin, lines, stop, ended), daemon=True).start()
    try:
        return _serve_all(lines, stdout or sys.stdout, stop, idle_seconds)
    finally:
        ended.set()


def _serve_all(lines: queue.Queue[str], out: TextIO, stop: Stop, idle_seconds: float) -> int:
    JsonLines(out)({"event": "ready"})
    deadline = time.monotonic() + idle_seconds
    while not stop() and time.monotonic() < deadline:
        try:
            line = lines.get(timeout=POLL_SECONDS)
        except queue.Empty:
            continue
        code = serve_command(line, out, stop) if line.startswith("[") else serve(Path(line), out, stop)
        if stop():
            return code
        deadline = time.monotonic() + idle_seconds
    return 0


def serve(folder: Path, out: TextIO, stop: Stop) -> int:
    """Run one job; its events carry the job's path, the last one says how it ended."""
    report = JsonLines(out, job=str(folder))
    code = guarded(lambda: run_job(folder, report, stop), report)
    report({"event": "end", "exit_code": code})
    return code


def serve_command(line: str, out: TextIO, stop: Stop) -> int:
    """Do what the command `run` with the words in `line` does; the last event says how it ended."""
    report = JsonLines(out)
    code = guarded(lambda: terminal.start(_arguments(line), report, stop), report)
    report({"event": "end", "exit_code": code})
    return code


def _arguments(line: str) -> argparse.Namespace:
    try:
        return run_arguments([str(word) for word in json.loads(line)])
    except (ValueError, RecursionError, SystemExit):  # argparse leaves after its own words
        raise InputError("A line of the standard input is no command line of 'run'.") from None


def _read(stream: TextIO, lines: queue.Queue[str], stop: Stop, ended: threading.Event) -> None:
    for line in stream:
        if line.strip():
            lines.put(line.strip())
    stop.flag.set()
    if not ended.wait(LAST_SECONDS):  # nobody is left who wants the result
        os._exit(Cancelled.exit_code)
