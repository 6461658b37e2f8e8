"""Batches on a real Dask cluster on this computer: killed workers and runners, wrong clusters."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys

import pytest
from batches import QUICK, Runner, check, environment, kill_tree, right, stamps, until, volumes

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
