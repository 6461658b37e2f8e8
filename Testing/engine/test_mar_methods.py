"""A11, LI and NMAR as the product runs them: oracle, exactness, geometry, slices, seeds; with stand-ins for the
prior."""

from __future__ import annotations

import head
import numpy as np
import pytest
import torch
from scipy import ndimage

from diffusion_backend import methods
from diffusion_backend.data import Grid, PatientGeometry, Segmentation, projections, volume
from diffusion_backend.errors import InputError
from diffusion_backend.execute import Request, Surroundings, execute
from diffusion_backend.io import syndeeplesion
from diffusion_backend.methods.a11_dudodp import Measurement, dual_domain_loop, hu_prior, respaced
from diffusion_backend.physics.ct import ImageGrid, hu_to_mu, mu_to_hu, projector
from diffusion_backend.physics.fbp import fbp
from diffusion_backend.physics.metal import virtual_geometry
from diffusion_backend.physics.plane import Scanner

VIRTUAL = {"views": 120, "bins": 121}


def smoother(x, sigma, cond=None):
    """A weak prior: mean over 3 x 3 pixels."""
    return torch.nn.functional.avg_pool2d(x.clamp(-1000, 2000), 3, 1, 1, count_include_pad=False)


def run(name, ct, *, prior=smoother, samples=1, seed=0, batch=None, preset="standard", inputs=None, **parameters):
    """Result of a method with a stand-in for its prior."""
    around = Surroundings(load=lambda model, device: prior)
    request = Request(name, parameters, preset, seed=seed, samples=samples, batch=batch, device="cpu")
    return execute(methods.load(name), request, {"ct": ct, **(inputs or {})}, around)


def grid(array, spacing=(2.0, 2.0, 3.0), origin=(0.0, 0.0, 0.0), direction=None) -> Grid:
    placed = PatientGeometry.from_itk(spacing, origin, np.eye(3).ravel() if direction is None else direction)
    return volume(array, placed)


def out(result, name="corrected"):
    return result.outputs[name].array


@pytest.mark.parametrize("name", ["li", "nmar", "a11"])
def test_slices_without_metal_and_metal_itself_stay_bit_for_bit(name):
    ct = grid(head.hu(slices=5), direction=head.rotation(), spacing=(2.0, 1.5, 4.0))
    steps = {"steps": 5} if name == "a11" else {}
    result = run(name, ct, **VIRTUAL, **steps)
    corrected, metal = out(result), out(result, "metal") > 0
    assert corrected.dtype == np.float32 and corrected.shape == ct.array.shape
    assert result.outputs["corrected"].geometry == ct.geometry
    assert np.array_equal(corrected[[0, 1, 3, 4]], ct.array[[0, 1, 3, 4]])
    assert metal[2].any() and np.array_equal(corrected[metal], ct.array[metal])
    assert np.array_equal(metal, ct.array > 2500)
    assert np.allclose(out(result, "difference"), corrected - ct.array)
    assert out(result, "shadow")[2].max() > 0.5 and out(result, "shadow")[0].max() == 0
    assert len(result.outputs["report"].rows) == 1


@pytest.mark.parametrize("name", ["li", "nmar", "a11"])
def test_streaks_get_weaker_on_a_phantom_with_simulated_metal(name):
    """The virtual measurement of an image that holds only metal's streaks is repaired towards the truth."""
    from diffusion_backend.params import validate
    from diffusion_backend.simulate import metal as simulation

    clean = grid(head.hu(slices=1, size=96, metal=False), spacing=(3.0, 3.0, 3.0))
    p = validate(simulation.PARAMETERS, {"implant": "screw", "metal": "steel316l", "photons": 0})
    made = simulation.simulate({"ct": clean}, p, seed=3)
    result = run(name, made["ct.nrrd"], inputs={"metal": made["metal.nrrd"]}, **VIRTUAL)
    outside = ndimage.binary_dilation(made["metal.nrrd"].array > 0, iterations=3) == 0
    inside = outside & (clean.array > -500)

    def error(array):
        return float(np.sqrt(np.mean((array - clean.array)[inside] ** 2)))

    assert error(out(result)) < 0.9 * error(made["ct.nrrd"].array)
    far = ndimage.distance_transform_edt(made["metal.nrrd"].array[0] == 0) * 3.0 > 100  # check 13: mm from the metal
    soft = far & (clean.array[0] == 40)
    assert soft.sum() > 100 and abs(np.median((out(result) - clean.array)[0][soft])) < 10


