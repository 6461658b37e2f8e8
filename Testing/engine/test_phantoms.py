"""Generated phantoms, implants and the task `simulate metal`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffusion_backend.anatomy import implants
from diffusion_backend.anatomy.phantoms import REGIONS, phantom
from diffusion_backend.data import Grid, PatientGeometry, Segmentation, volume
from diffusion_backend.errors import InputError
from diffusion_backend.params import UNITS, validate
from diffusion_backend.physics import metal as physics
from diffusion_backend.physics.ct import Geometry, ImageGrid, projector
from diffusion_backend.simulate import metal

IDENTITY = (1, 0, 0, 0, 1, 0, 0, 0, 1)


def grid_of(hu: np.ndarray, spacing=(3.2, 3.2, 3.0)) -> Grid:
    return volume(hu, PatientGeometry.from_itk(spacing, (10.0, -20.0, 5.0), IDENTITY))


def run(ct: Grid, seed: int = 0, **settings) -> dict:
    return metal.simulate({"ct": ct}, validate(metal.PARAMETERS, {"views": 180} | settings), seed)


@pytest.fixture(scope="module")
def pelvis() -> Grid:
    made = phantom("pelvis", seed=1, slices=3, size=128)
    return grid_of(made.hu, (made.pixel_mm, made.pixel_mm, made.slice_mm))


@pytest.mark.parametrize("region", REGIONS)
def test_phantoms_hold_air_fat_tissue_and_bone_in_hounsfield_units(region):
    hu = phantom(region, seed=0, size=128).hu[0]
    assert hu.dtype == np.float32 and -1024 <= hu.min() < -950 and 600 < hu.max() < 2400
    border = np.concatenate((hu[[0, -1]].ravel(), hu[:, [0, -1]].ravel()))
    assert border.max() < -900                                        # the field of view doesn't cut the body
    body = hu > -500
    assert 0.1 < body.mean() < 0.7
    shares = {"fat": (-150, -50), "soft": (0, 120), "bone": (200, 3000)}
    for low, high in shares.values():
        assert ((hu > low) & (hu < high)).sum() > 0.005 * body.sum()


@pytest.mark.parametrize("region", REGIONS)
def test_phantoms_repeat_with_the_seed_and_vary_without(region):
    first, again, other = (phantom(region, seed=s, size=96).hu for s in (3, 3, 4))
    assert np.array_equal(first, again)
    assert np.abs(first - other).mean() > 10


def test_neighbouring_slices_of_a_phantom_show_the_same_patient():
    hu = phantom("abdomen", seed=2, slices=3, size=96, slice_mm=2.0).hu
    near, far = np.abs(hu[0] - hu[1]).mean(), np.abs(hu[0] - phantom("abdomen", seed=5, size=96).hu[0]).mean()
    assert 0 < near < 0.5 * far


def test_femoral_heads_stand_where_the_phantom_says():
    made = phantom("pelvis", seed=0, size=192)
    x, y, _, radius = made.places["left hip"]
    column, row = (round(v / made.pixel_mm + 95.5) for v in (x, y))
    assert made.hu[0, row - 3:row + 4, column - 3:column + 4].mean() > 200
    assert radius > 20
    with pytest.raises(ValueError, match="pelvis"):
        phantom("knee", seed=0)


def test_rasterised_solids_keep_their_volume():
    spacing = (0.7, 0.9, 1.5)
    ball = implants.Capsule((1.0, -2.0, 0.5), (1.0, -2.0, 0.5), 9.0, 9.0)
    share = implants.rasterise([ball], (24, 64, 64), spacing)
    assert share.sum() * np.prod(spacing) == pytest.approx(4 / 3 * np.pi * 9 ** 3, rel=0.01)
    rod = implants.Capsule((0, 0, -50), (0, 0, 50), 3.0, 3.0)         # leaves the volume at both ends
    share = implants.rasterise([rod], (10, 40, 40), (0.5, 0.5, 2.0))
    assert share.sum() * 0.5 == pytest.approx(20 * np.pi * 9, rel=0.01)
    tiny = implants.Capsule((0.1, 0.2, 0), (0.1, 0.2, 0), 0.3, 0.3)   # far smaller than a voxel
    assert 0 < implants.rasterise([tiny], (1, 9, 9), (1.0, 1.0, 1.0)).max() < 1


def test_an_outline_keeps_its_diameter():
    outline = np.zeros((100, 100))
    outline[20:80, 20:80] = 1                                         # area 3600: diameter of the equal circle 67.7
    prism = implants.Prism(outline, (3.0, 1.0, 0.0), 12.0, 30.0, 6.0)
    share = implants.rasterise([prism], (9, 80, 80), (0.5, 0.5, 1.0))
    assert share[4].sum() * 0.25 == pytest.approx(np.pi * 36, rel=0.02)
    assert (share.sum((1, 2)) > 0).sum() == 7 and share[4, 41, 45] == 1


@pytest.mark.parametrize("region,kind", [("pelvis", "hip"), ("head-neck", "filling"), ("chest", "screw")])
def test_the_usual_implant_fits_the_anatomy(region, kind):
    made = phantom(region, seed=1, size=192)
    assert implants.usual_implant(made.hu[0], made.pixel_mm) == kind


@pytest.mark.parametrize("kind", implants.KINDS)
def test_every_implant_lies_inside_the_body(kind, pelvis):
    rng = np.random.default_rng(0)
    spacing = pelvis.spacing
    (site, room), = implants.find_sites(pelvis.array, spacing, kind, 1, rng)
    share = implants.rasterise(implants.implant(kind, site, room, rng), pelvis.array.shape, spacing)
    assert share.max() > 0.05
    assert (pelvis.array[share > 0.05] > -300).mean() > 0.9


def test_simulated_metal(pelvis):
    made = run(pelvis)
    ct, reference, mask = (made[n] for n in ("ct.nrrd", "reference.nrrd", "metal.nrrd"))
    assert isinstance(mask, Segmentation) and mask.labels == {"metal": 1}
    assert ct.geometry == reference.geometry == mask.geometry == pelvis.geometry
    assert np.array_equal(reference.array, np.maximum(pelvis.array, -1000))
    inside = mask.array > 0
    assert inside.any() and np.median(ct.array[inside]) > 3000
    body = (reference.array > -500) & ~inside
    error = ct.array - reference.array
    assert 60 < np.sqrt((error[body] ** 2).mean()) < 2000             # there are artefacts
    assert abs(np.median(error[body])) < 25                           # but HU stay HU
    assert np.isfinite(ct.array).all() and ct.array.dtype == np.float32


def test_simulation_repeats_with_the_seed(pelvis):
    first, again, other = (run(pelvis, seed=s)["ct.nrrd"].array for s in (3, 3, 4))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_equal_slices_get_different_noise(pelvis):
    twice = grid_of(np.repeat(pelvis.array[:1], 2, axis=0))
    p = validate(metal.PARAMETERS, {"views": 90})
    images, *_ = metal.measure(twice.array, np.zeros(twice.array.shape, np.float32), "gold", metal_plane(twice), p, 0)
    assert (images[0] - images[1]).std() > 3


def test_without_metal_and_noise_only_blur_is_left(pelvis):
    p = validate(metal.PARAMETERS, {"views": 360, "photons": 0, "reference": "reconstruction"})
    plane = metal_plane(pelvis)
    images, clean, _, _ = metal.measure(pelvis.array[:1], np.zeros((1, 128, 128), np.float32), "gold", plane, p, 0)
    assert np.abs(images - clean).max() < 0.5                         # the reference is the same scan
    flat = np.abs(np.gradient(np.asarray(pelvis.array[0]))).max(0) < 30
    soft = flat & (np.abs(pelvis.array[0]) < 100)
    assert abs(np.median((clean - pelvis.array[:1])[0][soft])) < 12


def metal_plane(ct: Grid):
    from diffusion_backend.physics.plane import Plane

    return Plane.of(ct.array.shape[1:], (ct.spacing[1], ct.spacing[0]))


def test_options_of_the_simulation(pelvis):
    made = run(pelvis, twelve_bit=True, implant="screw", count=2, metal="steel316l", keep_projections=True)
    assert made["ct.nrrd"].array.max() == 3071
    data = made["projections.npz"]
    about = {k: v for k, v in data.acquisition.items() if k not in ("metal", "spectrum")}
    assert Geometry.from_dict(about).views == 180 and data.array.shape[:2] == (3, 180)
    assert data.acquisition["metal"] == "steel316l"
    field = run(pelvis, convention="field", metal="titanium")["ct.nrrd"].array
    assert 3000 < field.max() < 20000


@pytest.mark.parametrize("region,settings", [("pelvis", {}), ("head-neck", {"implant": "filling"}),
                                             ("chest", {"implant": "screw", "metal": "ti6al4v"})])
def test_trace_check_on_own_simulations(region, settings):
    made = phantom(region, seed=1, size=192)
    ct = grid_of(made.hu, (made.pixel_mm, made.pixel_mm, 3.0))
    files = run(ct, views=360, keep_projections=True, **settings)
    data = files["projections.npz"]
    about = {k: v for k, v in data.acquisition.items() if k not in ("metal", "spectrum")}
    p = projector(Geometry.from_dict(about), ImageGrid(192, 192, made.pixel_mm))
    y, right = torch.from_numpy(data.array), physics.metal_trace(torch.from_numpy(files["metal.nrrd"].array > 0), p)
    assert not physics.trace_too_small(y, right).any()
    assert physics.trace_too_small(y, physics.widen(right, -2)).all()


def test_oblong_pixels_and_outlines_from_a_file(tmp_path, pelvis):
    hu = np.repeat(pelvis.array[:1], 2, axis=1)[:, ::1]
    x, y, z = pelvis.spacing
    np.savez(tmp_path / "täst.npz", masks=np.pad(np.ones((2, 20, 20)), ((0, 0), (5, 5), (5, 5))))
    made = run(grid_of(hu, (x, y / 2, z)), shapes=str(tmp_path / "täst.npz"), shape_mm=25.0, photons=0)
    area = made["metal.nrrd"].array.sum() * x * y / 2
    assert area == pytest.approx(np.pi * 12.5 ** 2, rel=0.15)
    with pytest.raises(InputError, match="masks"):
        run(pelvis, shapes=str(tmp_path / "missing.npz"))


def test_bad_volumes_get_a_sentence(pelvis):
    with pytest.raises(InputError, match="Hounsfield"):
        run(grid_of(np.full((1, 64, 64), 30.0)))
    empty = np.full((1, 64, 64), -1000.0)
    empty[0, 30, 30] = 50
    with pytest.raises(InputError, match="no bone or soft tissue"):
        run(grid_of(empty))


def test_declaration_of_parameters():
    from diffusion_backend.physics.xray import materials

    for parameter in metal.PARAMETERS:
        assert parameter.help.endswith(".") and getattr(parameter, "unit", "") in UNITS
        parameter.parse(parameter.default)
    assert set(metal.METALS) - {"usual"} <= set(materials())
    assert set(implants.USUAL_METAL) == set(implants.KINDS) and set(implants.USUAL_METAL.values()) <= set(metal.METALS)
