"""What takes a while on the page of models, in small steps: import by the engine as a child process, verification in a
thread. No GUI: the view asks `step()` by a timer."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from . import process, weights
from .jobs import EngineFailure
from .recovery import Background, Stopped


class Task:
    """doing : what goes on, for the screen. fraction : how far, None where unknown. sentence : what came of it."""

    doing = ""
    fraction: float | None = None
    sentence = ""
    failed = False

    def step(self) -> bool:
        """Look what there is; True when it is over."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Stop, and leave nothing behind."""
        raise NotImplementedError


class Import(Task):
    """A checkpoint, a model folder (or its card) or a zip file on its way into the user's folder."""

    def __init__(self, path: Path) -> None:
        self.doing = _("Importing {file}…").format(file=path.name)
        self._target, self._pid, self._error = weights.user_folder(), 0, None
        self._message = ""
        command = [process.engine_python(), "-m", "diffusion_backend", "models", "import", str(path)]
        self._worker = process.Worker([*command, "--progress", "json"])
        try:
            self._worker.start()
        except OSError as error:
            self._end(_("The engine's Python can't be started: {reason}.").format(reason=error.strerror))

    def step(self) -> bool:
        if self.sentence:
            return True
        code = self._worker.exit_code()
        for event in self._worker.events():
            self._hear(event)
        if code is None:
            return False
        log = list(self._worker.log)
        self._worker.kill()
        if code == 0 and self._message:
            self._end(self._message, failed=False)
        else:
            self._end(self._why(code, log))
        return True

    def cancel(self) -> None:
        self._worker.kill()
        for left in self._target.glob(f".bundle-*.{self._pid}-*") if self._pid else []:
            shutil.rmtree(left, ignore_errors=True)
        self._end(_("The import was cancelled; nothing was changed."), failed=False)

    def _hear(self, event: dict[str, Any]) -> None:
        self._pid = int(event.get("pid", self._pid))
        if event["event"] == "progress":
            self.fraction = event.get("fraction")
        elif event["event"] == "result":
            self._message = str(event.get("message", ""))
        elif event["event"] == "error":
            self._error = EngineFailure(*(str(event.get(key, "")) for key in ("message", "remedy", "kind")))

    def _why(self, code: int, log: list[str]) -> str:
        """The engine's own sentence; one of ours where it had none, or lacks a package."""
        kind, message, remedy = process.describe_end(code, log)
        if self._error and kind != "installation":
            return str(self._error)
        return f"{message} {remedy}"

    def _end(self, sentence: str, failed: bool = True) -> None:
        self.sentence, self.failed = sentence, failed


class Verify(Task):
    """The weights of models against the sha256 on their cards."""

    def __init__(self, models: list[weights.Model]) -> None:
        self._models, self._done = models, 0
        self.doing = _("Reading the weights…")
        self._thread = Background(self._work)

    def step(self) -> bool:
        self.fraction = self._done / max(len(self._models), 1)
        if not self._thread.done:
            return False
        if isinstance(self._thread.error, Stopped):
            self.sentence = _("The verification was cancelled.")
        elif self._thread.error:
            self.sentence, self.failed = str(self._thread.error), True
        elif wrong := [s for model, found in self._thread.result if (s := weights.verdict(model, found))]:
            self.sentence, self.failed = "\n".join(wrong), True
        else:
            text = _("The weights of all {count} models match the sha256 on their cards.")
            self.sentence = text.format(count=len(self._models))
        return True

    def cancel(self) -> None:
        self._thread.stop.set()

    def _work(self, stop: Any) -> list[tuple[weights.Model, str | OSError]]:
        found: list[tuple[weights.Model, str | OSError]] = []
        for model in self._models:
            try:
                found.append((model, weights.digest(model, stop)))
            except OSError as error:
                found.append((model, error))
            self._done += 1
        return found