def test_an_axis_that_is_not_axial_is_worked_along_the_patient():
    """The same patient stored with sagittal slices first gives the same result, moved along."""
    array = head.hu(slices=17, size=48)
    plain = run("li", grid(array, (2.0, 2.0, 3.0)), **VIRTUAL)
    turned = np.ascontiguousarray(np.moveaxis(array, 0, 2))  # (row, column, slice): k runs along the patient's y
    direction = np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]], float)  # i -> z, j -> x, k -> y
    moved = run("li", grid(turned, (3.0, 2.0, 2.0), direction=direction.ravel()), **VIRTUAL)
    assert np.allclose(np.moveaxis(out(moved), 2, 0), out(plain), atol=1e-3)


def test_anisotropic_and_oblong_slices_work():
    array = head.hu(slices=1, size=64)[:, :, 4:60]
    result = run("nmar", grid(array, (2.0, 1.3, 3.0)), **VIRTUAL)
    assert out(result).shape == array.shape and np.abs(out(result) - array).max() > 1


def test_an_empty_shadow_is_the_plain_reconstruction():
    """With projections and no metal the result is the FBP exactly (image-only, slices without metal are copied)."""
    hu = head.hu(slices=2, metal=False)
    geometry = virtual_geometry(ImageGrid(64, 64, 2.0), 120, 121)
    project = projector(geometry, ImageGrid(64, 64, 2.0))
    sinogram = project.forward(hu_to_mu(torch.from_numpy(hu)))
    measured = projections(sinogram.numpy(), geometry.to_dict())
    for name in ("li", "nmar", "a11"):
        steps = {"steps": 5} if name == "a11" else {}
        result = run(name, grid(hu), inputs={"sinogram": measured}, **steps)
        expected = mu_to_hu(fbp(sinogram, geometry, ImageGrid(64, 64, 2.0))).numpy()
        assert np.abs(out(result) - expected).max() == 0, name


def test_metal_that_leaves_no_data_is_refused():
    hu = head.hu(slices=1)
    everywhere = Segmentation(np.ones(hu.shape, np.uint8), grid(hu).geometry, {"metal": 1})
    with pytest.raises(InputError, match="20%|20 %"):
        run("li", grid(hu), inputs={"metal": everywhere}, **VIRTUAL)


def test_seeds_repeat_differ_and_do_not_depend_on_the_batch():
    ct = grid(np.concatenate([head.hu(slices=1, size=48)] * 4))
    first, again, other = (out(run("a11", ct, seed=s, steps=5, **VIRTUAL)) for s in (3, 3, 4))
    assert np.array_equal(first, again)
    assert np.abs(first - other).max() > 0
    single = out(run("a11", ct, seed=3, steps=5, batch=1, **VIRTUAL))
    assert np.sqrt(np.mean((single - first) ** 2)) <= 0.05
    for k in range(1, 4):  # shared noise: equal slices get equal results
        assert np.abs(first[k] - first[0]).max() < 1e-2
    free = out(run("a11", ct, seed=3, steps=5, slice_noise="independent", **VIRTUAL))
    assert np.abs(free[1] - free[0]).max() > 0.1


def test_samples_give_mean_and_standard_deviation():
    ct = grid(head.hu(slices=1, size=48))
    result = run("a11", ct, samples=3, steps=5, **VIRTUAL)
    std = out(result, "std")
    assert std.shape == ct.array.shape and std.max() > 0
    assert std[out(result, "metal") > 0].max() == 0
    far = np.zeros_like(std, bool)
    far[:, :6, :6] = True
    assert std[far].mean() < 0.5 * std[std > 0].mean()


