"""SynDeepLesion: the re-encoded sample and the published HDF5 layout, units, masks, files that `run` takes."""

from __future__ import annotations

import sys

import h5py
import numpy as np
import pytest
from PIL import Image

from diffusion_backend.__main__ import main
from diffusion_backend.errors import InputError
from diffusion_backend.io import syndeeplesion
from diffusion_backend.io.images import read_segmentation, read_volume
from diffusion_backend.io.projections import read_projections
from diffusion_backend.physics.ct import Geometry, ImageGrid
from diffusion_backend.physics.metal import virtual_geometry


@pytest.fixture
def arrays():
    """Made-up contents of one slice with metal 1, values on the grid of the 16-bit sample."""
    rng = np.random.default_rng(0)
    outline = np.zeros((512, 512), np.uint8)
    outline[200:230, 310:317] = 1
    return {
        "image": rng.integers(-1000, 2000, (416, 416)).astype(np.int16),
        "ma": rng.integers(-2000, 19000, (416, 416)).astype(np.int16),
        "clean_q": rng.integers(0, 16000, (640, 641)).astype(np.int16),
        "ma_q": rng.integers(0, 30000, (640, 641)).astype(np.int16),
        "trace": rng.random((640, 641)) > 0.9,
        "outline": outline,
    }


@pytest.fixture
def published(tmp_path, arrays):
    """The published layout, with the inner folders of the full download and training masks of other metals."""
    folder = tmp_path / "set" / "some" / "prefix" / "test_640geo" / "000365_03_01" / "473"
    folder.mkdir(parents=True)
    masks = np.zeros((512, 512, 3), np.uint8)
    np.save(tmp_path / "set" / "trainmask.npy", 1 - masks)
    masks[:, :, 1] = arrays["outline"]
    np.save(tmp_path / "set" / "testmask.npy", masks)
    mu = {name: (0.192 * (1 + arrays[name] / 1000.0)).astype(np.float32) for name in ("image", "ma")}
    with h5py.File(folder / "gt.h5", "w") as file:
        file["image"], file["poly_sinogram"] = mu["image"], (arrays["clean_q"] / 4096.0).astype(np.float32)
        file["poly_CT"] = mu["image"]
    with h5py.File(folder / "1.h5", "w") as file:
        file["ma_CT"], file["ma_sinogram"] = mu["ma"], (arrays["ma_q"] / 4096.0).astype(np.float32)
        file.create_dataset("metal_trace", data=arrays["trace"].astype(np.uint8), compression="gzip")
    return tmp_path / "set"


@pytest.fixture
def sample(tmp_path, arrays):
    """The same slice in the encoding of the sample."""
    folder = tmp_path / "sample"
    folder.mkdir()
    np.savez(folder / "gt.npz", image_hu=arrays["image"], poly_sinogram_q=arrays["clean_q"])
    small = np.array(Image.fromarray(arrays["outline"]).resize((416, 416), Image.Resampling.BILINEAR))
    np.savez(folder / "metal1.npz", ma_CT_hu=arrays["ma"], ma_sinogram_q=arrays["ma_q"],
             metal_trace_bits=np.packbits(arrays["trace"]), mask416_bits=np.packbits(small))  # fmt: skip
    return folder


def test_both_layouts_give_the_same_slice(published, sample, arrays):
    (folder,) = syndeeplesion.slice_folders(published)
    assert syndeeplesion.metals(folder) == syndeeplesion.metals(sample) == [1]
    first, second = syndeeplesion.read(folder, 1), syndeeplesion.read(sample, 1)
    assert np.abs(first.ct.array[0] - arrays["ma"]).max() < 0.01
    assert np.abs(first.reference.array[0] - arrays["image"]).max() < 0.01
    assert np.array_equal(second.ct.array[0], arrays["ma"]) and np.array_equal(first.trace, arrays["trace"])
    for name in ("sinogram", "reference_sinogram"):
        assert np.array_equal(getattr(first, name).array, getattr(second, name).array)
    assert np.abs(second.sinogram.array[0] * 4096 - arrays["ma_q"]).max() == 0
    assert np.array_equal(first.metal.array, second.metal.array) and first.metal.array.any()
    assert np.array_equal(first.trace, second.trace)


def test_training_folders_take_the_training_masks(published):
    (folder,) = syndeeplesion.slice_folders(published)
    training = published / "train_640geo" / "p"
    training.parent.mkdir()
    folder.rename(training)
    assert syndeeplesion.read(training, 1).metal.array.all()


def test_masks_shrink_as_pillow_does():
    masks = np.random.default_rng(1).random((512, 512)) > 0.4
    expected = Image.fromarray(masks.astype(np.uint8)).resize((416, 416), Image.Resampling.BILINEAR)
    assert np.array_equal(syndeeplesion.shrink(masks), np.array(expected))


