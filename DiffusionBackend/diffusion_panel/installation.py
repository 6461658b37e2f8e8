"""Install, repair and remove what the engine needs, in the background. No GUI; `installing` tells why it is done so.

    installation.install(confirm=lambda plan: True)   # returns at once; `finished` is told about the end
"""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from . import process
from .installing import commands, offline, packages, state, torch_extension
from .installing.commands import CPU, GPU, Plan
from .installing.failures import InstallFailure, explain, not_importable
from .installing.state import State
from .jobs import Signal

POLL_MS = 50
ABANDONED_S = 24 * 3600.0  # an unfinished folder of this age isn't being written to by another Slicer any more
VERIFY = ["-m", "diffusion_backend.verify"]
GB = 1e9
Steps = Generator[None, None, Any]


class Installation:
    """The packages of the engine. One operation at a time; `busy` while there is one.

    doing : what goes on, for the screen. fraction : of the present download, None where unknown. failure : why the last
    operation failed, None after a success or a cancel. log : all lines of pip. Signals, without arguments: changed for
    every news, finished at the end of an operation."""

    def __init__(self) -> None:
        self.changed, self.finished = Signal(), Signal()
        self.doing = ""
        self.log: list[str] = []
        self.fraction: float | None = None
        self.failure: InstallFailure | None = None
        self._steps: Steps | None = None
        self._worker: process.Worker | None = None
        self._folder: Path | None = None  # unfinished
        self._stepping = False
        self._timer = qt.QTimer()
        self._timer.setInterval(POLL_MS)
        self._timer.connect("timeout()", self.advance)
        self._at_quit = self.cancel  # one object, so that it can be disconnected
        slicer.app.connect("aboutToQuit()", self._at_quit)

    @property
    def busy(self) -> bool:
        return self._steps is not None

    def folder(self) -> Path:
        """Where our own packages go."""
        return packages.root()

    def state(self) -> State:
        """Whether the engine finds what it needs, read from the metadata of the packages; takes milliseconds."""
        return state.read()

    def flavour(self) -> str:
        """The build of torch that is installed, else the one for this machine, as far as it can be told in no time."""
        known = packages.read_record(packages.current()).get("flavour")
        return known if known in commands.flavours() else default_flavour()

    def offline_list(self) -> str:
        """What to fetch on another computer, as commands, for an installation from a folder."""
        return offline.needed()

    # ---- operations ----

    def install(
        self, flavour: str = CPU, wheels: Path | None = None, *, confirm: Callable[[Plan], bool] = lambda plan: True
    ) -> None:
        """Install from the network, or from a folder of wheels, beside what is there; that is removed afterwards.

        flavour : the build of torch, one of `flavours()`. confirm : is asked on the GUI thread before anything is
        downloaded or changed. Does nothing while an operation goes on."""
        if not self.busy:
            self.log.clear()
            self.failure, self._steps = None, self._install(flavour, wheels, confirm)
            self._timer.start()
            self.changed.emit()

    def repair(self, flavour: str = "", *, confirm: Callable[[Plan], bool] = lambda plan: True) -> None:
        """Install anew from where it was installed; the present installation stays until the new one has proved itself.

        flavour : another build of torch, "" for the same."""
        wheels = packages.read_record(packages.current()).get("wheels")
        self.install(flavour or self.flavour(), Path(wheels) if wheels else None, confirm=confirm)

    def remove(self) -> None:
        """Remove our own packages; never Slicer's. Does nothing while an operation goes on."""
        if not self.busy:
            discard(packages.numbered())
            self.changed.emit()

    def cancel(self) -> None:
        """Stop the operation; what was there before it stays."""
        self._end(None)

    def release(self) -> None:
        """Stop, and listen to nothing any more, such as before the reload of the module."""
        self.cancel()
        slicer.app.disconnect("aboutToQuit()", self._at_quit)

    def advance(self) -> None:
        """One step of the operation."""
        if self._stepping or self._steps is None:  # a question to the user handles events, and these come here
            return
        self._stepping, failure = True, None
        try:
            next(self._steps)
            return
        except StopIteration:
            pass
        except InstallFailure as error:
            failure = error
        except (OSError, ValueError) as error:
            failure = explain([str(error)])
        finally:
            self._stepping = False
        self._end(failure)

    # ---- steps ----

    def _end(self, failure: InstallFailure | None) -> None:
        if self._steps is None:  # it was cancelled while the user was asked
            return
        self._timer.stop()
        self._steps, self.failure = None, failure
        self.doing, self.fraction = "", None
        if self._worker is not None:
            self._worker.kill()
            self._worker = None
        unfinished, self._folder = self._folder, None
        discard([unfinished] if unfinished else [])
        self.changed.emit()
        self.finished.emit()

    def _install(self, flavour: str, wheels: Path | None, confirm: Callable[[Plan], bool]) -> Steps:
        if other_installs():
            message = _("Another extension installs packages at the moment.")
            raise InstallFailure(message, _("Try again when it is done."))
        plan = Plan(flavour, wheels)
        folder = self._folder = packages.new_folder()
        yield from self._plan(plan, folder)
        if not confirm(plan) or not self.busy:
            return
        if plan.by_extension:
            yield from self._torch_by_extension()
        if plan.all():
            yield from self._wheels(plan, folder)
        yield from self._verify(folder)
        record = {"flavour": flavour, "wheels": str(wheels or ""), "time": time.time(), "packages": {
            w.name: w.version for w in plan.all()}}  # fmt: skip
        packages.write_record(folder, record)
        self._folder = None
        now = self.state()
        if not (now.ready or now.restart):
            discard([folder])
            raise InstallFailure(now.sentence, _("See the log, and try again."))
        discard(superseded(folder))

    def _plan(self, plan: Plan, folder: Path) -> Steps:
        """Ask pip what is to be installed. Raises InstallFailure."""
        without_ours = {p.name: p.fits for p in packages.status(None)}
        needed = [r for r in packages.requirements() if not without_ours[r.name]]
        asks_extension = plan.wheels is None and torch_extension.usable()
        plan.by_extension = asks_extension and any(r.name == "torch" for r in needed)
        needed = [r for r in needed if not (plan.by_extension and r.name == "torch")]
        index = ""
        if needed and plan.wheels is None and any(r.name == "torch" for r in needed):
            index = commands.index_of(plan.flavour, (yield from self._driver(plan.flavour)))
        work = _subfolder(folder)
        (work / "constraints.txt").write_text("\n".join(packages.constraints()), encoding="utf-8")
        self._tell(_("Asking pip what is needed…"))
        for options, names in commands.sources(needed, index, plan.wheels):
            asked = commands.plan(options, names, work / "constraints.txt", work / "report.json")
            yield from self._pip(asked, folder, plan)
            known = {w.name for w in plan.all()}
            told = commands.read_report(work / "report.json")
            plan.groups.append((options, [w for w in told if w.name not in known]))
        if slicers := packages.protected(w.name for w in plan.all()):
            message = _("pip would replace '{name}', which Slicer needs as it is; nothing was installed.")
            raise InstallFailure(message.format(name=slicers[0]), _("Update Slicer and this extension, and try again."))
        _check_disk(folder, plan)

    def _driver(self, flavour: str) -> Steps:
        """The number of NVIDIA's driver, None where it isn't asked for or can't be told."""
        program = shutil.which("nvidia-smi")
        if flavour != GPU or program is None:
            return None
        start = len(self.log)
        with suppress(OSError):
            yield from self._run([program, "--query-gpu=driver_version", "--format=csv,noheader"], None)
        return commands.driver_of(self.log[start:])

    def _torch_by_extension(self) -> Steps:
        self._tell(_("The PyTorch extension installs torch. Slicer hardly answers meanwhile; it takes minutes…"))
        for _pause in range(4):  # the screen shows the sentence before the application stops answering
            yield
        torch_extension.install(next(r for r in packages.requirements() if r.name == "torch"))

    def _wheels(self, plan: Plan, folder: Path) -> Steps:
        for options, wheels in plan.groups:
            if wheels:
                self._tell(_("Installing…"))
                yield from self._pip(commands.install(options, wheels, folder), folder, plan)
        shutil.rmtree(_subfolder(folder), ignore_errors=True)
        there = {d.metadata["Name"].lower().replace("_", "-") for d in packages.ours(folder)}
        absent = [w.name for w in plan.all() if w.name.lower().replace("_", "-") not in there]
        if absent or packages.protected(there):
            names = ", ".join(absent or packages.protected(there))
            message = _("pip said that all went well, but it didn't for: {names}.").format(names=names)
            raise InstallFailure(message, _("See the log, and try again."))

    def _verify(self, folder: Path) -> Steps:
        """Have the engine's Python import the packages and compute, as it will for a run."""
        self._tell(_("Trying the packages…"))
        names = [r.name for r in packages.requirements()]
        worker = yield from self._run([process.engine_python(), *VERIFY, *names], process.environment_with(folder))
        last = ([e for e in worker.events() if e["event"] in ("verified", "error")] or [{"event": ""}])[-1]
        if worker.exit_code() or last["event"] != "verified":
            told = last.get("message") or process.describe_end(worker.exit_code() or 0, self.log)[1]
            raise not_importable(str(told))
        self.log += [f"{name}: {reason}" for name, reason in last["wrong"].items() if reason]

    def _pip(self, arguments: list[str], folder: Path, plan: Plan) -> Steps:
        """Run pip without our own packages in sight. Raises InstallFailure where it fails."""
        start = len(self.log)
        around = commands.environment(process.environment_with(None), _subfolder(folder))
        worker = yield from self._run([process.engine_python(), *arguments], around)
        if worker.exit_code():
            raise explain(self.log[start:], from_folder=plan.wheels is not None)

    def _run(self, command: list[str], around: dict[str, str] | None) -> Steps:
        """Run a command to its end; its lines go to the log. Raises OSError where it can't be started."""
        if self._worker is not None:
            self._worker.kill()
        worker = self._worker = process.Worker(command, around, lines=None)
        worker.start()
        while (code := worker.exit_code()) is None or worker.log:
            heard = bool(worker.log)
            while worker.log:
                self._hear(worker.log.popleft())
            if heard:
                self.changed.emit()
            if code is None:
                yield
        return worker

    def _hear(self, line: str) -> None:
        """Take a line of pip: a number of bytes, or something for the log."""
        progress = commands.PROGRESS.match(line)
        if progress:
            done, whole = int(progress[1]), int(progress[2])
            self.fraction = done / whole if whole else None
            return
        self.log.append(line)
        if line.startswith(("Collecting ", "Downloading ", "Processing ")):
            self.doing, self.fraction = re.sub(r"\S*[/\\]", "", line), None
        elif line.startswith("Installing "):
            self.doing, self.fraction = _("Unpacking…"), None

    def _tell(self, what: str) -> None:
        self.doing, self.fraction = what, None
        self.changed.emit()


