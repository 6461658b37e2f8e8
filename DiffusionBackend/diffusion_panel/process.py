"""The engine as a child process that stays warm: job folders in, events out, and its whole tree ended on demand."""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import slicer
from slicer.i18n import tr as _

from . import weights
from .declarations import PACKAGES, resource
from .installing import packages

LOG_LINES = 200
LINE_BYTES = 1 << 20  # a longer line is taken in pieces: no output can fill the memory
KILL_SECONDS = 1.0  # how long the system may take to end a killed process
EVENT = '{"event"'
IMPORT = re.compile(r"^\s*(?:import|from) (torch|numpy|scipy|SimpleITK|safetensors)\b", re.MULTILINE)
CHOSEN = ("PYTHONPATH", weights.VARIABLE)  # variables that settings of the panel change
KINDS = {1: "internal", 2: "input", 3: "model", 4: "memory", 5: "cancelled"}


class Worker:
    """One engine process `command` in a process group of its own; started at the first job, ended by `kill`.

    `log` holds the last lines that it wrote beside its events, `lines` at most (None = all)."""

    def __init__(
        self,
        command: list[str] | None = None,
        environment: dict[str, str] | None = None,
        lines: int | None = LOG_LINES,
    ) -> None:
        self._command, self._environment = command, environment
        self._process: subprocess.Popen[bytes] | None = None
        self._settings: list[str] = []  # of the process
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        self._readers: list[threading.Thread] = []
        self._ended_at: float | None = None
        self.log: deque[str] = deque(maxlen=lines)
        self.ready = False

    @property
    def pid(self) -> int | None:
        """Process id, also the id of its group; None when nothing runs."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the process unless it runs; one that other settings have started is replaced. Raises OSError when the
        interpreter can't be started."""
        command = self._command or [engine_python(), "-m", "diffusion_backend", "worker"]
        around = self._environment or environment()
        settings = [*command, *(around.get(key, "") for key in CHOSEN)]
        if self._process and self._process.poll() is None and settings == self._settings:
            return
        self.kill()
        self._settings = settings
        apart: dict[str, Any] = {"start_new_session": True}
        if os.name == "nt":
            apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}  # type: ignore
        self._events, self.ready, self._ended_at = queue.Queue(), False, None
        self.log.clear()
        pipe = subprocess.PIPE
        process: Any = subprocess.Popen(
            command, cwd=PACKAGES, env=around, stdin=pipe, stdout=pipe, stderr=pipe, **apart
        )
        self._process = process
        self._readers = [
            threading.Thread(target=self._read, args=(stream, self._events), daemon=True)
            for stream in (process.stdout, process.stderr)
        ]
        for reader in self._readers:
            reader.start()

    def send(self, folder: Path) -> None:
        """Hand over a job folder; a process that is gone shows itself by `exit_code`."""
        assert self._process and self._process.stdin
        with suppress(OSError):
            self._process.stdin.write(os.fsencode(f"{folder}\n"))  # bytes of a path that are no text, too
            self._process.stdin.flush()

    def events(self) -> list[dict[str, Any]]:
        """The events since the last call, in order."""
        found: list[dict[str, Any]] = []
        while True:
            try:
                event = self._events.get_nowait()
            except queue.Empty:
                return found
            self.ready |= event["event"] == "ready"
            found.append(event)

    def exit_code(self) -> int | None:
        """How the process ended, once all that it wrote has been read; None while it runs or none was started.

        A grandchild may hold the pipes open, therefore the readers are waited for only a moment."""
        if self._process is None or self._process.poll() is None:
            return None
        self._ended_at = self._ended_at or time.monotonic()
        reading = any(reader.is_alive() for reader in self._readers)
        if reading and time.monotonic() - self._ended_at < KILL_SECONDS:
            return None
        return self._process.returncode

    def kill(self) -> None:
        """End the process and all that it started; nothing happens when none runs."""
        process, self._process = self._process, None
        self.ready = False
        if process is None:
            return
        end_tree(process)
        for stream in (process.stdin, process.stdout, process.stderr):
            self._close(stream)

    def _close(self, stream: Any) -> None:
        """Close a pipe, unless a reader still sits in it (it would wait for a grandchild that has left the group)."""
        for reader in self._readers:
            reader.join(KILL_SECONDS / 10)
        if stream and not (stream.readable() and any(reader.is_alive() for reader in self._readers)):
            with suppress(OSError):  # the flush of a broken pipe
                stream.close()

    def _read(self, stream: BinaryIO, events: queue.Queue[dict[str, Any]]) -> None:
        """Sort lines of any bytes into events and log."""
        try:
            for raw in iter(lambda: stream.readline(LINE_BYTES), b""):
                found, rest = parse(raw.decode("utf-8", errors="replace"))
                for event in found:
                    events.put(event)
                if rest:
                    self.log.append(rest)
        except (OSError, ValueError):  # closed while reading
            pass