def test_network_calls_are_those_of_the_plan_and_the_published_preset_is_the_published_number():
    ct = grid(head.hu(slices=3, size=48))
    result = run("a11", ct, steps=7, **VIRTUAL)
    assert result.record["evaluations"] == 7  # one slice with metal
    preset = methods.load("a11").METHOD.presets["published"]
    assert preset["steps"] == 100
    schedule = respaced(100)
    assert schedule.steps == 100 and schedule.alpha_bar[99] ** 0.5 == pytest.approx(0.006353, abs=1e-6)
    assert run("a11", ct, preset="published", **VIRTUAL).record["evaluations"] == 100


def test_a_first_guess_spares_the_levels_beyond_the_priors_training():
    """With start_noise no call lies above it, the first one is at it, and the number of calls is that of the steps."""
    seen = []

    def watched(x, sigma, cond=None):
        seen.append((float(sigma), float(x.std())))
        return smoother(x, sigma)

    ct = grid(head.hu(slices=1, size=48))
    result = run("a11", ct, prior=watched, preset="quick", **VIRTUAL)
    levels, spreads = zip(*seen[-8:])
    assert result.record["evaluations"] == 8
    assert levels[0] == pytest.approx(3000, rel=0.01) and list(levels) == sorted(levels, reverse=True)
    assert spreads[0] == pytest.approx(3000, rel=0.1)
    assert respaced(20).alpha_bar == respaced(20, 0.0).alpha_bar


def test_a_coarse_network_grid_gives_a_result_at_full_resolution():
    ct = grid(head.hu(slices=1, size=96))
    sizes = []

    def watched(x, sigma, cond=None):
        sizes.append(tuple(x.shape[-2:]))
        return smoother(x, sigma)

    corrected = out(run("a11", ct, prior=watched, steps=5, image_size=64, **VIRTUAL))
    assert set(sizes[1:]) <= {(48, 48)} and corrected.shape == (1, 96, 96)
    fine = out(run("a11", ct, steps=5, image_size=128, **VIRTUAL))
    assert np.sqrt(np.mean((corrected - fine)[ct.array > -500] ** 2)) < 90


def loop_parts(size=48):
    """Truth in mu (1/cm), measurement with a shadow, operators of the loop."""
    image = ImageGrid(size, size, 2.0)
    scanner = Scanner(virtual_geometry(image, 120, 121), image, "cpu", 0)
    hu = torch.from_numpy(head.hu(slices=1, size=size, metal=False))
    mu = 10 * hu_to_mu(hu)[:, None]
    metal = torch.from_numpy(head.hu(slices=1, size=size) > 2500)
    return scanner, mu, metal


def measurement(scanner, sinogram, trace, **more):
    return Measurement(sinogram, trace, lambda m: scanner.project(m / 10), lambda s: 10 * scanner.reconstruct(s),
                       scanner.level, **more)  # fmt: skip


def zero_noise(shape):
    return lambda i: torch.zeros(shape)


@pytest.mark.parametrize("normalised", [False, True])
def test_oracle_with_exact_data_gives_fbp_outside_and_truth_inside(normalised):
    """Check 3: with the truth as prior every R outside M is FBP(FP(x0)); the end doesn't depend on the steps."""
    scanner, mu, metal = loop_parts()
    sinogram = scanner.project(mu / 10)
    data = measurement(scanner, sinogram, scanner.trace(metal)[:, None], normalised=normalised)
    ends = []
    for steps in (10, 100):
        schedule = respaced(steps)
        ends.append(dual_domain_loop(lambda x, i: 2 * mu - 1, zero_noise(mu.shape), schedule, data, delta_period=100))
    assert torch.allclose(ends[0], ends[1], atol=2e-3)
    m = ((1 - 0.6 * np.exp(-4 / 100)) * data.spread()).clamp(0, 1)
    expected = m * (2 * mu - 1) + (1 - m) * (2 * 10 * scanner.reconstruct(sinogram) - 1)
    assert torch.allclose(ends[1], expected, atol=2e-3)
    assert m.max() == 1


