"""Many studies: each is one run, several at once in warm processes, or on an existing Dask cluster. What is done is
never done again, whatever ended the batch; `summary.csv` has one row for each study at any time."""

from __future__ import annotations

import argparse
import csv
import os
import re
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from . import __version__, children, methods, studies
from .commands import run_arguments
from .done import finished, request_key
from .errors import Cancelled, EngineError, InputError
from .events import JsonLines, Report, Stop, duration, guarded
from .io.folders import TEMPORARY, locked, tidy, write_text
from .params import pairs, validate

Row = dict[str, Any]
METRICS = ("rmse", "mae", "bias", "psnr_db", "ssim")
COLUMNS = ("id", "status", "exit_code", "seconds", "message", "domain", *METRICS)
LOCK = ".batch.lock"
POLL_SECONDS = 0.2
LAST_SECONDS = 15.0  # how long studies may take to end when the batch is stopped
_stopped: set[str] = set()  # batches that were stopped, in this process: the runner or a worker of a cluster


def main(arguments: argparse.Namespace) -> int:
    """The command `batch`. Exit code 0 when every study is done, else that of the first that failed."""
    report, stop = (_told_lines if arguments.progress == "json" else tell), Stop()
    stop.on_signals()
    if arguments.parent_pipe:
        stop.on_end_of(sys.stdin)
    codes: list[int] = []
    code = guarded(lambda: codes.extend(run_list(arguments, report, stop)), report)
    return code or next((c for c in codes if c), 0)


def tell(event: Row) -> None:
    """An event in words, for a person; progress inside a study is left out."""
    text = in_words(event)
    if text:
        print(text, flush=True)


def _told_lines(event: Row) -> None:
    """An event as a JSON line that also has its words."""
    text = in_words(event)
    JsonLines(sys.stdout)(event | ({"text": text} if text else {}))


def in_words(event: Row) -> str:
    """One line, or "" for what no person waits for."""
    kind, study = event["event"], event.get("study", "")
    if kind == "study":
        left = "" if event["eta_s"] is None else f" About {duration(event['eta_s'])} left."
        word = "done already" if event["already"] else event["status"]
        return f"{event['done']}/{event['studies']} {study}: {word}. {event['message']}".rstrip() + left
    if kind == "warning":
        return f"{study}: Warning: {event['message']}"
    if kind in ("error", "result") and not study:
        return " ".join(t for t in (event["message"], event.get("remedy", "")) if t)
    return ""


def run_list(a: argparse.Namespace, report: Report, stop: Callable[[], bool]) -> list[int]:
    """Run every study that isn't done. Returns the exit codes in the order of the list. Raises InputError before
    anything runs, and Cancelled when `stop` said so: finished studies stay."""
    if not a.method:
        raise InputError("No method is given. Name one with --method.")
    if getattr(a, "told_method", a.method) != a.method:
        raise InputError(f"The parameters are those of the method {a.told_method}, but {a.method} is asked for.")
    given = studies.read(a.list, a.method, a.output)
    validate(methods.load(a.method).METHOD.parameters, pairs(a.settings, "--set"))
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(a.output.absolute() / LOCK, lambda: True))
        except Cancelled:
            raise InputError(f"Another batch works in '{a.output}'. Wait for its end, or end it.") from None
        stack.callback(tidy, a.output, TEMPORARY)
        rows = _run_all(given, a, report, stop)
    if stop():
        raise Cancelled("The batch was stopped; finished studies stay, the same command goes on from there.")
    message = f"{sum(r['status'] == 'done' for r in rows)} of {len(rows)} studies are done: {a.output}"
    report({"event": "result", "folder": str(a.output), "message": message})
    return [row["exit_code"] for row in rows]


def _run_all(given: list[dict[str, str]], a: argparse.Namespace, report: Report, stop: Callable[[], bool]) -> list[Row]:
    """The rows of the summary, in the order of the list; the file is renewed with every study that ends."""
    rows: dict[str, Row] = {study["id"]: {"id": study["id"], "status": "waiting"} for study in given}
    summary = a.output / studies.SUMMARY
    count = Countdown(given, a.output, report)
    todo = []
    for study in given:
        words = command(study, a)
        row = done_row(words)
        if row:
            rows[study["id"]] = row
            count.ended(row, already=True)
        else:
            todo.append((study["id"], words))
    write_summary(summary, list(rows.values()))
    for study, row in outcomes(todo, a, report, stop) if todo else ():
        rows[study] = row | {"message": nameless(row["message"], count.given[study])} if "message" in row else row
        write_summary(summary, list(rows.values()))
        count.ended(row)
    return list(rows.values())


def nameless(message: str, study: dict[str, str]) -> str:
    """A sentence without paths and without the names of the study's files: they may be those of a patient."""
    for name, value in study.items():
        if name != "id" and Path(value).name:
            message = message.replace(value, f"<{name}>").replace(f"'{Path(value).name}'", f"<{name}>")
    return re.sub(r"'[^']*[/\\][^']*'", "<path>", message)


class Countdown:
    """Tells of each study that has ended, and how long the rest will take."""

    def __init__(self, given: list[dict[str, str]], output: Path, report: Report) -> None:
        self.given, self.output, self.report = {study["id"]: study for study in given}, output, report
        self.done = self.computed = 0
        self.start = time.perf_counter()

    def ended(self, row: Row, already: bool = False) -> None:
        if row["status"] == "waiting":
            return
        self.done += 1
        self.computed += not already
        left, study = len(self.given) - self.done, row["id"]
        eta = (time.perf_counter() - self.start) / self.computed * left if self.computed and left else None
        told = {key: row[key] for key in ("status", "exit_code", "message")}
        place = {"inputs": self.given[study], "folder": str(self.output.absolute() / study), "already": already}
        count = {"done": self.done, "studies": len(self.given), "eta_s": eta}
        self.report({"event": "study", "study": study} | told | place | count)


