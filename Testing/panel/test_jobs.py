"""The queue with the dummy engine: order, cancel in every phase, deaths of the child, what is left behind."""

from __future__ import annotations

import json
import os
import stat
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from diffusion_panel import process, queueing, recovery, running
from diffusion_panel.jobs import EngineFailure, InputProblem
from diffusion_panel.recovery import Folders

from .engines import HANG_SECONDS, add, children, exists, folders_left, make_queue, others, until  # noqa: F401  (fixture)


@pytest.fixture
def queue(tmp_path, others):  # noqa: F811
    one = make_queue(tmp_path)
    yield one
    one.shutdown()
    assert folders_left(one) == []
    assert not children(), "a process was left behind"


def begun(job):
    return job.state == "running" and job.progress


def test_a_job_runs_and_its_result_comes_back(queue):
    job = add(queue)
    states, ends = [], []
    job.changed.connect(lambda j: states.append(j.state))
    job.finished.connect(ends.append)
    until(lambda: job.is_over)
    assert job.state == "done", job.message
    assert np.array_equal(job.nodes["corrected"], job.transfer.array + 1)
    order = ("exporting", "running", "importing", "done")
    assert [s for i, s in enumerate(states) if i == 0 or states[i - 1] != s] == list(order)
    assert ends == [job] and job.plan["memory_mb"] == 5 and job.progress["stage"] == "dummy"
    assert job.ended >= job.started


def test_waiting_handles_events_and_the_worker_stays_warm(queue):
    first, second = add(queue), add(queue)
    queue.wait(second)
    assert [first.state, second.state] == ["done", "done"]
    pid = queue.worker.pid
    queue.wait(add(queue))
    assert pid is not None and queue.worker.pid == pid


def test_jobs_run_in_order_one_at_a_time(queue):
    jobs = [add(queue, seconds=0.1) for _ in range(3)]
    most = 0
    while not jobs[-1].is_over:
        queue.advance()
        most = max(most, sum(j.state in ("exporting", "running", "importing") for j in jobs))
        time.sleep(0.005)
    assert most == 1
    assert jobs[0].ended <= jobs[1].started and jobs[1].ended <= jobs[2].started
    assert queue.jobs == jobs


def test_the_folder_is_private_and_holds_the_job(queue):
    job = add(queue, act="hang")
    until(lambda: begun(job))
    (folder,) = queue.folders.root.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE(queue.folders.root.stat().st_mode) == 0o700
    assert json.loads((folder / "job.json").read_text())["method"] == "dummy"
    assert np.array_equal(np.load(folder / "ct.npy"), job.transfer.array)


def test_arrays_are_written_as_numpy_does(tmp_path):
    import threading

    arrays = {
        "a.npy": np.arange(6, dtype=np.int16).reshape(1, 2, 3), "b.npy": np.zeros((0, 3), np.float32),
        "c.npy": (np.ones((2, 2)) * 1j).astype(np.complex64), "d.npy": np.array([True, False]),
    }  # fmt: skip
    expected = dict(arrays)
    recovery.write_job(tmp_path, {}, arrays, threading.Event())
    for name, array in expected.items():
        back = np.load(tmp_path / name)
        assert back.dtype == array.dtype and back.shape == array.shape and np.array_equal(back, array)


# ---- cancel ----


def cancelled(queue, job, seconds=HANG_SECONDS):
    """Cancel, wait, and check that nothing is left. Returns how long it took."""
    start = time.monotonic()
    queue.cancel(job)
    until(lambda: job.is_over, seconds)
    assert job.state == "cancelled" and job.nodes == {}
    assert folders_left(queue) == []
    assert not children()
    return time.monotonic() - start


@pytest.mark.parametrize("act", ["slow", "hang"])
def test_cancel_while_running(queue, act):
    job = add(queue, act=act)
    until(lambda: begun(job))
    pid = queue.worker.pid
    print(f"cancel of a job that is {act}: {cancelled(queue, job):.2f} s")
    assert not exists(pid)
    after = add(queue)
    queue.wait(after)
    assert after.state == "done" and queue.worker.pid != pid


def test_cancel_ends_a_grandchild(queue, tmp_path):
    job = add(queue, act="grandchild", pid_file=str(tmp_path / "pid"))
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    grandchild = int((tmp_path / "pid").read_text())
    assert exists(grandchild)
    cancelled(queue, job)
    assert not exists(grandchild)


def test_cancel_while_the_worker_starts(tmp_path, monkeypatch):
    """There is nothing to be patient with."""
    monkeypatch.setattr(running, "PATIENCE_SECONDS", 10 * HANG_SECONDS)
    queue = make_queue(tmp_path, "hang")
    job = add(queue)
    until(lambda: job.state == "running")
    cancelled(queue, job)
    queue.shutdown()