def test_published_delta_is_at_its_end_for_every_number_of_steps():
    """Check of trap 1: delta(T - 1) = 1 - (1 - a) e^-n for every T, seen through the loop's first weight."""
    scanner, mu, metal = loop_parts(32)
    data = measurement(scanner, scanner.project(mu / 10), scanner.trace(metal)[:, None])
    for steps in (5, 20, 100):
        weights = {}
        dual_domain_loop(lambda x, i: 2 * mu - 1, zero_noise(mu.shape), respaced(steps), data, a=0.3, n=2.0,
                         on_step=lambda i, s, w=weights: w.__setitem__(i, s["m_t"]))  # fmt: skip
        expected = ((1 - 0.7 * np.exp(-2.0)) * data.spread()).clamp(0, 1)
        assert torch.allclose(weights[steps - 1], expected, atol=1e-6)


def test_weights_are_linear_before_clipping():
    """Check 6: the reconstruction of the shadow is linear, so that one serves all steps."""
    scanner, _, metal = loop_parts()
    trace = scanner.trace(metal)[:, None].float()
    one, scaled = scanner.reconstruct(4 * trace), scanner.reconstruct(4 * 0.37 * trace)
    assert torch.allclose(0.37 * one, scaled, atol=1e-6 * float(one.abs().max()))


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_field_of_view_rule_makes_the_result_independent_of_the_pixel_size(scale):
    """Section 2.7: the same picture with other pixels keeps weights and, up to the line integrals, the result."""
    array = head.hu(slices=1, size=48)
    results = []
    for factor in (1.0, scale):
        image = ImageGrid(48, 48, 2.0 * factor)
        scanner = Scanner(virtual_geometry(image, 120, 121), image, "cpu", 1)
        trace = scanner.trace(torch.from_numpy(array > 2500))
        results.append(10 * scanner.reconstruct(scanner.level * trace.float()))
    assert torch.allclose(results[0], results[1], rtol=1e-4, atol=1e-4)
    first, second = (out(run("li", grid(array, (2.0 * f, 2.0 * f, 3.0)), **VIRTUAL)) for f in (1.0, scale))
    assert np.abs(first - second).max() < 0.5


def test_border_between_loop_and_prior_is_hounsfield():
    """x = 2 mu - 1: -1 is -1000 HU, -0.616 is water; the prior sees HU and the noise level in HU."""
    seen = []

    def prior(hu, sigma, cond):
        seen.append((hu.clone(), sigma))
        return hu

    schedule = respaced(20)
    root = schedule.alpha_bar[3] ** 0.5
    x = torch.tensor([-1.0, -0.616, 1.0]).view(1, 1, 1, 3)
    back = hu_prior(prior, schedule)(root * x, 3)
    assert torch.allclose(seen[0][0].flatten(), torch.tensor([-1000.0, 0.0, 4208.33]), atol=0.5)
    assert seen[0][1] == pytest.approx((1 / root**2 - 1) ** 0.5 * 1000 / 0.384, rel=1e-6)
    assert torch.allclose(back, x, atol=1e-5)


@pytest.mark.real
@pytest.mark.parametrize("k", range(5))
def test_oracle_of_the_product_reaches_the_note_on_the_syndeeplesion_sample(real_data, k):
    """Check 7: body <= 20 HU, ring of 3 to 20 pixels <= 50 HU, measured sinogram, truth as prior."""
    from test_metal import stored

    case, sample = stored(real_data, k), syndeeplesion.read(real_data / "syndeeplesion-sample", k)
    truth = torch.from_numpy(case["hu"])
    inputs = {"sinogram": sample.sinogram, "metal": sample.metal}
    result = run("a11", sample.ct, prior=lambda x, s, c=None: truth.expand_as(x), inputs=inputs,
                 steps=5, image_size=512, trace_fill="replaced")  # fmt: skip
    error = out(result)[0] - case["hu"]
    distance = ndimage.distance_transform_edt(~case["mask"])
    inside = case["body"] & ~case["mask"]
    ring = inside & (distance >= 3) & (distance <= 20)
    assert np.sqrt(np.mean(error[inside] ** 2)) <= 20
    assert np.sqrt(np.mean(error[ring] ** 2)) <= 50


