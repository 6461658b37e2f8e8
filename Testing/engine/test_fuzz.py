"""Whatever a job folder, a line or a list holds: success, or one sentence and an exit code; never a traceback, a hang,
memory that a header merely announces, or something left behind (see `fuzzing`)."""

from __future__ import annotations

import faulthandler
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest
from fuzzing import (
    HANG_SECONDS,
    SENTENCES,
    anything,
    changed,
    damaged,
    fbp_items,
    folder,
    fuzz,
    judged,
    li_items,
    mutated,
    npy_headers,
    only,
    scalars,
    watched,
)
from hypothesis import given
from hypothesis import strategies as st

from diffusion_backend import methods, studies, worker
from diffusion_backend.execute import Request
from diffusion_backend.job import run_job, write_job
from diffusion_backend.params import validate

__all__ = ["watched", "folder"]

@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    """Job folders that run: a plan of `li` with a volume and labels, a whole run of `fbp`."""
    folders = {}
    for request, items in (
        (Request("li", {"views": 90, "bins": 101}, threads=1, plan_only=True), li_items()),
        (Request("fbp", {"size": 32}, threads=1), fbp_items()),
    ):
        folder = folders[request.method] = tmp_path_factory.mktemp(request.method)
        write_job(folder, request, items)
        assert judged(lambda f=folder: run_job(f, lambda e: None)) == (0, "")
        shutil.rmtree(folder / "result", ignore_errors=True)
    return folders


def run_folder(folder):
    """Run the job; what lies there afterwards is a complete result or nothing."""
    code, sentence = judged(lambda: run_job(folder, lambda e: json.dumps(e)))
    assert code == 0 or not (folder / "result").exists()
    assert not list(folder.glob(".*"))
    shutil.rmtree(folder / "result", ignore_errors=True)
    return code, sentence


@pytest.mark.parametrize("method", ["li", "fbp"])
def test_a_job_with_changed_values(valid, method):
    folder = valid[method]
    original = (folder / "job.json").read_text()

    @fuzz(120)
    @given(mutated(json.loads(original)))
    def check(job):
        (folder / "job.json").write_text(json.dumps(job))
        run_folder(folder)

    try:
        check()
    finally:
        (folder / "job.json").write_text(original)


def test_a_job_of_any_bytes(valid):
    folder = valid["fbp"]
    original = (folder / "job.json").read_bytes()

    @fuzz(60)
    @given(st.one_of(st.binary(max_size=60), anything.map(lambda v: json.dumps(v).encode()), damaged(original)))
    def check(content):
        (folder / "job.json").write_bytes(content)
        run_folder(folder)

    try:
        check()
        twice = b'{"schema": 1, "method": "fbp", "method": 3}'
        for content in (b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000, twice):
            (folder / "job.json").write_bytes(content)
            assert run_folder(folder)[0] == 2
    finally:
        (folder / "job.json").write_bytes(original)


def test_an_array_of_any_bytes(valid):
    folder = valid["fbp"]
    file = folder / "projections.npy"
    original = file.read_bytes()

    @fuzz(150)
    @given(st.one_of(damaged(original), damaged(original[:128]), npy_headers()))
    def check(content):
        file.write_bytes(content)
        run_folder(folder)

    try:
        check()
    finally:
        file.write_bytes(original)


def test_files_outside_the_job_folder_links_and_pipes_are_not_read(valid, tmp_path):
    folder = valid["fbp"]
    original = (folder / "job.json").read_text()
    secret = tmp_path / "secret.npy"
    shutil.copy(folder / "projections.npy", secret)
    (folder / "link.npy").symlink_to(secret)
    os.mkfifo(folder / "pipe.npy")
    try:
        for name in (str(secret), f"../{tmp_path.name}/secret.npy", "link.npy", "pipe.npy", "..", ".", "", "a\0b"):
            job = changed(json.loads(original), ("inputs", "projections", "file"), name)
            (folder / "job.json").write_text(json.dumps(job))
            assert run_folder(folder)[0] == 2, name
        (folder / "job.json").unlink()
        os.mkfifo(folder / "job.json")
        assert run_folder(folder)[0] == 2
    finally:
        for name in ("link.npy", "pipe.npy", "job.json"):
            (folder / name).unlink()
        (folder / "job.json").write_text(original)


def test_lines_of_a_worker(valid, monkeypatch):
    """Each line ends with an exit code, and the worker goes on to the next."""
    monkeypatch.setattr(worker.Stop, "on_signals", lambda self: None)
    monkeypatch.setattr(worker, "POLL_SECONDS", 0.001)
    known = json.dumps(["run", "fbp"])
    odd = ["a\0b", "/" * 5000, "é" * 300, "[" * 9000, known, "[1]", "[[]]", "{}"]
    lines = st.one_of(st.text(max_size=30), st.sampled_from(odd),
                      damaged(known.encode()).map(lambda b: b.decode("utf-8", "replace")),
                      anything.map(lambda v: json.dumps([v])))  # fmt: skip

    @fuzz(40)
    @given(lines.map(lambda line: " ".join(line.split())).filter(bool))
    def check(line):
        out = io.StringIO()
        faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
        assert worker.main(Pipe([line, str(valid["li"])], out), out) in (*SENTENCES, 5)
        events = [json.loads(text) for text in out.getvalue().splitlines()]
        first, second = [e["exit_code"] for e in events if e["event"] == "end"]
        assert first in SENTENCES and second == 0, events

    check()


class Pipe:
    """A pipe that closes when all of its lines have been served."""

    def __init__(self, lines, out):
        self.lines, self.out = lines, out

    def __iter__(self):
        yield from (f"{line}\n" for line in self.lines)
        while self.out.getvalue().count('"end"') < len(self.lines):
            time.sleep(0.001)


def test_bytes_that_are_no_text_don_t_end_a_worker(valid):
    """The next line is served, in the encoding that the panel sets."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-m", "diffusion_backend", "worker"]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdin.write(b"\xff\xfe/\xe9\n" + f"{valid['li']}\n".encode())
        child.stdin.flush()
        events = (json.loads(line) for line in child.stdout)
        codes = [e["exit_code"] for e in itertools.islice((e for e in events if e["event"] == "end"), 2)]
        child.stdin.close()
    assert codes == [2, 0]


# ---- lists of studies and command lines ----


def test_any_list_of_studies(folder):
    odd = ["id", "ct", "a", "..", "a/b", "CON", "", '"', "\0", "x.nrrd"]
    cell = st.one_of(st.text(max_size=6), st.sampled_from(odd))
    table = st.lists(st.lists(cell, max_size=4).map(",".join), max_size=4).map("\n".join)
    table = st.one_of(table, table.map("id,ct\n{}".format)).map(lambda text: text.encode("utf-8", "replace"))

    @fuzz(150)
    @given(st.one_of(table, st.binary(max_size=60)))
    def check(content):
        path = only(folder, "list.csv", content)
        found = []
        code, _ = judged(lambda: found.extend(studies.read(path, "li", folder / "out")))
        assert all(re.fullmatch(r"\w([\w .-]*[\w-])?", row["id"]) for row in found)
        assert code == 2 or found

    check()


def test_any_values_of_parameters():
    """As job.json and --set bring them: in its range, or a sentence that is no longer than a few lines."""
    declared = [p for method in methods.MODULES for p in methods.load(method).METHOD.parameters]

    @fuzz(200)
    @given(st.sampled_from(declared), st.one_of(anything, scalars.map(str)))
    def check(parameter, value):
        _, sentence = judged(lambda: validate([parameter], {parameter.name: value}))
        assert len(sentence) < 1000

    check()