def test_geometry_is_the_virtual_one_of_the_published_field():
    own, virtual = Geometry.from_dict(syndeeplesion.geometry()), virtual_geometry(ImageGrid(416, 416, 0.369231))
    assert (own.type, own.views, own.bins, own.offset_mm) == (virtual.type, 640, 641, virtual.offset_mm)
    assert own.angles_deg == pytest.approx(virtual.angles_deg, abs=1e-9)
    for name in ("bin_mm", "source_axis_mm", "source_detector_mm"):
        assert getattr(own, name) == pytest.approx(getattr(virtual, name), rel=1e-6)
    assert own.bin_mm / syndeeplesion.PIXEL_MM == pytest.approx(1.835619, abs=2e-5)
    assert own.source_axis_mm == pytest.approx(1075 * 0.3 * 512 / 416)


def test_converted_files_are_what_run_reads(published, tmp_path, arrays, capsys):
    arguments = ["convert", "syndeeplesion", str(published), "--output", str(tmp_path / "out"), "--set", "metal=1"]
    assert main(arguments) == 0
    folder = tmp_path / "out" / "metal1"
    assert sorted(f.name for f in folder.iterdir()) == sorted(
        ["ct.nrrd", "reference.nrrd", "metal.nrrd", "projections.npz", "reference-projections.npz"])
    ct = read_volume(folder / "ct.nrrd")
    assert ct.spacing == pytest.approx((0.369231, 0.369231, 1.0), abs=1e-6)
    assert np.abs(ct.array[0] - arrays["ma"]).max() < 0.01
    assert read_segmentation(folder / "metal.nrrd").labels == {"metal": 1}
    for name, wanted in (("projections", "ma_q"), ("reference-projections", "clean_q")):
        stored = read_projections(folder / f"{name}.npz")
        assert stored.acquisition == syndeeplesion.geometry()
        assert np.array_equal(stored.array[0], (arrays[wanted] / 4096.0).astype(np.float32))
    assert main([*arguments[:-1], "metal=2"]) == 2
    assert "has no metal 2; it has: 1." in capsys.readouterr().err


def test_slices_of_a_data_set_get_their_own_folders(published, tmp_path):
    (folder,) = syndeeplesion.slice_folders(published)
    (folder.parent / "474").mkdir()
    for file in folder.iterdir():
        (folder.parent / "474" / file.name).write_bytes(file.read_bytes())
    syndeeplesion.convert(published, tmp_path / "out")
    made = {f.parent.relative_to(tmp_path / "out").as_posix() for f in (tmp_path / "out").rglob("ct.nrrd")}
    assert made == {"000365_03_01/473/metal1", "000365_03_01/474/metal1"}


def test_what_is_missing_is_said_in_a_sentence(published, sample, tmp_path, monkeypatch):
    (folder,) = syndeeplesion.slice_folders(published)
    with pytest.raises(InputError, match="holds no slice of SynDeepLesion"):
        syndeeplesion.convert(tmp_path / "nowhere", tmp_path / "out")
    np.savez(sample / "metal2.npz", ma_CT_hu=np.zeros((416, 416)))
    with pytest.raises(InputError, match="Metal 2 in .* can't be read"):
        syndeeplesion.read(sample, 2)
    np.savez(sample / "gt.npz", image_hu=np.zeros((512, 512)), poly_sinogram_q=np.zeros((640, 641)))
    with pytest.raises(InputError, match=r"has the shape \(512, 512\), but \(416, 416\) is needed"):
        syndeeplesion.read(sample, 1)
    (folder / "2.h5").write_bytes(b"no HDF5")
    with pytest.raises(InputError, match="can't be read as SynDeepLesion data"):
        syndeeplesion.read(folder, 2)
    (published / "testmask.npy").unlink()
    np.save(published / "trainmask.npy", np.zeros((512, 512, 1), np.uint8))
    with pytest.raises(InputError, match="n > 1 is needed"):
        syndeeplesion.read(folder, 1)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match="needs the package h5py"):
        syndeeplesion.read(folder, 1)


@pytest.mark.real
@pytest.mark.parametrize("k,pixels,share", [(0, 254, 0.0465), (1, 890, 0.1092), (2, 451, 0.0792), (3, 53, 0.0287),
                                            (4, 112, 0.0259)])  # fmt: skip
def test_sample_has_the_stated_metals_and_its_masks_shrink_to_each_other(real_data, k, pixels, share):
    folder = real_data / "syndeeplesion-sample"
    read = syndeeplesion.read(folder, k)
    assert read.metal.array.sum() == pixels and read.trace.mean() == pytest.approx(share, abs=1e-4)
    large = np.unpackbits(np.load(folder / f"metal{k}.npz")["mask512_bits"], count=512 * 512).reshape(512, 512)
    assert np.array_equal(syndeeplesion.shrink(large), read.metal.array[0])