def test_options_of_the_shared_part():
    """Neighbours within slice_margin are corrected with the outline; the metal can be a fixed value or the estimate."""
    ct = grid(head.hu(slices=5, size=48))
    corrected = out(run("li", ct, slice_margin=1, reinsert="fixed", reinsert_hu=1234, **VIRTUAL))
    changed = [bool((corrected[k] != ct.array[k]).any()) for k in range(5)]
    assert changed == [False, True, True, True, False]
    assert (corrected[2][ct.array[2] > 2500] == 1234).all()
    left = out(run("li", ct, reinsert="no", **VIRTUAL))
    assert left[2][ct.array[2] > 2500].max() < 2500
    only = out(run("li", ct, slice_margin=1, first_slice=3, last_slice=3, **VIRTUAL))
    assert [bool((only[k] != ct.array[k]).any()) for k in range(5)] == [False, False, False, True, False]
    with pytest.raises(InputError, match="slices 7 to 100000 were asked for"):
        run("li", ct, first_slice=7, **VIRTUAL)


def test_nmar_image_as_prior_needs_no_network():
    """The fallback without weights: no model is loaded, and the result is between the input and NMAR's own."""
    ct = grid(head.hu(slices=3, size=48))
    around = Surroundings(load=None)
    request = Request("a11", {"prior": "nmar", "steps": 5, "restore_detail": False, **VIRTUAL}, device="cpu")
    result = execute(methods.load("a11"), request, {"ct": ct}, around)
    assert result.record["evaluations"] == 0
    body = (ct.array[1] > -500) & (ct.array[1] < 2500)
    own = out(run("nmar", ct, restore_detail=False, **VIRTUAL))[1]
    assert np.abs(out(result)[1] - own)[body].mean() < 0.5 * np.abs(ct.array[1] - own)[body].mean()


def test_detail_that_the_virtual_scanner_lost_is_given_back():
    """The method's part and the lost detail add up; far from the metal the slice changes less."""
    ct = grid(head.hu(slices=1, size=64), spacing=(3.0, 3.0, 3.0))
    ct = ct.like(ct.array + np.random.default_rng(0).normal(0, 20, ct.array.shape).astype(np.float32))
    with_detail, without = run("li", ct, **VIRTUAL), run("li", ct, restore_detail=False, **VIRTUAL)
    metal = torch.from_numpy(out(with_detail, "metal") > 0)
    touched = ndimage.binary_dilation(metal[0].numpy(), np.ones((3, 3)))
    plane = ImageGrid(64, 64, 3.0)
    scanner = Scanner(virtual_geometry(plane, **VIRTUAL), plane, "cpu", 1)
    seen = np.where(touched, run("li", ct, restore_detail=False, reinsert="no", **VIRTUAL).outputs["corrected"].array,
                    ct.array).clip(min=-1000)
    projected = scanner.project(hu_to_mu(torch.from_numpy(seen.astype(np.float32))))
    lost = seen - mu_to_hu(scanner.reconstruct(projected)).numpy()
    outside = ~metal.numpy()
    assert np.allclose((out(with_detail) - out(without))[outside], lost[outside], atol=0.05)
    far = (ndimage.distance_transform_edt(outside[0]) > 12) & (ct.array[0] > -500)
    change = [np.abs(out(r)[0] - ct.array[0])[far].mean() for r in (with_detail, without)]
    assert change[0] < 0.6 * change[1]


def test_slices_without_metal_are_reconstructed_from_their_projections_without_a_network_call():
    """As the method fbp does, while the slice with metal is inpainted."""
    hu = head.hu(slices=3, size=64)
    ct, plane = grid(hu, spacing=(3.0, 3.0, 3.0)), ImageGrid(64, 64, 3.0)
    geometry = virtual_geometry(plane, **VIRTUAL)
    sinogram = projector(geometry, plane).forward(hu_to_mu(torch.from_numpy(hu)))
    measured = projections(sinogram.numpy(), geometry.to_dict(), ct.geometry)
    result = run("a11", ct, inputs={"sinogram": measured}, steps=5, **VIRTUAL)
    assert result.record["evaluations"] == 5  # head.hu has metal in its middle slice
    plain = mu_to_hu(fbp(sinogram, geometry, plane)).numpy()
    assert np.allclose(out(result)[[0, 2]], plain[[0, 2]], atol=1e-2)
    assert not np.allclose(out(result)[1], plain[1], atol=10)
