"""A14 as a method: patient space, structures, start, chains, memory, with networks whose answer is known; real patients."""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from diffusion_backend import methods, models
from diffusion_backend.data import PatientGeometry, Segmentation, volume
from diffusion_backend.diffusion import bernoulli
from diffusion_backend.errors import InputError
from diffusion_backend.execute import Request, Surroundings, execute
from diffusion_backend.mask_models import MaskModel
from diffusion_backend.metrics.segmentation import compare

A14 = methods.load("a14")
CARD = {
    "id": "known", "interface": "Segmentor", "dims": 2, "channels": 10, "unit": "HU",
    "structures": ["Ball", "RightBox", "LeftBox"],
    "grid": {"pixel_mm": 3.5, "slices_mm": [-6.0, -3.0, 0.0, 3.0, 6.0], "windows": [[-200.0, 300.0], [-1000.0, 2000.0]]},
}  # fmt: skip
LABELS = {"Ball": 1, "RightBox": 2, "LeftBox": 3}
INSIDE = 300.0  # HU of every structure, 0 elsewhere
APART_MM = 17.0  # structures further from the middle are the boxes


class ByPlace(torch.nn.Module):
    """A segmentor that knows structures by their HU (middle slice, wide window) and tells them apart by their place."""

    def forward(self, x):
        share = ((x[:, 7] * 1500 + 500) / INSIDE).clamp(1e-3, 1 - 1e-3).logit()
        place = (torch.arange(x.shape[-1]) - (x.shape[-1] - 1) / 2) * CARD["grid"]["pixel_mm"]  # to the left
        where = [place.abs() <= APART_MM, place < -APART_MM, place > APART_MM]
        return [torch.stack([torch.where(w, share, -7.0) for w in where], 1)], [x, x]


class Oracle(torch.nn.Module):
    """A refiner that knows the truth: the structures by value, whatever state and prior say."""

    def forward(self, x, y, prior, features, t):
        truth = ByPlace()(x)[0][0] > 0
        return (y - truth.float()).abs()


def model(refiner=None):
    return MaskModel(CARD, ByPlace(), refiner, bernoulli.process() if refiner else None)


def run(ct, network, *, seed=0, batch=None, **inputs_and_parameters):
    start = inputs_and_parameters.pop("start", None)
    inputs = {"ct": ct} | ({"start": start} if start is not None else {})
    around = Surroundings(card=lambda m: CARD, load=lambda m, device: network)
    request = Request("a14", parameters=inputs_and_parameters, seed=seed, batch=batch)
    result = execute(A14, request, inputs, around)
    return result.outputs


ROTATED = np.array([[0.8, 0.6, 0.0], [-0.6, 0.8, 0.0], [0.0, 0.0, 1.0]]) @ np.array(
    [[1, 0, 0], [0, 0.96, -0.28], [0, 0.28, 0.96]]
)
DIRECTIONS = {"axial": np.eye(3), "oblique": ROTATED, "flipped": np.diag([-1.0, 1, -1]),
              "sagittal": np.array([[0.0, 0, 1], [1, 0, 0], [0, -1, 0]])}  # fmt: skip


def phantom(direction=None, shape=(40, 90, 70), spacing=(1.6, 1.4, 2.2)):
    """A ball in the middle and two boxes to its right and left, placed in the patient; the truth with its labels."""
    direction = np.eye(3) if direction is None else np.asarray(direction, float)
    middle = direction @ ((np.array(shape[::-1]) - 1) / 2 * spacing)
    geometry = PatientGeometry.from_itk(spacing, -middle, direction.ravel())
    k, j, i = np.indices(shape)
    matrix = np.asarray(geometry.direction).reshape(3, 3) * np.asarray(spacing)
    x, y, z = np.moveaxis(np.stack([i, j, k], -1) @ matrix.T + np.asarray(geometry.origin), -1, 0)
    truth = np.zeros(shape, np.uint8)
    truth[x**2 + y**2 + z**2 < 14**2] = 1
    box = (np.abs(y) < 9) & (np.abs(z) < 12)
    truth[box & (np.abs(x + 30) < 8)] = 2  # x runs to the patient's left
    truth[box & (np.abs(x - 30) < 8)] = 3
    hu = np.zeros(shape, np.float32)
    hu[truth > 0] = INSIDE
    hu[0, 0, 0] = -1000.0  # air, as every CT has
    return volume(hu, geometry), Segmentation(truth, geometry, LABELS)


