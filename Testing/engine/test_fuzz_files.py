"""Whatever a file of a user or a model holds: success, or one sentence and an exit code; never a traceback, a hang,
memory that a header merely announces, or something left behind (see `fuzzing`)."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import tempfile
import zipfile
from contextlib import contextmanager

import head
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from fuzzing import (
    GRID,
    SCAN,
    anything,
    changed,
    damaged,
    fbp_items,
    folder,
    fuzz,
    judged,
    mutated,
    npy_headers,
    only,
    watched,
)
from hypothesis import given
from hypothesis import strategies as st

from diffusion_backend import cards, memory, models, provenance
from diffusion_backend.data import volume
from diffusion_backend.execute import Request
from diffusion_backend.io import images
from diffusion_backend.io.projections import read_projections, write_projections
from diffusion_backend.job import run_job, write_job
from diffusion_backend.networks.unet import UNet

__all__ = ["watched", "folder"]

# ---- files of users ----


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
           b"gzip", b"raw", b"double", b"block", b"", b"-", b"/dev/zero", b"LIST", b"none", b"\xff\xfe",
           b"2147483647"]  # fmt: skip
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


@pytest.mark.parametrize("axes", ["2147483647", "11", "12", "-1", "0", "nan", ""])
def test_a_metaimage_of_any_number_of_axes_doesn_t_end_the_process(tmp_path, axes):
    source = head.write(tmp_path / "v.mha", head.hu(slices=2, size=8))
    source.write_bytes(source.read_bytes().replace(b"NDims = 3", b"NDims = " + axes.encode()))
    assert judged(lambda: images.read_volume(source))[0] == 2


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
    "network": {"architecture": "UNet", "dims": 2, "in_channels": 1, "out_channels": 1, "width": 8,
                "multipliers": [1, 2], "blocks": 1, "attention": []},
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
        for name in cards.TYPES:
            (bundle / models.CARD).write_text(json.dumps(card | {name: [[1]]}))
            code, sentence = judged(lambda: models.read_card(bundle))
            assert code == 3 and (name in sentence), sentence
        for name, value in (("width", 10**7), ("blocks", 10**9), ("classes", 10**12), ("multipliers", [1] * 10**6)):
            (bundle / models.CARD).write_text(json.dumps(changed(card, ("network", name), value)))
            assert judged(lambda: use(bundle))[0] == 3, name
    finally:
        (bundle / models.CARD).write_text(original)


def test_any_weights_of_a_model(bundle):
    """Also where the card's sha256 is that of the damaged file."""
    weights, card = bundle / models.WEIGHTS, json.loads((bundle / models.CARD).read_text())
    original, text = weights.read_bytes(), (bundle / models.CARD).read_text()
    length = struct.unpack("<Q", original[:8])[0]
    header = json.loads(original[8 : 8 + length])

    @fuzz(100)
    @given(st.one_of(damaged(original), damaged(original[: length + 8]), mutated(header).map(stored)), st.booleans())
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
    @given(st.one_of(*map(damaged, contents), st.binary(max_size=40)), st.sampled_from(["c.pt", "c.safetensors"]))
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


