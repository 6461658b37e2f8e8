"""Many studies: one row of a CSV is one run in a process of its own, resumable, several at once or on an existing
Dask cluster."""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from . import methods
from .errors import Cancelled, InputError
from .events import Bar, Stop, guarded
from .io.folders import write_text

COLUMNS = ("id", "status", "exit_code", "seconds", "message", "domain", "rmse", "mae", "bias", "psnr_db", "ssim")
KEY = "batch.json"
POLL_SECONDS = 0.2


def main(arguments: argparse.Namespace) -> int:
    """The command `batch`. Exit code 0 when every study is done, else that of the first that failed."""
    report, stop = Bar(sys.stdout), Stop()
    stop.on_signals()
    codes: list[int] = []
    code = guarded(lambda: codes.extend(run_list(arguments, lambda text: print(text, flush=True), stop)), report)
    return code or next((c for c in codes if c), 0)


def run_list(arguments: argparse.Namespace, say: Callable[[str], None], stop: Callable[[], bool]) -> list[int]:
    """Run every row that isn't done; writes `summary.csv` after each. Returns the exit codes in the order of the
    list."""
    rows = read_list(arguments.list, arguments.method)
    arguments.output.mkdir(parents=True, exist_ok=True)
    commands = {row["id"]: command(row, arguments) for row in rows}
    done: dict[str, dict[str, Any]] = {}
    for study, outcome in _outcomes(commands, arguments, stop):
        done[study] = outcome
        say(f"{len(done)}/{len(rows)} {study}: {outcome['status']}. {outcome['message']}".rstrip())
        write_summary(arguments.output / "summary.csv", [done[r["id"]] for r in rows if r["id"] in done])
    if stop():
        raise Cancelled("The batch was stopped; finished studies stay, the same command goes on from there.")
    return [done[row["id"]]["exit_code"] for row in rows]


