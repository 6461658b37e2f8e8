"""Reader of OpenKBP: published and packed layouts, geometry, what counts as scanned."""

from __future__ import annotations

import numpy as np
import pytest

from diffusion_backend.errors import InputError
from diffusion_backend.io import openkbp

ROOM = (slice(30, 100), slice(20, 110), slice(10, 60))  # the body, published axes: posterior, left, inferior
CORD, GLAND = (slice(80, 84), slice(62, 66), slice(5, 70)), (slice(60, 70), slice(30, 36), slice(20, 30))


def sparse(mask: np.ndarray, values: np.ndarray | None = None) -> str:
    index = np.flatnonzero(mask)
    rows = [f"{i}," if values is None else f"{i},{values.flat[i]:.1f}" for i in index]
    return "\n".join([",data", *rows, ""])


def box(region) -> np.ndarray:
    mask = np.zeros(openkbp.SHAPE, bool)
    mask[region] = True
    return mask


def write(folder, number: int = 3, split: str = "train-pats"):
    """A published patient whose CT beyond slices 10 to 59 is kept in the cord alone."""
    place = folder / split / f"pt_{number}"
    place.mkdir(parents=True)
    ct = np.where(box(ROOM) | box(CORD), 1064.0, 0.0)
    ct[50, 50, 20] = 22878
    (place / "ct.csv").write_text(sparse(ct > 0, ct))
    (place / "SpinalCord.csv").write_text(sparse(box(CORD)))
    (place / "RightParotid.csv").write_text(sparse(box(GLAND)))
    (place / "possible_dose_mask.csv").write_text(sparse(box(ROOM)))
    (place / "voxel_dimensions.csv").write_text("3.9e+00\n3.9e+00\n2.5e+00\n")
    return place


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("openkbp")
    write(place)
    return place


def test_published_patient_in_patient_axes(folder):
    (patient,) = openkbp.patients(folder, "train")
    assert (patient.name, patient.split, patient.spacing) == ("pt_3", "train", (3.9, 3.9, 2.5))
    assert patient.present == ("SpinalCord", "RightParotid", "possible_dose_mask")
    gland = np.argwhere(patient.mask("RightParotid"))
    assert gland.min(0).tolist() == [127 - 29, 60, 30] and gland.max(0).tolist() == [127 - 20, 69, 35]
    assert patient.hu[127 - 40, 40, 40] == 40 and patient.hu[0, 0, 0] == -1024
    assert patient.hu.max() == openkbp.LARGEST - openkbp.OFFSET  # corrupt values are clipped
    with pytest.raises(InputError, match="no contour of Larynx"):
        patient.mask("Larynx")


def test_slices_that_show_contours_only_dont_count_as_scanned(folder):
    (patient,) = openkbp.patients(folder, "train")
    assert patient.scanned == (128 - 60, 128 - 10)
    assert (patient.hu > -1024).any((1, 2)).sum() == 65  # the cord's slices


def test_packed_patient_equals_the_published_one(folder, tmp_path):
    (direct,) = openkbp.patients(folder, "train")
    (first,) = openkbp.patients(folder, "train", tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["train_pt_003.npz"]
    (again,) = openkbp.patients(tmp_path, "train")
    for patient in (first, again):
        assert np.array_equal(patient.hu, direct.hu) and np.array_equal(patient.masks, direct.masks)
        assert (patient.present, patient.spacing, patient.scanned) == (direct.present, direct.spacing, direct.scanned)


def test_patient_without_ct_is_left_out_and_an_empty_split_is_an_error(folder, tmp_path):
    place = write(tmp_path, 205, "validation-pats")
    assert [p.name for p in openkbp.patients(tmp_path, "validation")] == ["pt_205"]
    (place / "ct.csv").unlink()
    with pytest.raises(InputError, match="no validation patient"):
        list(openkbp.patients(tmp_path, "validation"))


@pytest.mark.parametrize(("name", "text", "match"), [
    ("ct.csv", ",data\n5\n", "no value"), ("SpinalCord.csv", ",data\n2097152,\n", "outside"),
    ("ct.csv", ",data\n5,red\n", "damaged"),
])  # fmt: skip
def test_damaged_files_are_named(tmp_path, name, text, match):
    (write(tmp_path) / name).write_text(text)
    with pytest.raises(InputError, match=match) as problem:
        list(openkbp.patients(tmp_path, "train"))
    assert name in str(problem.value)


def test_damaged_packed_files_are_named(tmp_path):
    (tmp_path / "train_pt_003.npz").write_bytes(b"nothing")
    with pytest.raises(InputError, match="train_pt_003"):
        list(openkbp.patients(tmp_path, "train"))
    np.savez(tmp_path / "train_pt_003.npz", ct=np.zeros((2, 2, 2)), structures=np.zeros((2, 2, 2)), present=[],
             voxel_mm=[1, 1, 1])  # fmt: skip
    with pytest.raises(InputError, match="is needed"):
        list(openkbp.patients(tmp_path, "train"))


def test_longest_run():
    assert openkbp.longest_run(np.array([1, 0, 1, 1, 0, 1], bool)) == (2, 4)
    assert openkbp.longest_run(np.zeros(4, bool)) == (0, 0)


def test_real_patients(real_data):
    """Sizes, sides and units of the ten real patients: right parotid on the patient's right, head up, cord behind the
    parotids, soft tissue near 40 HU, a body in every scanned slice."""
    folder = real_data / "openkbp-mini"
    train, validation = (list(openkbp.patients(folder, split)) for split in ("train", "validation"))
    assert [p.name for p in train] == ["pt_22", "pt_59", "pt_66", "pt_104", "pt_119", "pt_196"]
    assert len(validation) == 4
    for patient in train + validation:
        right, left = (np.argwhere(patient.mask(s)).mean(0) for s in ("RightParotid", "LeftParotid"))
        cord = np.argwhere(patient.mask("SpinalCord")).mean(0)
        assert right[2] + 5 < cord[2] < left[2] - 5 and cord[0] < right[0] and cord[1] > right[1]
        muscle = patient.hu[(patient.hu > -20) & (patient.hu < 120)]
        assert -20 < np.median(muscle) < 60 and patient.hu.min() == -1024
        first, last = patient.scanned
        assert last - first > 20 and ((patient.hu[first:last] > -300).sum((1, 2)) > 300).all()
