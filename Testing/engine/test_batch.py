"""Many studies: killed and gone on with, several at once, what counts as done, failures, stop."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import head
import psutil
import pytest
from batches import QUICK, Runner, check, corrected, environment, right, stamps, summary, until, volumes

from diffusion_backend import batch, children, worker
from diffusion_backend.__main__ import main
from diffusion_backend.commands import run_arguments
from diffusion_backend.done import finished, request_key
from diffusion_backend.errors import Cancelled
from diffusion_backend.io.folders import TEMPORARY, locked, temporary, tidy


@pytest.fixture(autouse=True)
def signals():
    kept = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGINT, kept[0])
    signal.signal(signal.SIGTERM, kept[1])


def write_list(folder, *rows, method="li"):
    with open(folder / "list.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return ["batch", str(folder / "list.csv"), "--method", method, "--output", str(folder / "out"), *QUICK]


def test_twenty_studies_killed_three_times_are_right_in_the_end(tmp_path):
    """At random points: twice with all that runs, once the runner alone, whose child is left behind."""
    seed = int(os.environ.get("BATCH_SEED", random.SystemRandom().randrange(10**6)))
    chance, out, kept = random.Random(seed), tmp_path / "out", {}
    expected = right(volumes(tmp_path / "in", 20))
    arguments = (tmp_path / "in", "--method", "li", "--output", out, *QUICK)
    for with_children in chance.sample([True, True, False], 3):
        runner = Runner(*arguments)
        runner.computed(chance.randint(1, 4))
        for _ in range(chance.randint(0, 9)):
            runner.next()
        runner.kill(with_children)
        kept = stamps(out) | kept
        names = [row["id"] for row in summary(out)]
        assert names == list(expected), f"BATCH_SEED={seed}"
    last = Runner(*arguments)
    assert last.end() == 0, f"BATCH_SEED={seed}"
    check(out, expected, kept, f"BATCH_SEED={seed}")
    assert last.seen[-1]["event"] == "result" and len(kept) >= 3


def test_two_at_once_with_references_and_a_change_of_settings_runs_again(tmp_path, capsys):
    head.write(tmp_path / "ü 1.nrrd", head.hu())
    head.write(tmp_path / "true.nrrd", head.hu(metal=False))
    arguments = write_list(tmp_path, ("id", "ct", "reference"), ("b", "ü 1.nrrd", "true.nrrd"), ("a ä", "ü 1.nrrd", ""))
    assert main([*arguments, "--jobs", "2"]) == 0
    out = tmp_path / "out"
    rows, made = summary(out), stamps(out)
    assert [(r["id"], r["status"]) for r in rows] == [("b", "done"), ("a ä", "done")]
    assert 0 < float(rows[0]["rmse"]) < 200 and rows[1]["rmse"] == "" and rows[0]["domain"] == "ok"
    assert " left." in capsys.readouterr().out
    assert main(arguments) == 0
    assert summary(out) == rows and stamps(out) == made
    assert "done already" in capsys.readouterr().out
    assert main([*arguments, "--set", "trace_dilation=2"]) == 0
    again = stamps(out)
    assert all(again[n] != made[n] for n in made)


def words(folder, *more):
    return ["li", "--input", f"ct={folder / 'h.nrrd'}", "--output", str(folder / "out"), *QUICK, "--once", *more]


def test_what_counts_as_done(tmp_path, capsys):
    """The same command on the same inputs, complete: otherwise it is done again, whatever was changed."""
    source = head.write(tmp_path / "h.nrrd", head.hu())
    out = tmp_path / "out"

    def ran() -> bool:
        before = stamps(tmp_path)
        assert main(["run", *words(tmp_path)]) == 0, capsys.readouterr().out
        return stamps(tmp_path) != before

    assert ran() and not ran()
    (out / "corrected.nrrd").unlink()
    assert ran() and not ran()
    (out / "result.json").rename(out / "other.json")
    assert ran() and not ran()
    head.write(source, head.hu(top=5000.0))
    assert ran() and not ran()
    size, times = source.stat().st_size, source.stat().st_mtime_ns
    os.utime(source, ns=(times, times + 1))
    assert source.stat().st_size == size and ran() and not ran()
    record = json.loads((out / "result.json").read_text())
    (out / "result.json").write_text(json.dumps(record | {"key": "0" * 64}))
    assert ran()
    assert "h.nrrd" not in (out / "result.json").read_text()


def test_the_key_covers_what_decides_the_result(tmp_path, monkeypatch):
    head.write(tmp_path / "h.nrrd", head.hu())
    (tmp_path / "h.raw").write_bytes(b"1")

    def key(*more):
        return request_key(run_arguments(words(tmp_path, *more)))

    first = key()
    for change in ("--seed=1", "--samples=2", "--format=mha", "--preset=quick", "--set=views=90", "--device=cpu"):
        assert key(change) != first, change
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log.txt").touch()
    assert key("--progress=json") == first, "neither the way of telling nor the working folder counts"
    nameless = [w.removeprefix("ct=") for w in words(tmp_path)]
    unnamed = request_key(run_arguments(nameless))
    os.utime(tmp_path / "h.nrrd", ns=(1, 1))
    assert request_key(run_arguments(nameless)) != unnamed and key() != first
    first = key()
    truth = head.write(tmp_path / "truth.nrrd", head.hu(metal=False))
    with_truth = key(f"--reference={truth}")
    os.utime(truth, ns=(1, 1))
    assert len({first, with_truth, key(f"--reference={truth}")}) == 3
    (tmp_path / "h.raw").write_bytes(b"12")  # the voxels of a header
    assert key() != first
    changed = key()
    (tmp_path / "h 2.raw").write_bytes(b"")  # of another header
    assert key() == changed
    prior = request_key(run_arguments(["a11", *words(tmp_path)[1:]]))
    monkeypatch.setattr("diffusion_backend.models.read_card", lambda folder: {"sha256": "other weights"})
    assert request_key(run_arguments(["a11", *words(tmp_path)[1:]])) != prior


def test_a_result_is_gone_before_another_replaces_it(tmp_path, monkeypatch):
    """Killed while files are moved: no `result.json` of the former run stands beside files of the next."""
    from diffusion_backend.io import folders

    (tmp_path / "new").mkdir()
    for name in ("a", "result.json"):
        (tmp_path / "new" / name).write_text("new")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "result.json").write_text("old")
    real = os.replace

    def killed(source, target):
        real(source, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(folders.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        folders.move_files(tmp_path / "new", tmp_path / "out", last="result.json")
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["a"]
    assert finished(tmp_path / "out", "") is None


@pytest.mark.parametrize(
    "rows,words",
    [
        ([("ct",), ("h.nrrd",)], "needed are id and inputs of li: ct, sinogram, metal"),
        ([("id", "mr"), ("a", "h.nrrd")], "id, mr"),
        ([("id", "ct"), ("a", "h.nrrd"), ("a", "h.nrrd")], "The id 'a'"),
        ([("id", "ct"), ("a", "h.nrrd"), ("A", "h.nrrd")], "The id 'a'"),
        ([("id", "ct"), ("../a", "h.nrrd")], "The id '../a'"),
        ([("id", "ct"), ("summary.csv", "h.nrrd")], "The id 'summary.csv'"),
        ([("id", "ct"), ("a.", "h.nrrd")], "The id 'a.'"),
        ([("id", "ct"), ("", "h.nrrd")], "The id ''"),
        ([("id", "ct"), ("a", "h.nrrd", "more")], "Line 2"),
        ([("id", "ct")], "needed are"),
    ],
)
def test_wrong_lists_are_refused_before_anything_runs(tmp_path, capsys, rows, words):
    assert main(write_list(tmp_path, *rows)) == 2
    assert words in capsys.readouterr().out
    assert [f.name for f in tmp_path.iterdir()] == ["list.csv"]


def test_wrong_settings_are_refused_before_anything_runs(tmp_path, capsys):
    arguments = write_list(tmp_path, ("id", "ct"), ("a", "h.nrrd"))
    for more, sentence in ((("--set", "vews=1"), "did you mean 'views'"), (("--method", "ly"), "no method 'ly'")):
        assert main([*arguments, *more]) == 2
        assert sentence in capsys.readouterr().out
    assert main(["batch", arguments[1], "--output", arguments[5]]) == 2
    assert main(["batch", str(tmp_path / "none"), *arguments[2:]]) == 2
    assert "There is no list, folder or file" in capsys.readouterr().out
    assert [f.name for f in tmp_path.iterdir()] == ["list.csv"]


def test_a_killed_study_costs_only_itself_and_runs_again_when_asked(tmp_path, monkeypatch):
    """The test holds the lock of the second study: its process waits there, and can't be done, when it is killed."""
    volumes(tmp_path / "in", 3)
    out, handed = tmp_path / "out", []
    arguments = ["batch", str(tmp_path / "in"), "--method", "li", "--output", str(out), *QUICK]
    real = children.Child.run

    def run(self, words, hear, stop):
        handed.append(words[words.index("--output") + 1])
        if handed[-1].endswith("head 01"):
            threading.Timer(0.2, self.process.kill).start()
        return real(self, words, hear, stop)

    monkeypatch.setattr(children.Child, "run", run)
    with locked(out / ".head 01.lock", lambda: False):
        assert batch.run_list(parse(arguments), lambda event: None, lambda: False) == [0, 4, 0]
    assert len(handed) == 3, "nothing is tried again silently"
    rows = summary(out)
    assert [r["status"] for r in rows] == ["done", "failed", "done"] and "signal 9" in rows[1]["message"]
    made = stamps(out)
    monkeypatch.undo()
    assert main(arguments) == 0
    assert made.items() <= stamps(out).items() and len(stamps(out)) == 3