def dice(outputs, truth):
    found = outputs["segmentation"]
    assert found.labels == truth.labels
    return [compare(found.array == n, truth.array == n, truth.geometry.spacing)["dice"] for n in truth.labels.values()]


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_structures_are_found_where_they_lie_in_the_patient(direction):
    """Oblique, flipped, sagittal and anisotropic: the voxels of the input itself, right stays right."""
    ct, truth = phantom(direction)
    outputs = run(ct, model(), refine=False)
    assert outputs["segmentation"].array.shape == ct.array.shape
    assert outputs["segmentation"].geometry == ct.geometry
    assert min(dice(outputs, truth)) > 0.8
    report = {row[0]: row[1:] for row in outputs["report"].rows}
    assert report["RightBox"][1] == pytest.approx(INSIDE, abs=40)
    assert report["Ball"][0] == pytest.approx(4 / 3 * np.pi * 1.4**3, rel=0.25)


def test_an_oracle_refiner_repairs_a_poor_start():
    """With e = |y_t - y_0| every chain ends in y_0, whatever the prior (note, section 7)."""
    ct, truth = phantom()
    poor = Segmentation(np.roll(truth.array, 6, axis=1), truth.geometry, truth.labels)
    assert max(dice({"segmentation": poor}, truth)) < 0.8
    kept = run(ct, model(), start=poor, refine=False)
    assert max(dice(kept, truth)) < 0.8, "without refiner the start stays"
    for sampler in ("ddim", "ddpm"):
        repaired = run(ct, model(Oracle()), start=poor, chains=2, calls=4, sampler=sampler)
        assert min(dice(repaired, truth)) > 0.8


def test_a_start_replaces_what_it_names_and_leaves_the_rest_to_the_segmentor():
    ct, truth = phantom()
    elsewhere = np.zeros_like(truth.array)
    elsewhere[:4, :8, :8] = 1
    outputs = run(ct, model(), start=Segmentation(elsewhere, truth.geometry, {"ball": 1}), refine=False)
    overlap = dice(outputs, truth)
    assert overlap[0] == 0 and min(overlap[1:]) > 0.8
    with pytest.raises(InputError, match="'start' has the segments heart"):
        run(ct, model(), start=Segmentation(truth.array, truth.geometry, {"heart": 1}))


def test_chosen_structures_are_numbered_anew_and_unknown_ones_are_named():
    ct, truth = phantom()
    outputs = run(ct, model(), refine=False, structures="leftbox, Ball")
    assert outputs["segmentation"].labels == {"Ball": 1, "LeftBox": 2}
    assert compare(outputs["segmentation"].array == 2, truth.array == 3, truth.geometry.spacing)["dice"] > 0.8
    with pytest.raises(InputError, match="no structure 'Lung'"):
        run(ct, model(), structures="Lung")


class Undecided(torch.nn.Module):
    """A refiner that flips a coin: e = 1/2."""

    def forward(self, x, y, prior, features, t):
        return torch.full_like(y, 0.5)


def test_uncertainty_is_one_bit_where_nothing_is_known_and_none_where_all_is():
    ct, _ = phantom()
    sure, undecided = (run(ct, model(r), chains=3)["uncertainty"].array for r in (Oracle(), Undecided()))
    inner = (slice(4, -4),) * 3
    assert undecided[inner] == pytest.approx(1.0, abs=1e-3) and undecided.max() <= 1 + 1e-6
    assert np.median(sure) == 0 and sure.max() <= 1 + 1e-6