def read_list(path: Path, method_id: str) -> list[dict[str, str]]:
    """The rows of the list; paths are relative to the list's folder. Raises InputError for a wrong column or id."""
    names = [i.name for i in methods.load(method_id).METHOD.inputs]
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns, rows = list(reader.fieldnames or ()), [dict(row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"The list '{path}' can't be read as CSV ({error}).") from None
    wrong = [c for c in columns if c not in ("id", "reference", *names)]
    if "id" not in columns or wrong or not rows:
        found = ", ".join(columns) or "none"
        raise InputError(
            f"The list '{path.name}' has the columns {found}; needed are id and inputs of {method_id}: "
            f"{', '.join(names)}."
        )
    ids = [row["id"] or "" for row in rows]
    for study in ids:
        if not re.fullmatch(r"[\w][\w .-]*", study) or ids.count(study) > 1:
            raise InputError(
                f"The id '{study}' in '{path.name}' is empty, repeated or no name for a folder (letters, "
                "digits, space . - _)."
            )
    texts = {i.name for i in methods.load(method_id).METHOD.inputs if i.kind == "text"}
    base = path.absolute().parent
    return [{k: v if k == "id" or k in texts else str(base / v) for k, v in row.items() if v} for row in rows]


def command(row: Mapping[str, str], a: argparse.Namespace) -> list[str]:
    """The `run` command of one study."""
    line = [
        sys.executable,
        "-m",
        __package__ or "diffusion_backend",
        "run",
        a.method,
        "--output",
        str(a.output.absolute() / row["id"]),
    ]
    for name, value in row.items():
        if name == "reference":
            line += ["--reference", value]
        elif name != "id":
            line += ["--input", f"{name}={value}"]
    line += [
        "--samples",
        str(a.samples),
        "--seed",
        str(a.seed),
        "--device",
        a.device,
        "--preset",
        a.preset,
        "--format",
        a.format,
    ]
    threads = a.threads or max(1, (os.cpu_count() or 1) // max(a.jobs, 1))
    line += ["--threads", str(threads), "--progress", "json"]
    line += ["--batch", str(a.batch)] if a.batch else []
    for option, values in (("--set", a.settings), ("--model", a.model)):
        for value in values:
            line += [option, value]
    return line


def run_study(line: list[str], stop: Callable[[], bool] = lambda: False) -> dict[str, Any]:
    """Run one study unless its folder already holds the result of the same command; returns its row of the summary."""
    folder = Path(line[line.index("--output") + 1])
    key = hashlib.sha256(json.dumps(line[1:]).encode()).hexdigest()
    if _same_command(folder, key):
        return _row(folder, "already done", 0, 0.0, "")
    start = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    lines = _lines_until_end(process, stop)
    seconds = time.perf_counter() - start
    if process.returncode == 0:
        write_text(folder / KEY, json.dumps({"command_sha256": key}))
        return _row(folder, "done", 0, seconds, "")
    message = next(
        (e["message"] for e in reversed(lines) if e.get("event") == "error"), "The process ended without a message."
    )
    status = "cancelled" if process.returncode == Cancelled.exit_code else "failed"
    return _row(folder, status, process.returncode, seconds, message)


def write_summary(path: Path, rows: list[dict[str, Any]]) -> None:
    """One line a study."""
    lines = [",".join(COLUMNS)]
    for row in rows:
        cells = [str(row.get(c, "")) for c in COLUMNS]
        lines.append(",".join('"' + c.replace('"', '""') + '"' if set(c) & set(',"\n') else c for c in cells))
    write_text(path, "\n".join(lines) + "\n")


def _outcomes(
    commands: Mapping[str, list[str]], a: argparse.Namespace, stop: Callable[[], bool]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(id, row) in the order in which studies end."""
    if a.scheduler:
        yield from _on_cluster(commands, a.scheduler)
        return
    with ThreadPoolExecutor(max(a.jobs, 1)) as pool:
        futures = {pool.submit(run_study, line, stop): study for study, line in commands.items()}
        for future in as_completed(futures):
            if stop():
                pool.shutdown(cancel_futures=True)
                return
            yield futures[future], future.result()


def _on_cluster(commands: Mapping[str, list[str]], scheduler: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        from dask.distributed import Client
        from dask.distributed import as_completed as finished
    except ImportError:
        raise InputError(
            "--scheduler needs the package dask[distributed]. Install it or leave the option out."
        ) from None
    with Client(scheduler) as client:
        futures = {client.submit(run_study, line, pure=False): study for study, line in commands.items()}
        for future in finished(list(futures)):
            yield futures[future], future.result()


def _lines_until_end(process: subprocess.Popen[str], stop: Callable[[], bool]) -> list[dict[str, Any]]:
    """The events of a process; the process is asked to end when `stop` says so."""
    from threading import Thread

    lines: list[dict[str, Any]] = []

    def read() -> None:
        for text in process.stdout or ():
            if '"event": "error"' in text:
                lines.append(json.loads(text))

    reader = Thread(target=read, daemon=True)
    reader.start()
    while process.poll() is None:
        if stop():
            process.terminate()
        time.sleep(POLL_SECONDS)
    reader.join()
    return lines


def _same_command(folder: Path, key: str) -> bool:
    try:
        return json.loads((folder / KEY).read_text())["command_sha256"] == key and (folder / "result.json").exists()
    except (OSError, ValueError, KeyError):
        return False


def _row(folder: Path, status: str, code: int, seconds: float, message: str) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": folder.name,
        "status": status,
        "exit_code": code,
        "seconds": round(seconds, 1),
        "message": message,
    }
    if code:
        return row
    record = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    row["domain"] = record["domain"]
    metrics = folder / "metrics.csv"
    if metrics.exists():
        first = next(iter(record["outputs"]))
        with metrics.open(newline="", encoding="utf-8") as stream:
            overall = next((r for r in csv.DictReader(stream) if r["image"] == first and r["slice"] == "all"), {})
        row |= {k: overall.get(k, "") for k in ("rmse", "mae", "bias", "psnr_db", "ssim")}
    return row