def parse(arguments):
    import argparse

    from diffusion_backend.commands import COMMANDS

    parser = argparse.ArgumentParser()
    COMMANDS["batch"][1](parser)
    return parser.parse_args(arguments[1:])


def test_failing_studies_give_their_sentence_and_the_exit_code_of_the_first(tmp_path, capsys):
    head.write(tmp_path / "no metal.nrrd", head.hu(metal=False))
    head.write(tmp_path / "good.nrrd", head.hu())
    (tmp_path / "broken.nrrd").write_bytes(b"NRRD0004\n")
    inputs = ("missing.nrrd", "good.nrrd", "no metal.nrrd", "broken.nrrd")
    arguments = write_list(tmp_path, ("id", "ct"), *((f"s{n}", name) for n, name in enumerate(inputs)))
    assert main([*arguments, "--progress", "json"]) == 2
    rows = summary(tmp_path / "out")
    assert [(r["id"], r["exit_code"]) for r in rows] == [("s0", "2"), ("s1", "0"), ("s2", "2"), ("s3", "2")]
    for row, sentence in zip(rows, ("There is no file", "", "no metal", "can't be read as an image")):
        assert sentence in row["message"] and bool(sentence) == bool(row["message"])
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    studies = [e for e in events if e["event"] == "study"]
    assert [(e["done"], e["studies"]) for e in studies] == [(n, 4) for n in (1, 2, 3, 4)]
    assert studies[0]["eta_s"] > 0 and studies[-1]["eta_s"] is None
    assert {e["study"] for e in events if e["event"] == "progress"} == {"s1"}