def parse(line: str) -> tuple[list[dict[str, Any]], str]:
    """The events in a line and what else it holds: a library may print in front of an event without a line end."""
    events, rest = [], ""
    while EVENT in line:
        before, at = line[: line.index(EVENT)], line.index(EVENT)
        try:
            event, end = json.JSONDecoder().raw_decode(line[at:])
        except (ValueError, RecursionError):
            break
        rest, line = rest + before, line[at + end :]
        events.append(event)
    return events, (rest + line).strip()


def end_tree(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a group, and the group."""
    if os.name == "nt":
        subprocess.run(["taskkill", "/T", "/F", "/PID", str(process.pid)], capture_output=True, check=False)
    else:
        with suppress(ProcessLookupError, PermissionError):  # all are gone (macOS: not permitted for zombies)
            os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):  # stuck in the system, for example on a dead network drive
        process.wait(KILL_SECONDS)


def engine_python() -> str:
    """The interpreter of the engine: the setting, the environment's choice, Slicer's own, this one."""
    return chosen_python() or shutil.which("PythonSlicer") or sys.executable


def chosen_python() -> str:
    """An interpreter outside Slicer that the user has chosen, or ""."""
    setting = slicer.app.userSettings().value("DiffusionModels/EnginePython")
    return setting or os.environ.get("DIFFUSIONMODELS_PYTHON", "")


def environment() -> dict[str, str]:
    """Environment of the engine: Slicer's own with the packages that were installed for the engine, or for a chosen
    interpreter the one in which Slicer was started."""
    return environment_with(packages.current())


def environment_with(own: Path | None) -> dict[str, str]:
    """The same with another installation of our own, or with none. It stands before Slicer's packages, for it holds
    nothing but what these lack; proxies and the like stay as they are."""
    chosen = bool(chosen_python())
    base = dict(slicer.util.startupEnvironment()) if chosen else dict(os.environ)
    paths = [str(PACKAGES), *([] if chosen else [str(own or ""), base.get("PYTHONPATH", "")])]
    base |= {
        "PYTHONPATH": os.pathsep.join(p for p in paths if p),
        "PYTHONIOENCODING": "utf-8",
        "PYTHONUNBUFFERED": "1",
    }
    base[weights.VARIABLE] = str(weights.user_folder())
    base.setdefault("DIFFUSIONMODELS_RESOURCES", str(resource("methods.json").parent))
    return base


def describe_end(code: int, log: list[str]) -> tuple[str, str, str]:
    """(kind, message, remedy) for a process that ended without saying why; `log` are its last lines."""
    missing = re.search(r"No module named '([\w.]+)'", "\n".join(log[-20:]))
    if missing:
        message = _("The engine can't start: its Python lacks the package '{name}'.").format(name=missing[1])
        return "installation", message, _("Press 'Install…' or 'Repair…' in the section 'Engine' of the panel.")
    broken = IMPORT.search("\n".join(log))
    if broken and re.match(r"[\w.]*(Error|Exception)\b", log[-1]):
        message = _("The engine can't start: its package '{name}' can't be imported ({reason}).")
        told = message.format(name=broken[1], reason=log[-1][:300])
        return "installation", told, _("Press 'Repair…' in the section 'Engine' of the panel.")
    if code == -9 or (os.name == "nt" and code == 1 and not log):
        message = _("The engine was ended by the system, probably because memory ran out.")
        return "memory", message, _("Crop the volume, choose a smaller batch or close other programs.")
    last = _(" Its last words: {line}").format(line=log[-1][:300]) if log else ""
    if code < 0:
        message = _("The engine was ended by signal {number}.").format(number=-code)
    else:
        message = _("The engine ended unexpectedly with exit code {code}.").format(code=code)
    return KINDS.get(code, "internal"), message + last, _("Try again; if it happens again, copy the report.")