def command(study: dict[str, str], a: argparse.Namespace) -> list[str]:
    """The words of the command `run` for one study."""
    words = [a.method, "--output", str(a.output.absolute() / study["id"]), "--once", "--progress", "json"]
    common = {"reference": str(a.reference.absolute())} if a.reference else {}
    for name, value in (common | study).items():
        if name == "reference":
            words += ["--reference", value]
        elif name != "id":
            words += ["--input", f"{name}={value}"]
    for option in ("samples", "seed", "device", "preset", "format", "threads", "batch"):
        if getattr(a, option) is not None:
            words += [f"--{option}", str(getattr(a, option))]
    for option, values in (("--set", a.settings), ("--model", a.model)):
        words += [word for value in values for word in (option, value)]
    return words


def run_study(words: list[str], batch: str, version: str, slots: int, hear: Report = lambda event: None) -> Row:
    """Run one study, here or on a worker of a cluster; returns its row of the summary.

    slots : studies at once on this computer. version : of the package where the batch was started."""
    study = Path(words[words.index("--output") + 1]).name
    if version != __version__:
        return failed(study, f"The worker has version {__version__}, the batch {version}. Install the same on both.")
    if batch in _stopped:
        return {"id": study, "status": "waiting"}
    start, last = time.perf_counter(), {}

    def listen(event: Row) -> None:
        last.update(event if event["event"] == "error" else {})
        hear(event | {"study": study})

    with children.child(max(1, _processors() // max(slots, 1))) as child:
        code = child.run(words, listen, lambda: batch in _stopped)
    row = done_row(words) if code == 0 else None
    if row:
        return row
    status = "cancelled" if code == Cancelled.exit_code else "failed"
    message = " ".join(last.get(k, "") for k in ("message", "remedy")).strip()
    return failed(study, message, code or 1, status) | {"seconds": round(time.perf_counter() - start, 1)}


def halt(batch: str) -> None:
    """Stop the studies of a batch in this process, those that run and those that wait."""
    _stopped.add(batch)


def outcomes(
    todo: list[tuple[str, list[str]]], a: argparse.Namespace, report: Report, stop: Callable[[], bool]
) -> Iterator[tuple[str, Row]]:
    """(id, row) in the order in which studies end; a stop ends those that run within seconds."""
    batch, halted = uuid.uuid4().hex, 0.0
    with _place(a, batch, report) as (submit, halt_all):
        futures = {submit(words, batch, __version__): study for study, words in todo}
        pending = set(futures)
        while pending and not (halted and time.monotonic() - halted > LAST_SECONDS):
            ended, pending = wait(pending, POLL_SECONDS, FIRST_COMPLETED)
            yield from ((futures[one], _outcome(futures[one], one)) for one in ended)
            if stop() and not halted:
                halted = time.monotonic()
                halt_all()


@contextmanager
def _place(a: argparse.Namespace, batch: str, report: Report) -> Iterator[tuple[Callable[..., Future], Callable]]:
    """Where studies run: a function that starts one, and one that stops all."""
    if a.scheduler:
        from .cluster import connected

        with connected(a.scheduler, batch) as place:
            yield place
        return
    jobs = max(a.jobs, 1)
    with ThreadPoolExecutor(jobs) as pool:
        try:
            yield lambda *study: pool.submit(run_study, *study, jobs, report), lambda: halt(batch)
        finally:
            halt(batch)  # a second Ctrl-C


def _outcome(study: str, future: Future) -> Row:
    try:
        return future.result()
    except CancelledError:
        return failed(study, "The cluster's scheduler was lost. Run the same command again when it is back.")
    except EngineError as error:
        return failed(study, str(error), error.exit_code)
    except Exception as error:  # of the cluster: its own kinds, which may not be importable here
        return failed(study, f"The study couldn't be run ({type(error).__name__}: {error}).")


def failed(study: str, message: str, code: int = 1, status: str = "failed") -> Row:
    """The row of a study without result."""
    return {"id": study, "status": status, "exit_code": code, "seconds": 0.0, "message": message}


def done_row(words: list[str]) -> Row | None:
    """The row of a study whose folder holds the result of these words; None where it doesn't."""
    arguments = run_arguments(words)
    folder: Path = arguments.output
    record = finished(folder, request_key(arguments))
    if record is None:
        return None
    row = {"id": folder.name, "status": "done", "exit_code": 0, "message": "", "domain": record["domain"]}
    return row | {"seconds": round(record["timings"]["total"], 1)} | _metrics(folder, record)


def write_summary(path: Path, rows: list[Row]) -> None:
    """One line a study."""
    lines = [",".join(COLUMNS)]
    for row in rows:
        cells = [str(row.get(c, "")) for c in COLUMNS]
        lines.append(",".join('"' + c.replace('"', '""') + '"' if set(c) & set(',"\n') else c for c in cells))
    write_text(path, "\n".join(lines) + "\n")


def _metrics(folder: Path, record: Row) -> Row:
    """Those of the first output, over all slices."""
    if "metrics" not in record["outputs"]:
        return {}
    first = next(iter(record["outputs"]))
    with (folder / record["outputs"]["metrics"]["file"]).open(newline="", encoding="utf-8") as stream:
        overall = next((r for r in csv.DictReader(stream) if r["image"] == first and r["slice"] == "all"), {})
    return {name: overall.get(name, "") for name in METRICS}


def _processors() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
