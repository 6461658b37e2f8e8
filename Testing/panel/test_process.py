"""The child process: events in any company, its end in any phase, its environment."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_panel import process

from .engines import DUMMY, dummy_worker, exists, until


@pytest.fixture
def worker():
    one = dummy_worker()
    yield one
    one.kill()


def test_events_arrive_in_order_and_ready_is_known(worker):
    worker.start()
    seen = []
    until(lambda: seen.extend(worker.events()) or worker.ready)
    assert [e["event"] for e in seen] == ["ready"]
    first = worker.pid
    worker.start()
    assert worker.pid == first, "a running worker isn't started twice"


def test_the_worker_leads_a_process_group_of_its_own(worker):
    worker.start()
    assert os.getpgid(worker.pid) == worker.pid != os.getpgid(0)


def test_kill_ends_it_and_a_later_start_gives_a_fresh_one(worker):
    worker.start()
    first = worker.pid
    worker.kill()
    assert not exists(first) and worker.pid is None
    worker.start()
    until(lambda: worker.events() or worker.ready)
    assert worker.pid != first


def test_a_worker_that_has_ended_is_replaced_at_the_next_start(worker):
    worker.start()
    first = worker.pid
    os.kill(first, 9)
    until(lambda: worker.exit_code() is not None)
    worker.start()
    assert worker.pid != first and worker.exit_code() is None


def test_the_worker_ends_with_the_process_that_started_it(tmp_path):
    """The parent disappears without a word; the pipe closes, and so ends the worker."""
    code = (
        "import os, sys, subprocess\n"
        f"child = subprocess.Popen([{sys.executable!r}, {str(DUMMY)!r}], stdin=subprocess.PIPE,"
        " stdout=subprocess.DEVNULL, start_new_session=True)\n"
        "print(child.pid, flush=True)\nos._exit(1)\n"
    )
    pid = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout)
    until(lambda: not exists(pid))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.binary(max_size=60))
def test_no_bytes_around_an_event_drop_it(before, after):
    line = before.replace(b"\n", b" ") + b'{"event": "progress", "step": 3}' + after.replace(b"\n", b" ")
    events, _ = process.parse(line.decode("utf-8", errors="replace"))
    assert {"event": "progress", "step": 3} in events


def test_several_events_in_a_line_and_the_rest_of_it():
    events, rest = process.parse('noise{"event": "a"}{"event": "b", "x": {"event": 1}} tail')
    assert [e["event"] for e in events] == ["a", "b"]
    assert rest == "noise tail"
    assert process.parse('{"event": ') == ([], '{"event":')


def test_a_line_without_end_doesn_t_fill_the_memory(tmp_path):
    code = (
        "import sys; sys.stdout.write('x' * 5_000_000); sys.stdout.write('\\n'); "
        'print(\'{"event": "ready"}\', flush=True); sys.stdin.read()'
    )
    one = process.Worker([sys.executable, "-c", code])
    one.start()
    until(lambda: one.events() or one.ready)
    assert max(len(line) for line in one.log) <= process.LINE_BYTES
    one.kill()


def test_a_grandchild_that_keeps_the_pipes_open_doesn_t_hide_the_end(tmp_path):
    """It left the process group, so that nothing ends it; the worker's end is known after a moment all the same."""
    code = (
        "import subprocess, sys; child = subprocess.Popen(['sleep', '60'], start_new_session=True); "
        "print(child.pid, file=sys.stderr, flush=True); sys.exit(3)"
    )
    one = process.Worker([sys.executable, "-c", code])
    one.start()
    until(lambda: one.exit_code() is not None)
    assert one.exit_code() == 3
    start = time.monotonic()
    one.kill()
    assert time.monotonic() - start < 5
    os.kill(int(one.log[0]), 9)


def test_environment_of_the_engine(monkeypatch):
    monkeypatch.delenv("DIFFUSIONMODELS_PYTHON", raising=False)
    monkeypatch.setenv("PYTHONPATH", "/some/where")
    inside = process.environment()
    assert inside["PYTHONPATH"].split(os.pathsep) == [str(process.PACKAGES), "/some/where"]
    assert inside["PYTHONIOENCODING"] == "utf-8"
    assert os.path.isfile(os.path.join(inside["DIFFUSIONMODELS_RESOURCES"], "methods.json"))
    monkeypatch.setenv("DIFFUSIONMODELS_PYTHON", "/own/python")
    assert process.engine_python() == "/own/python"
    assert process.environment()["PYTHONPATH"] == str(process.PACKAGES)


def test_the_setting_names_the_python_of_the_engine(monkeypatch):
    import slicer

    monkeypatch.setenv("DIFFUSIONMODELS_PYTHON", "/own/python")
    slicer.app.userSettings().setValue("DiffusionModels/EnginePython", "/chosen/python")
    try:
        assert process.engine_python() == "/chosen/python"
    finally:
        slicer.app.userSettings().remove("DiffusionModels/EnginePython")


@pytest.mark.parametrize(
    ("code", "log", "kind", "words"),
    [
        (-9, [], "memory", "ended by the system, probably because memory ran out"),
        (-11, ["oops"], "internal", "signal 11"),
        (1, ["ModuleNotFoundError: No module named 'torch'"], "installation", "lacks the package 'torch'"),
        (2, ["usage: wrong"], "input", "exit code 2. Its last words: usage: wrong"),
        (3, [], "model", "exit code 3"),
    ],
)
def test_an_end_without_a_word_becomes_a_sentence(code, log, kind, words):
    found, message, remedy = process.describe_end(code, log)
    assert (found, words in message, bool(remedy)) == (kind, True, True)