def test_cancel_while_exporting(queue, monkeypatch):
    """The writing thread is slow; it notices the cancel between two pieces."""
    monkeypatch.setattr(recovery, "CHUNK_BYTES", 4)
    job = add(queue, array=np.zeros(100_000_000, np.float32))
    until(lambda: job.state == "exporting" and folders_left(queue))
    cancelled(queue, job)


def test_cancel_while_importing(queue):
    job = add(queue)

    def on_change(j):
        if j.state == "importing":
            queue.cancel(j)

    job.changed.connect(on_change)
    until(lambda: job.is_over)
    assert job.state == "cancelled" and job.nodes == {} and folders_left(queue) == []


def test_cancel_one_that_waits_and_cancel_all(queue):
    first, second, third = add(queue, act="slow"), add(queue), add(queue)
    until(lambda: begun(first))
    queue.cancel(second)
    assert second.state == "cancelled" and first.state == "running"
    queue.cancel()
    until(lambda: first.is_over)
    assert [j.state for j in (first, second, third)] == ["cancelled"] * 3


def test_a_cancelled_plan_leaves_the_worker_warm(queue):
    queue.wait(add(queue))
    pid = queue.worker.pid
    job = add(queue, plan_only=True)
    until(lambda: job.state == "running")
    queue.cancel(job)
    until(lambda: job.is_over)
    assert pid is not None and queue.worker.pid == pid and exists(pid)


# ---- the child dies, hangs, babbles ----


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("act", ["error", "die"])
def test_every_exit_code_brings_the_child_s_own_sentence(queue, code, act):
    job = add(queue, act=act, code=code, says=True)
    until(lambda: job.is_over)
    kinds = {1: "internal", 2: "input", 3: "model", 4: "memory", 5: "cancelled"}
    assert (job.state, job.message, job.remedy) == ("failed", f"Sentence {code}.", "Do this.")
    assert job.kind == kinds[code]
    assert isinstance(job.failure(), InputProblem if code == 2 else EngineFailure)
    assert folders_left(queue) == []


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5])
def test_a_death_without_a_sentence_tells_code_and_last_line(queue, code):
    job = add(queue, act="die", code=code)
    until(lambda: job.is_over)
    assert job.state == "failed"
    assert f"exit code {code}" in job.message and "the last line" in job.message


def test_an_orderly_error_leaves_the_worker_warm(queue):
    job = add(queue, act="error", code=2)
    until(lambda: job.is_over)
    pid = queue.worker.pid
    queue.wait(add(queue))
    assert pid is not None and queue.worker.pid == pid


def test_a_killed_worker_is_put_down_to_memory_and_the_next_job_runs(queue):
    job = add(queue, act="killed")
    until(lambda: job.is_over)
    assert job.kind == "memory" and "ended by the system, probably because memory ran out" in job.message
    after = add(queue)
    queue.wait(after)
    assert after.state == "done"


def test_a_worker_killed_while_idle_is_replaced(queue):
    queue.wait(add(queue))
    os.kill(queue.worker.pid, 9)
    after = add(queue)
    queue.wait(after)
    assert after.state == "done"


def test_what_a_dead_worker_has_started_is_ended(queue, tmp_path):
    job = add(queue, act="grandchild", pid_file=str(tmp_path / "pid"), leave=True)
    until(lambda: job.is_over)
    assert job.state == "failed"
    grandchild = int((tmp_path / "pid").read_text())
    until(lambda: not exists(grandchild))


def test_a_worker_that_lingers_after_its_result_is_ended_and_the_result_loaded(queue, monkeypatch):
    job = add(queue, act="linger")
    until(lambda: job.is_over)
    assert job.state == "done" and np.array_equal(job.nodes["corrected"], job.transfer.array + 1)
    assert not children()


def test_a_complete_result_counts_though_the_worker_died(queue):
    job = add(queue, act="complete and dead")
    until(lambda: job.is_over)
    assert job.state == "done", job.message


@pytest.mark.parametrize("act", ["half", "nothing", "hollow"])
def test_nothing_but_a_complete_folder_counts(queue, act):
    job = add(queue, act=act)
    until(lambda: job.is_over)
    assert job.state == "failed" and job.nodes == {} and job.message.startswith("The engine ended")


def test_any_bytes_in_the_output_do_no_harm(queue):
    job = add(queue, act="garbage")
    until(lambda: job.is_over)
    assert job.state == "done", job.message
    assert any("no line end" in line.replace("\0", "") for line in job.log)


