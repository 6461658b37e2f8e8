"""Batches on a real Dask cluster on this computer: killed workers and runners, wrong clusters."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys

import head
import pytest
from batches import QUICK, Runner, check, environment, kill_tree, right, stamps, summary, until, volumes

from diffusion_backend import cluster
from diffusion_backend.__main__ import main


def start(*arguments, **options):
    command = [sys.executable, "-m", "dask", *map(str, arguments), "--no-dashboard"]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, start_new_session=True, **{"env": environment(), **silent, **options})


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    """The address of a scheduler without workers."""
    file = tmp_path_factory.mktemp("dask") / "scheduler.json"
    process = start("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", file)
    until(lambda: file.exists() and file.stat().st_size)
    yield json.loads(file.read_text())["address"]
    kill_tree(process.pid)


@pytest.fixture
def worker(scheduler, tmp_path):
    """Starts a worker with one thread; all are killed in the end."""
    started = []

    def begin(**options):
        number, folder = len(started), tmp_path / "dask"
        started.append(start("worker", scheduler, "--nthreads", "1", "--name", f"worker-{number}", "--local-directory",
                             folder, **options))  # fmt: skip
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            kill_tree(process.pid)


def test_a_worker_and_the_runner_are_killed_and_nothing_is_lost_or_done_twice(scheduler, worker, tmp_path):
    seed = int(os.environ.get("BATCH_SEED", random.SystemRandom().randrange(10**6)))
    chance, out = random.Random(seed), tmp_path / "out"
    workers = [worker(), worker()]
    expected = right(volumes(tmp_path / "in", 20))
    arguments = (tmp_path / "in", "--method", "li", "--output", out, "--scheduler", scheduler, *QUICK)
    first = Runner(*arguments)
    first.computed(chance.randint(2, 5))
    kept = stamps(out)
    kill_tree(chance.choice(workers).pid)
    first.computed(chance.randint(2, 5))
    kept |= {k: v for k, v in stamps(out).items() if k not in kept}
    first.kill()
    second = Runner(*arguments)
    assert second.end() == 0, (seed, second.seen[-2:])
    check(out, expected, kept, f"BATCH_SEED={seed}")
    assert 4 <= sum(e.get("already", False) for e in second.seen) < 20, seed
    assert all(e["status"] == "done" for e in first.seen + second.seen if e["event"] == "study"), seed


def wrong(capsys, tmp_path, address):
    """Exit code and words of a batch on a cluster that can't be used; nothing has been written."""
    head.write(tmp_path / "h.nrrd", head.hu())
    kept = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    arguments = ("--method", "li", "--output", str(tmp_path / "out"), *QUICK, "--scheduler", address)
    code = main(["batch", str(tmp_path / "h.nrrd"), *arguments])
    for number, handler in zip((signal.SIGINT, signal.SIGTERM), kept):
        signal.signal(number, handler)
    assert [r["status"] for r in summary(tmp_path / "out")] == ["waiting"]
    return code, capsys.readouterr().out


def test_no_scheduler_no_workers_and_no_dask_are_sentences(scheduler, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.5)
    monkeypatch.setattr(cluster, "WORKERS_SECONDS", 0.2)
    code, told = wrong(capsys, tmp_path, "tcp://127.0.0.1:1")
    assert code == 2 and "The scheduler 'tcp://127.0.0.1:1' can't be reached (" in told, told
    code, told = wrong(capsys, tmp_path, "nonsense://here")
    assert code == 2 and "can't be reached" in told, told
    code, told = wrong(capsys, tmp_path, scheduler)
    assert code == 2 and "has no workers. Start one with: dask worker tcp://127" in told, told
    monkeypatch.setitem(sys.modules, "distributed", None)
    code, told = wrong(capsys, tmp_path, scheduler)
    assert code == 2 and "needs the package dask[distributed]" in told, told


@pytest.mark.parametrize(
    "content, sentence",
    [
        ("raise ModuleNotFoundError('it is missing')", "can't import diffusion_backend (it is missing)"),
        ("__version__ = '99'", "has version 99 of diffusion_backend, but"),
    ],
)
def test_a_worker_with_another_engine_or_none_is_named(scheduler, worker, tmp_path, capsys, content, sentence):
    shadow = tmp_path / "shadow" / "diffusion_backend"
    shadow.mkdir(parents=True)
    (shadow / "__init__.py").write_text(content)
    around = environment()
    worker(env=around | {"PYTHONPATH": os.pathsep.join([str(shadow.parent), around["PYTHONPATH"]])})
    code, told = wrong(capsys, tmp_path, scheduler)
    assert code == 2 and sentence in told and "The worker tcp://127.0.0.1" in told, told


def test_a_stop_ends_what_runs_on_the_workers(scheduler, worker, tmp_path):
    head.write(tmp_path / "h.nrrd", head.hu(slices=1))
    (tmp_path / "list.csv").write_text("id,ct\none,h.nrrd\ntwo,h.nrrd\n")
    worker()
    out = tmp_path / "out"
    runner = Runner(tmp_path / "list.csv", "--method", "a11", "--set", "steps=1000", "--output", out, "--threads", "1",
                    "--scheduler", scheduler)  # fmt: skip
    until(lambda: list(out.glob(".diffusion-*/job/job.json")) or runner.process.poll() is not None)
    assert runner.process.poll() is None, runner.process.stdout.read()
    runner.process.send_signal(signal.SIGTERM)
    assert runner.end() == 5
    assert [r["status"] for r in summary(out)] == ["cancelled", "waiting"]
    assert [f.name for f in out.iterdir()] == ["summary.csv"]