def test_the_settings_of_an_earlier_run_come_from_a_file(tmp_path, capsys):
    source = head.write(tmp_path / "h.nrrd", head.hu())
    single = tmp_path / "single"
    more = ("--set", "trace_dilation=3", "--set", "fill_holes=false")
    assert main(["run", "li", "--input", str(source), "--output", str(single), *QUICK, *more]) == 0
    record = json.loads((single / "result.json").read_text())
    panel = {"method": "li", "params": record["parameters"], "preset": "standard", "seed": 0, "samples": 1,
             "device": "cpu", "threads": 1, "batch": 8, "models": {}, "roi": None, "slices": None, "reference": None,
             "frames": None, "inputs": {}}  # fmt: skip
    node = {"record": record, "request": {"preset": "quick", "slices": None}}
    for n, told in enumerate((record, panel, node)):
        (tmp_path / "told.json").write_text(json.dumps(told))
        out = tmp_path / f"out {n}"
        assert main(["batch", str(source), "--parameters", str(tmp_path / "told.json"), "--output", str(out)]) == 0
        assert [f.name for f in sorted(out.iterdir())] == ["h", "summary.csv"]
        made = json.loads((out / "h" / "result.json").read_text())
        assert made["parameters"] == record["parameters"] and made["threads"] == 1
        assert (corrected(out / "h") == corrected(single)).all()
    assert made["preset"] == "quick"
    options = from_words(tmp_path, "--set", "views=99", "--seed", "4")
    assert options.settings[-1] == "views=99" and options.seed == 4 and len(options.settings) > 5
    assert main(["batch", str(source), "--method", "nmar", "--parameters", str(tmp_path / "told.json"), "--output",
                 str(tmp_path / "no")]) == 2  # fmt: skip
    assert "are those of the method li, but nmar" in capsys.readouterr().out


def from_words(folder, *more):
    return parse(["batch", "x", "--output", "y", "--parameters", str(folder / "told.json"), *more])


@pytest.mark.parametrize("told", ["{", "[]", "{}", '{"method": "li", "slices": [1, 2]}'])
def test_a_file_without_settings_is_refused(tmp_path, capsys, told):
    (tmp_path / "told.json").write_text(told)
    with pytest.raises(SystemExit) as end:
        from_words(tmp_path)
    assert end.value.code == 2 and "doesn't hold the settings of a run" in capsys.readouterr().err


def test_two_batches_do_not_share_a_folder(tmp_path, capsys):
    head.write(tmp_path / "h.nrrd", head.hu())
    arguments = write_list(tmp_path, ("id", "ct"), ("a", "h.nrrd"))
    with locked(tmp_path / "out" / batch.LOCK, lambda: False):
        assert main(arguments) == 2
    assert "Another batch works in" in capsys.readouterr().out and not list((tmp_path / "out").iterdir())