def test_preview_and_warnings(queue):
    job = add(queue, act="preview")
    seen = []
    job.previewed.connect(lambda j: seen.append(j.preview.copy()))
    until(lambda: job.is_over)
    assert seen[0].shape == (4, 5) and (seen[0] == 7).all()
    assert job.warnings[0] == "A warning."


def test_a_plan_alone(queue):
    job = add(queue, plan_only=True)
    until(lambda: job.is_over)
    assert job.state == "done" and job.plan["available_mb"] == 1000 and job.nodes == {}


@pytest.mark.parametrize(("start", "words"), [("missing", "The package 'torch' is missing."),
                                              ("broken", "lacks the package 'no_such_package_anywhere'")])  # fmt: skip
def test_an_engine_that_can_t_start_names_the_package(tmp_path, start, words):
    queue = make_queue(tmp_path, start)
    job = add(queue)
    until(lambda: job.is_over)
    assert (job.state, job.kind) == ("failed", "installation") and words in job.message
    assert folders_left(queue) == []
    queue.shutdown()


def test_a_python_that_isn_t_there(tmp_path):
    queue = queueing.Queue(Folders(tmp_path / "DiffusionModels"), process.Worker(["/no/such/python"]))
    job = add(queue)
    until(lambda: job.is_over)
    assert job.kind == "installation" and "can't be started: no such file" in job.message
    queue.shutdown()


# ---- disk ----


def test_a_temporary_folder_that_can_t_be_written(tmp_path):
    (tmp_path / "DiffusionModels").write_text("a file stands in the way")
    queue = make_queue(tmp_path)
    job = add(queue)
    until(lambda: job.is_over)
    assert (job.state, job.kind) == ("failed", "disk") and "The folder for temporary files can't be used" in job.message
    queue.shutdown()


def test_a_full_disk(queue, monkeypatch):
    """Writes beyond a limit fail as on a full disk."""
    import resource
    import signal

    monkeypatch.setattr(recovery, "CHUNK_BYTES", 1 << 16)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, before[1]))
    try:
        job = add(queue, array=np.zeros(1 << 18, np.float32))
        until(lambda: job.is_over)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert (job.state, job.kind) == ("failed", "disk"), job.message
    assert folders_left(queue) == []


def test_blanks_and_letters_of_any_kind_in_the_path(tmp_path):
    queue = make_queue(tmp_path / "Lékař 測試 ü  x")
    job = add(queue)
    until(lambda: job.is_over)
    assert job.state == "done", job.message
    queue.shutdown()


# ---- signals and shutdown ----


def test_a_listener_that_raises_doesn_t_stop_the_others(queue, monkeypatch):
    reported = []
    monkeypatch.setattr(sys, "excepthook", lambda *error: reported.append(error[0]))
    job, ends = add(queue), []
    job.finished.connect(lambda j: 1 / 0)
    job.finished.connect(ends.append)
    until(lambda: job.is_over)
    assert ends == [job] and ZeroDivisionError in reported


def test_a_listener_may_start_the_next_run_and_wait_for_it(queue):
    first, later = add(queue), []

    def on_finished(job):
        later.append(add(queue))
        queue.wait(later[0])

    first.finished.connect(on_finished)
    until(lambda: later and later[0].is_over)
    assert later[0].state == "done"


def test_waiting_inside_a_report_is_refused(queue):
    job, errors = add(queue), []

    def on_changed(j):
        try:
            queue.wait(j)
        except InputProblem as problem:
            errors.append(problem)

    job.changed.connect(on_changed)
    until(lambda: job.is_over)
    assert errors


def test_shutdown_ends_everything_at_once(tmp_path):
    queue = make_queue(tmp_path)
    running, waiting = add(queue, act="hang"), add(queue)
    until(lambda: begun(running))
    queue.shutdown()
    assert [running.state, waiting.state] == ["cancelled", "cancelled"]
    assert not children() and folders_left(queue) == []


def test_no_job_listens_on_a_port(queue):
    """No server: nothing of the tree has a listening socket."""
    job = add(queue, act="hang")
    until(lambda: begun(job))
    lines = [line.split() for kind in ("tcp", "tcp6") for line in Path(f"/proc/net/{kind}").read_text().splitlines()]
    listening = {fields[9] for fields in lines if fields[3] == "0A"}
    for pid in children():
        for link in os.listdir(f"/proc/{pid}/fd"):
            target = os.readlink(f"/proc/{pid}/fd/{link}")
            assert not any(target == f"socket:[{inode}]" for inode in listening)
