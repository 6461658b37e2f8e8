"""Whatever a file holds: success, or one sentence and an exit code; never a traceback, a hang, memory that a header
merely announces, or something left behind. More examples: DIFFUSIONMODELS_FUZZ=20000 pytest Testing/engine/test_fuzz.py
"""

from __future__ import annotations

import copy
import faulthandler
import hashlib
import io
import itertools
import json
import os
import pickle
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from contextlib import contextmanager

import head
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffusion_backend import memory, methods, models, provenance, studies, worker
from diffusion_backend.data import PatientGeometry, Segmentation, projections, volume
from diffusion_backend.events import guarded
from diffusion_backend.execute import Request
from diffusion_backend.io import images
from diffusion_backend.io.projections import read_projections, write_projections
from diffusion_backend.job import run_job, write_job
from diffusion_backend.networks.unet import UNet
from diffusion_backend.params import validate

EXAMPLES = int(os.environ.get("DIFFUSIONMODELS_FUZZ") or 0)
HANG_SECONDS = 60
SENTENCES = (0, 2, 3, 4)  # exit codes that say what is wrong, or that nothing is

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from([10**400, -(10**400), 1e308, 2**63, -1, 0, "../job.json", "/etc/hostname", "..", "", ".", "a\0b",
                     "é" * 300, "nan", "ct.npy", "bin", "view", "k"]),
)  # fmt: skip
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def fuzz(examples):
    """Settings of one target: the same examples on each run, unless DIFFUSIONMODELS_FUZZ asks for many."""
    return settings(
        max_examples=EXAMPLES or examples, derandomize=not EXAMPLES, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def watched():
    """A hang ends the process with the place where it hangs; signal handlers come back."""
    kept = [(n, signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM)]
    yield
    faulthandler.cancel_dump_traceback_later()
    for number, handler in kept:
        signal.signal(number, handler)


def judged(work):
    """Do `work`; the exit code and the one sentence, "" on success."""
    events: list[dict] = []
    faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
    code = guarded(work, events.append)
    errors = [e for e in events if e["event"] == "error"]
    assert code in SENTENCES, errors
    assert len(errors) == (code != 0)
    sentence = errors[0]["message"] if errors else ""
    assert isinstance(sentence, str) and bool(sentence.strip()) == bool(code) and "Traceback" not in sentence
    return code, sentence


# ---- job.json and its arrays ----

GRID = PatientGeometry.from_itk((2.0, 2.0, 3.0), (0.0, 1.0, 2.0), np.eye(3).ravel())
SCAN = {"type": "parallel", "angles_deg": [float(a) for a in range(0, 180, 20)], "bins": 12, "bin_mm": 2.0}


def li_items():
    hu = head.hu(slices=1, size=32)
    return {"ct": volume(hu, GRID), "metal": Segmentation((hu > 2500).astype(np.uint8), GRID, {"metal": 1})}


def fbp_items():
    return {"projections": projections(np.full((9, 12), 0.5, np.float32), SCAN, GRID)}


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


def places(tree, path=()):
    """The paths of all values of a JSON tree."""
    found = [path] if path else []
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return found + [deep for key, value in pairs for deep in places(value, (*path, key))]


def changed(tree, path, value):
    """A copy of a JSON tree with one value replaced; removed where `value` is `...`."""
    tree = copy.deepcopy(tree)
    inner = tree
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return tree


@st.composite
def mutated(draw, tree):
    """A valid JSON tree with one to three changes."""
    for _ in range(draw(st.integers(1, 3))):
        options = places(tree)
        if not options:
            break
        path = draw(st.sampled_from(options))
        tree = changed(tree, path, draw(st.one_of(st.just(...), anything)))
    return tree


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
        for content in (b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000, b'{"schema": 1, "method": "fbp", "method": 3}'):
            (folder / "job.json").write_bytes(content)
            assert run_folder(folder)[0] == 2
    finally:
        (folder / "job.json").write_bytes(original)


@st.composite
def damaged(draw, content):
    """Bytes cut off, replaced or put in."""
    at = draw(st.integers(0, len(content)))
    piece = draw(st.binary(max_size=12))
    return draw(st.sampled_from([content[:at], content[:at] + piece + content[at + len(piece) :],
                                 content[:at] + piece + content[at:], content[:at] + content[at + 5 :]]))  # fmt: skip


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


@st.composite
def npy_headers(draw):
    """An .npy file whose header says anything about few bytes."""
    kinds = ["<f4", "|O", "<f8", "<c8", "|S3", "<M8[s]", "<U2", "|V0", "|b1", ">i2", "<f2", [("a", "<f4")]]
    descr = draw(st.sampled_from(kinds))
    side = st.sampled_from([0, 1, 2, 9, 12, -1, -9, 2**31, 2**40, 2**62, 10**30, True, 1.5, "a"])
    shape = draw(st.lists(side, max_size=4).map(tuple))
    text = repr({"descr": descr, "fortran_order": draw(st.sampled_from([False, True, 0, None])), "shape": shape})
    header = (text + " " * 20 + "\n").encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + draw(st.binary(max_size=9 * 12 * 4))


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
    lines = st.one_of(st.text(max_size=30), st.sampled_from(odd), damaged(known.encode()).map(lambda b: b.decode("utf-8", "replace")),
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


# ---- files of users ----


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


def only(folder, name, content):
    """The file with this content, alone in its folder."""
    for old in folder.iterdir():
        old.unlink()
    (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize("name", ["v.nrrd", "v.nhdr", "v.nii", "v.mha", "v.seg.nrrd"])
def test_an_image_of_any_bytes(folder, name):
    labels = (head.hu(slices=2, size=8) > 0).astype(np.uint8)
    source = head.write(folder / ("d.nrrd" if name == "v.nhdr" else name), labels)
    content = source.read_bytes()
    size = 352 if name == "v.nii" else content.index(b"\n\n") + 2 if b"\n\n" in content else content.index(b"LOCAL") + 6
    start = content[:size]
    reader = images.read_segmentation if "seg" in name else images.read_volume

    @fuzz(60)
    @given(st.one_of(damaged(start), words_changed(start)))
    def check(changed):
        changed += content[size:] if name != "v.nhdr" else b""
        path = only(folder, name, changed)
        with tempfile.TemporaryFile() as told, quiet(told):
            judged(lambda: reader(path))
        assert [p.name for p in folder.iterdir()] == [name]

    check()


@st.composite
def words_changed(draw, content):
    """A header of text with one to three of its words replaced."""
    words = content.split(b" ")
    odd = [b"nan", b"inf", b"-1", b"0", b"1e400", b"99999999999999999999", b"4294967296", b"(0,0,0)", b"(nan,0,0)",
           b"gzip", b"raw", b"double", b"block", b"", b"-", b"/dev/zero", b"LIST", b"none", b"\xff\xfe", b"2147483647"]  # fmt: skip
    for _ in range(draw(st.integers(1, 3))):
        words[draw(st.integers(0, len(words) - 1))] = draw(st.sampled_from(odd))
    return b" ".join(words)


@contextmanager
def quiet(told):
    """What C++ libraries write to standard error goes to the file `told`."""
    kept = os.dup(2)
    os.dup2(told.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


NRRD = (
    "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: {sizes}\n"
    "space directions: ({x},0,0) (0,1,0) (0,0,1)\nkinds: domain domain domain\nendian: little\nencoding: {encoding}\n"
    "space origin: (0,0,0)\n{data}\n"
)
PLAIN = {"sizes": "4 4 4", "x": "1", "encoding": "raw", "data": ""}


@pytest.mark.parametrize(
    "name,change,words",
    [
        ("v.nrrd", {"sizes": "100000 100000 1000"}, "can't hold"),
        ("v.nrrd", {"sizes": "100000 100000 1000", "encoding": "gzip"}, "can't hold"),
        ("v.nrrd", {"x": "nan"}, "v"),
        ("v.nrrd", {"x": "0"}, "v"),
        ("v.nhdr", {"data": "data file: /dev/zero\n"}, "beside it"),
        ("v.nhdr", {"data": "data file: -\n"}, "beside it"),
        ("v.nhdr", {"data": "data file: ../other.raw\n"}, "beside it"),
        ("v.nhdr", {"data": "data file: LIST 2\n/etc/hostname\n"}, "beside it"),
        ("v.nhdr", {"data": "datafile: pipe\n"}, "no file"),
        ("v.nhdr", {"data": "data file: missing.raw\n"}, "can't be read"),
    ],
)
def test_headers_that_lie_or_point_elsewhere(tmp_path, name, change, words):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / name).write_bytes(NRRD.format(**PLAIN | change).encode() + bytes(128))
    code, sentence = judged(lambda: images.read_volume(tmp_path / name))
    assert code == 2 and words in sentence, sentence


def test_a_header_with_its_data_beside_is_read(tmp_path):
    (tmp_path / "v.nhdr").write_text(NRRD.format(**PLAIN | {"data": "data file: v.raw\n"}))
    (tmp_path / "v.raw").write_bytes(np.arange(64, dtype="<i2").tobytes())
    assert images.read_volume(tmp_path / "v.nhdr").array[3, 3, 3] == 63
    image = sitk.GetImageFromArray(np.arange(8, dtype=np.int16).reshape(2, 2, 2))
    sitk.WriteImage(image, str(tmp_path / "v.mhd"))
    assert images.read_volume(tmp_path / "v.mhd").array[1, 1, 1] == 7
    (tmp_path / "v.mhd").write_text((tmp_path / "v.mhd").read_text().replace("= v.raw", "= /dev/zero"))
    assert judged(lambda: images.read_volume(tmp_path / "v.mhd"))[0] == 2


def test_projections_of_any_bytes(folder):
    path = folder / "p.npz"
    write_projections(fbp_items()["projections"], path)
    content = path.read_bytes()

    @fuzz(120)
    @given(st.one_of(damaged(content), npy_headers().map(packed)))
    def check(changed):
        judged(lambda: read_projections(only(folder, "p.npz", changed)))

    check()


def packed(array):
    """An .npz of the bytes of an array file and a valid geometry."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("sinogram.npy", array)
        text = io.BytesIO()
        np.save(text, np.array(json.dumps(SCAN)))
        archive.writestr("geometry.npy", text.getvalue())
    return out.getvalue()


def test_any_geometry_of_projections(folder):
    """Read, checked and reconstructed: as JSON beside an image."""

    @fuzz(100)
    @given(st.one_of(anything, mutated(SCAN)).map(json.dumps))
    def check(text):
        image = head.write(folder / "p.nrrd", np.full((1, 9, 12), 0.5, np.float32))
        (folder / "p.json").write_text(text)
        job = folder / "job"
        job.mkdir()
        request = Request("fbp", {"size": 32}, threads=1)
        judged(lambda: (write_job(job, request, {"projections": read_projections(image)}), run_job(job, json.dumps)))
        shutil.rmtree(job)

    check()


def test_an_archive_that_announces_more_than_it_holds_takes_no_memory(tmp_path):
    header = repr({"descr": "<f4", "fortran_order": False, "shape": (40_000, 40_000)}).encode() + b"\n"
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(1000)
    (tmp_path / "p.npz").write_bytes(packed(array))
    before = memory.resident_bytes()
    assert judged(lambda: read_projections(tmp_path / "p.npz"))[0] == 2
    assert memory.resident_bytes() - before < 200 << 20


def test_an_archive_that_unpacks_to_more_than_the_memory_is_not_unpacked(tmp_path, monkeypatch):
    (tmp_path / "p.npz").write_bytes(packed(bytes(1 << 20)))
    monkeypatch.setattr(memory, "available_bytes", lambda device: 1 << 19)
    code, sentence = judged(lambda: read_projections(tmp_path / "p.npz"))
    assert code == 2 and "unpacks to 1 MB" in sentence


# ---- models ----

CARD = {
    "id": "m", "interface": "Denoiser", "dims": 2, "channels": 1, "unit": "HU", "licence": "CC0",
    "network": {"architecture": "UNet", "dims": 2, "in_channels": 1, "out_channels": 1, "width": 8, "multipliers": [1, 2],
                "blocks": 1, "attention": []},
    "normalisation": {"offset": 0.0, "scale": 1.0, "sigma_data": 0.5}, "sigma_range": [0.1, 100.0],
    "domain": {"pixel_mm": [0.5, 3.0], "range": [-1024, 8000]},
}  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    torch.manual_seed(0)
    network = {k: tuple(v) if isinstance(v, list) else v for k, v in CARD["network"].items() if k != "architecture"}
    folder = tmp_path_factory.mktemp("models") / "m"
    models.save_bundle(folder, CARD, {"denoiser": UNet(**network).state_dict()})
    assert judged(lambda: models.load_denoiser(folder)) == (0, "")
    return folder


def use(folder):
    """What a run does with a model: list, read the card, compare it with the input, load, call."""
    models.list_models()
    denoise = models.load_denoiser(folder)
    provenance.domain({"prior": denoise.card}, {"ct": volume(np.zeros((1, 8, 8), np.float32), GRID)})
    denoise(torch.zeros(1, 1, 8, 8), 1.0)


def test_any_card_of_a_model(bundle, monkeypatch):
    monkeypatch.setenv("DIFFUSIONMODELS_MODELS", str(bundle.parent))
    original = (bundle / models.CARD).read_text()
    card = json.loads(original)

    @fuzz(150)
    @given(st.one_of(mutated(card), anything))
    def check(changed):
        (bundle / models.CARD).write_text(json.dumps(changed))
        judged(lambda: use(bundle))

    try:
        check()
        for path, value in ((("network", "width"), 10**7), (("network", "blocks"), 10**9), (("network", "classes"), 10**12),
                            (("network", "multipliers"), [1] * 10**6)):  # fmt: skip
            (bundle / models.CARD).write_text(json.dumps(changed_card := changed(card, path, value)))
            assert judged(lambda: use(bundle))[0] == 3, changed_card["network"]
    finally:
        (bundle / models.CARD).write_text(original)


def test_any_weights_of_a_model(bundle):
    """Also where the card's sha256 is that of the damaged file."""
    weights, card = bundle / models.WEIGHTS, json.loads((bundle / models.CARD).read_text())
    original, text = weights.read_bytes(), (bundle / models.CARD).read_text()
    length = struct.unpack("<Q", original[:8])[0]
    header = json.loads(original[8 : 8 + length])

    @fuzz(100)
    @given(st.one_of(damaged(original), damaged(original[: length + 8]), st.builds(stored, mutated(header))), st.booleans())
    def check(content, right):
        weights.write_bytes(content)
        sha = hashlib.sha256(content).hexdigest() if right else card["sha256"]
        (bundle / models.CARD).write_text(json.dumps(card | {"sha256": sha}))
        code, _ = judged(lambda: use(bundle))
        assert right or code == 3 or content == original

    try:
        check()
        for lie in (struct.pack("<Q", 2**62), struct.pack("<Q", 99_000_000), b""):
            weights.write_bytes(lie + original[8:])
            sha = hashlib.sha256(lie + original[8:]).hexdigest()
            (bundle / models.CARD).write_text(json.dumps(card | {"sha256": sha}))
            assert judged(lambda: use(bundle))[0] == 3
    finally:
        weights.write_bytes(original)
        (bundle / models.CARD).write_text(text)


def stored(header):
    """A safetensors file with this header and a few bytes."""
    content = json.dumps(header).encode()
    return struct.pack("<Q", len(content)) + content + bytes(5000)


def test_any_checkpoint(folder, monkeypatch):
    monkeypatch.setenv("DIFFUSIONMODELS_MODELS", str(folder / "store"))
    path = folder / "c.pt"
    torch.save({"a.weight": torch.zeros(2, 3), "b": torch.ones(4)}, path)
    torch.save({"a.weight": torch.zeros(2)}, folder / "old.pt", _use_new_zipfile_serialization=False)
    contents = [path.read_bytes(), (folder / "old.pt").read_bytes()]

    @fuzz(100)
    @given(st.one_of(*map(damaged, contents), st.binary(max_size=40)), st.sampled_from(["c.pt", "c.safetensors", "c.ckpt"]))
    def check(content, name):
        code, _ = judged(lambda: models.import_model("a11", only(folder, name, content)))
        assert code in (2, 3)
        assert [p.name for p in folder.iterdir()] == [name]

    check()


class Foreign:
    """Pickled, it makes a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    """Checkpoints of every kind, arrays of objects in .npz and .npy: refused, and the code in them doesn't run."""
    monkeypatch.setenv("DIFFUSIONMODELS_MODELS", str(tmp_path / "store"))
    mark, foreign = tmp_path / "mark", Foreign(tmp_path / "mark")
    torch.save({"a": torch.zeros(2), "x": foreign}, tmp_path / "zip.pt")
    torch.save({"x": foreign}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(foreign))
    (tmp_path / "bare.safetensors").write_bytes(pickle.dumps(foreign))
    for name in ("zip.pt", "old.pt", "bare.pth", "bare.safetensors"):
        assert judged(lambda n=name: models.import_model("a11", tmp_path / n))[0] == 3
    objects = np.array([foreign, 1], dtype=object)
    np.savez(tmp_path / "p.npz", sinogram=objects, geometry=np.array(json.dumps(SCAN)))
    assert judged(lambda: read_projections(tmp_path / "p.npz"))[0] == 2
    job = tmp_path / "job"
    job.mkdir()
    write_job(job, Request("fbp", {"size": 32}), fbp_items())
    np.save(job / "projections.npy", objects, allow_pickle=True)
    assert judged(lambda: run_job(job, json.dumps))[0] == 2
    (job / "projections.npy").write_bytes(pickle.dumps(foreign))
    assert judged(lambda: run_job(job, json.dumps))[0] == 2
    assert not mark.exists()
    pickle.loads((tmp_path / "bare.pth").read_bytes()).close()
    assert mark.exists()  # the bait works


def test_a_tensor_that_is_larger_than_its_file_is_refused(tmp_path, monkeypatch):
    """A view that repeats one value would fill the memory when it is stored."""
    monkeypatch.setenv("DIFFUSIONMODELS_MODELS", str(tmp_path / "store"))
    torch.save({"a": torch.zeros(1).expand(1 << 40)}, tmp_path / "c.pt")
    assert judged(lambda: models.import_model("a11", tmp_path / "c.pt"))[0] == 3


# ---- lists of studies and command lines ----


def test_any_list_of_studies(folder):
    cell = st.one_of(st.text(max_size=6), st.sampled_from(["id", "ct", "a", "..", "a/b", "CON", "", '"', "\0", "x.nrrd"]))
    table = st.lists(st.lists(cell, max_size=4).map(",".join), max_size=4).map("\n".join)

    @fuzz(150)
    @given(st.one_of(table.map(lambda t: t.encode("utf-8", "replace")), table.map(lambda t: f"id,ct\n{t}".encode("utf-8", "replace")),
                     st.binary(max_size=60)))
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