def test_what_killed_processes_left_is_removed(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with temporary(tmp_path, TEMPORARY) as work, locked(tmp_path / ".b.lock", lambda: False):
        mine = work.name
        (tmp_path / mine.replace(f".{os.getpid()}-", f".{gone.pid}-")).mkdir()
        (tmp_path / mine.replace(TEMPORARY, f"{TEMPORARY}1")).mkdir()  # of another computer
        (tmp_path / ".a.lock").touch()
        tidy(tmp_path, TEMPORARY)
        left = {p.name for p in tmp_path.iterdir()}
        assert left == {mine, mine.replace(TEMPORARY, f"{TEMPORARY}1"), ".b.lock"}


def test_a_study_that_another_process_writes_is_waited_for(tmp_path):
    """An orphan of a killed batch: the next one does the study neither beside it nor again."""
    head.write(tmp_path / "h.nrrd", head.hu())
    command = [sys.executable, "-c", HOLDER, str(tmp_path / ".out.lock")]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment())
    assert holder.stdout.readline() == b"held\n"
    asked = []

    def stop() -> bool:
        asked.append(1)
        if len(asked) == 3:
            holder.kill()
        return False

    with locked(tmp_path / ".out.lock", stop):
        assert len(asked) >= 3 and holder.wait(10)
    assert not (tmp_path / ".out.lock").exists()
    with locked(tmp_path / ".out.lock", stop), pytest.raises(Cancelled), locked(tmp_path / ".out.lock", lambda: True):
        pass


HOLDER = """
import sys, time
from pathlib import Path
from diffusion_backend.io.folders import TEMPORARY, locked, temporary, tidy
with locked(Path(sys.argv[1]), lambda: False):
    print("held", flush=True)
    time.sleep(60)
"""
STUCK = """
import sys, time
from diffusion_backend import worker
worker.LAST_SECONDS = 0.2
worker.terminal.start = lambda *arguments: (print("begun", flush=True), time.sleep(60))
sys.exit(worker.main())
"""


def test_a_run_that_takes_no_notice_ends_soon_after_its_parent():
    child = subprocess.Popen([sys.executable, "-c", STUCK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                             env=environment())  # fmt: skip
    child.stdin.write(json.dumps(["li", "--output", "x"]) + "\n")
    child.stdin.flush()
    while child.stdout.readline() != "begun\n":
        pass
    child.stdin.close()
    assert child.wait(10) == 5
    assert worker.LAST_SECONDS <= 10


def test_a_stopped_batch_keeps_what_is_done_and_goes_on(tmp_path):
    """SIGTERM while the first study, a long one, runs."""
    head.write(tmp_path / "h.nrrd", head.hu(slices=1))
    arguments = write_list(tmp_path, ("id", "ct"), ("one", "h.nrrd"), ("two", "h.nrrd"), method="a11")
    runner = Runner(*arguments[1:6], "--threads", "1", "--set", "steps=1000")
    runner.until(lambda event: event["event"] == "progress" and event["step"] > 1)
    start = time.monotonic()
    runner.process.send_signal(signal.SIGTERM)
    assert runner.end() == 5 and time.monotonic() - start < 20
    assert "goes on from there" in runner.seen[-1]["message"]
    assert [(r["id"], r["status"]) for r in summary(tmp_path / "out")] == [("one", "cancelled"), ("two", "waiting")]
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["summary.csv"]


def test_the_end_of_the_parent_ends_a_batch_and_its_children(tmp_path):
    head.write(tmp_path / "h.nrrd", head.hu(slices=1))
    arguments = write_list(tmp_path, ("id", "ct"), ("one", "h.nrrd"), method="a11")
    runner = Runner(*arguments[1:6], "--threads", "1", "--set", "steps=1000", "--parent-pipe")
    runner.until(lambda event: event["event"] == "progress")
    below = psutil.Process(runner.process.pid).children(recursive=True)
    assert below
    runner.process.stdin.close()
    assert runner.end() == 5
    until(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in below))
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["summary.csv"]


def test_studies_share_a_warm_process(tmp_path):
    volumes(tmp_path / "in", 3)
    children.close_all()
    arguments = ["batch", str(tmp_path / "in"), "--method", "li", "--output", str(tmp_path / "out"), *QUICK]
    started = []

    class Counted(children.Child):
        def __init__(self, threads):
            started.append(threads)
            super().__init__(threads)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(children, "Child", Counted)
        assert main(arguments) == 0
    assert len(started) == 1