def default_flavour() -> str:
    """The build of torch for this machine, as far as can be told without running anything."""
    return GPU if GPU in commands.flavours() and shutil.which("nvidia-smi") else CPU


def other_installs() -> bool:
    """Whether another extension installs packages through Slicer (5.12 and newer can tell)."""
    try:
        from slicer import packaging
    except ImportError:
        return False
    return bool(packaging.isPipInstallInProgress())


def superseded(folder: Path) -> list[Path]:
    """Installations that a new one replaces, and unfinished ones that nobody works on any more."""
    older = [p for p in packages.numbered() if int(p.name) < int(folder.name)]
    return [p for p in older if (p / packages.RECORD).is_file() or time.time() - p.stat().st_mtime > ABANDONED_S]


def discard(folders: list[Path]) -> None:
    """Remove installations: they stop to count at once, their files go in the background. What another program holds
    open stays, and is tried again after the next installation."""
    for folder in folders:
        (folder / packages.RECORD).unlink(missing_ok=True)
    if folders:
        threading.Thread(target=_remove, args=(list(folders),), daemon=True).start()


def _remove(folders: list[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _subfolder(folder: Path) -> Path:
    """pip's temporary folder, part of the unfinished installation; the short name keeps paths short."""
    work = folder / "t"
    work.mkdir(exist_ok=True)
    return work


def _check_disk(folder: Path, plan: Plan) -> None:
    """Refuse an installation that can't fit. Raises InstallFailure."""
    sizes = [w.size for w in plan.all() if w.name == "torch"]
    if not sizes:
        return
    needed = 3 * sizes[0] / GB if sizes[0] else commands.DISK_GB[plan.flavour]  # packed, and unpacked twice as large
    free = shutil.disk_usage(folder).free / GB
    if free < needed:
        message = _("{needed} GB of disk space are needed in {folder}, but {free} GB are free.")
        told = message.format(needed=f"{needed:.1f}", free=f"{free:.1f}", folder=folder.parent)
        raise InstallFailure(told, _("Free some space, and try again."))