class Noisy(torch.nn.Module):
    """A refiner that keeps half of the state: the draws matter."""

    def forward(self, x, y, prior, features, t):
        return 0.5 * y + 0.1


def test_the_seed_decides_and_the_batch_does_not():
    ct, _ = phantom()
    draws = [run(ct, model(Noisy()), seed=s, batch=b, chains=2, calls=3)["uncertainty"].array
             for s, b in ((0, 8), (0, 3), (1, 8))]  # fmt: skip
    assert np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])


def test_the_largest_piece_alone_is_kept_on_request():
    ct, truth = phantom()
    array = ct.array.copy()
    array[2:8, 5:14, 30:40] = INSIDE
    ct = ct.like(array)
    every, largest = (run(ct, model(), refine=False, pieces=p)["segmentation"].array == 1 for p in ("all", "largest"))
    assert every[3:7, 7:12, 32:38].any() and not largest[2:8, 5:14, 30:40].any()
    assert np.array_equal(every & (truth.array == 1), largest & (truth.array == 1))


def test_mirror_images_are_averaged_with_right_and_left_exchanged():
    """This network tells the sides by their place, so its mirror image names them the wrong way round."""
    ct, truth = phantom()
    plain, mirrored = (run(ct, model(), refine=False, flip=f) for f in (False, True))
    assert min(dice(mirrored, truth)) > 0.8
    assert np.abs(plain["uncertainty"].array - mirrored["uncertainty"].array).max() < 1e-4


def test_memory_does_not_grow_with_the_number_of_structures():
    """Full-resolution maps are made one at a time (complaint 24)."""
    ct, _ = phantom(shape=(40, 120, 120))
    shape, grid = (30, 8, 8), PatientGeometry.from_itk((3.5, 3.5, 3), (-14, -14, -45), np.eye(3).ravel())
    peaks = []
    for count in (2, 16):
        probabilities = np.full((shape[0], count, *shape[1:]), 0.6, np.float32)
        tracemalloc.start()
        A14._labels(probabilities, list(range(count)), ct, grid, SimpleNamespace(pieces="all"))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_a_card_that_does_not_fit_its_network_is_a_sentence(tmp_path):
    bundle = models.load_bundle("hidiff-hn")
    wrong = {**bundle.card, "structures": list(bundle.card["structures"])[:3]}
    from diffusion_backend.errors import ModelError
    from diffusion_backend.mask_models import mask_model

    with pytest.raises(ModelError, match="doesn't fit its card"):
        mask_model(models.Bundle(bundle.folder, wrong, bundle.parts))


@pytest.mark.real
@pytest.mark.parametrize("name", ["validation_pt_201", "validation_pt_212", "validation_pt_222", "validation_pt_226"])
def test_held_out_patients(real_data, name):
    """Bundled weights on OpenKBP's validation patients: loose bounds per patient, far above the atlas of the note."""
    from diffusion_backend.io import openkbp

    number = int(name.rsplit("_", 1)[1])
    patient = next(p for p in openkbp.patients(real_data / "openkbp-mini", "validation") if p.name == f"pt_{number}")
    placed = PatientGeometry.from_itk(patient.spacing, (0, 0, 0), np.eye(3).ravel())
    around = Surroundings(card=lambda m: models.read_card(models.find(m)), load=lambda m, d: models.load(m, d))
    result = execute(A14, Request("a14"), {"ct": volume(patient.hu, placed)}, around)
    first, last = patient.scanned
    found, bounds = result.outputs["segmentation"], {"Brainstem": 0.6, "RightParotid": 0.5, "Mandible": 0.6}
    for structure, least in bounds.items():
        if structure in patient.present:
            mask = found.array[first:last] == found.labels[structure]
            overlap = compare(mask, patient.mask(structure)[first:last], patient.spacing)["dice"]
            assert overlap > least, (structure, overlap)
