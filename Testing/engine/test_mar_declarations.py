"""The metal methods and FBP as a panel meets them: parameters, presets, plans, refusals, and input that a scanner has
already processed."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import head
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from test_files import write_dicom
from test_terminal import big_dicom

from diffusion_backend import checks, describe, estimate, methods, terminal
from diffusion_backend.data import PatientGeometry, Segmentation, projections, volume
from diffusion_backend.errors import InputError
from diffusion_backend.execute import Request, Surroundings, execute
from diffusion_backend.io import images
from diffusion_backend.job import read_job, read_result, run_job, write_job
from diffusion_backend.methods import _metal
from diffusion_backend.params import PRESETS, Integer, Real, validate
from diffusion_backend.physics import metal_mask
from diffusion_backend.physics.ct import Geometry, ImageGrid, hu_to_mu, projector
from diffusion_backend.physics.metal import virtual_geometry

METAL = ("li", "nmar", "a10", "a11")
NETWORK = ("a10", "a11")
FIVE = (*METAL, "fbp")
SIZE, SLICES, METAL_AT = 48, 5, (1, 3)
SMALL = {"views": 90, "bins": 91}
FEW = {"a10": {"steps": 5, "repeats": 1}, "a11": {"steps": 5}, "li": {}, "nmar": {}}
SPACING = (2.0, 2.0, 3.0)


def placed(origin=(0.0, 0.0, 0.0), direction=None, spacing=SPACING):
    return PatientGeometry.from_itk(spacing, origin, np.eye(3).ravel() if direction is None else direction)


def ct(slices=SLICES, **more):
    """Slices of the phantom, metal in the second and the fourth."""
    array = head.hu(slices=slices, size=SIZE, metal=False)
    for k in METAL_AT:
        array[k] = head.hu(slices=1, size=SIZE, **more)[0]
    return volume(array, placed())


def outline(at=(1,), labels=None, value=1, shape=(SLICES, SIZE, SIZE), origin=(0.0, 0.0, 0.0)):
    """A block of metal in some slices."""
    mask = np.zeros(shape, np.uint8)
    mask[list(at), 20:23, 20:23] = value
    return Segmentation(mask, placed(origin), {"metal": value} if labels is None else labels)


def measured(slices=SLICES, geometry=None, scale=1.0):
    """Projections of the phantom without metal."""
    geometry = geometry or virtual_geometry(ImageGrid(SIZE, SIZE, 2.0), 90, 91)
    array = head.hu(slices=slices, size=SIZE, metal=False)
    lines = projector(geometry, ImageGrid(SIZE, SIZE, 2.0)).forward(hu_to_mu(torch.from_numpy(array)))
    return projections(scale * lines.numpy(), geometry.to_dict())


class Prior:
    """An instant stand-in for a network that counts what it is asked."""

    def __init__(self):
        self.calls = 0

    def __call__(self, x, sigma, cond=None):
        self.calls += 1
        return x.clamp(-1, 1)


def run(name, inputs, *, network=None, preset="standard", samples=1, batch=None, told=None, **parameters):
    """Result of a method; `told` gathers the events."""
    network = network or Prior()
    report = (lambda event: None) if told is None else told.append
    around = Surroundings(report=report, load=lambda model, device: network)
    request = Request(name, parameters, preset, samples=samples, batch=batch, device="cpu")
    return execute(methods.load(name), request, inputs, around)


def warnings(name, inputs, **more):
    told = []
    run(name, inputs, told=told, **FEW[name], **SMALL, **more)
    return [e["message"] for e in told if e["event"] == "warning"]


# ---- parameters and presets ----


@pytest.mark.parametrize("name", FIVE)
def test_every_number_has_a_range_around_its_default_and_every_length_its_unit(name):
    units = {"hu": "HU", "threshold": "HU", "core": "HU", "noise": "HU", "pixel": "mm", "views": "views",
             "bins": "bins", "slice": "slices", "margin": "slices", "anchor": "bins", "size": None}  # fmt: skip
    for p in methods.load(name).METHOD.parameters:
        assert 15 < len(p.help) <= 200 and p.help.endswith(".") and "\n" not in p.help, p.name
        if isinstance(p, (Real, Integer)):
            assert math.isfinite(p.low) and math.isfinite(p.high) and p.low <= p.default <= p.high and p.low < p.high
            wanted = next((u for word, u in units.items() if p.name.endswith(word)), "")
            assert p.unit == wanted or (wanted is None and p.unit in ("pixels", "bins")) or not wanted, p.name


@pytest.mark.parametrize("name", FIVE)
def test_the_page_of_a_method_is_complete(name):
    page, declared = describe.as_page(name), methods.load(name).METHOD
    assert all(f"Preset {preset}: " in page for preset in PRESETS) and ": ." not in page
    assert declared.notes and page.rstrip().endswith(declared.notes)
    assert declared.citation.authors in page and str(declared.citation.year) in page


@pytest.mark.parametrize("name", FIVE)
def test_presets_are_there_valid_and_different(name):
    """The published preset says what the paper has, also where that is the standard (FBP: nothing to change)."""
    declared = methods.load(name).METHOD
    assert tuple(declared.presets) == PRESETS
    values = {n: vars(validate(declared.parameters, {}, given)) for n, given in declared.presets.items()}
    assert values["quick"] != values["standard"] and values["quick"] != values["published"]
    assert (values["standard"] == values["published"]) == (name == "fbp")
    for given in declared.presets.values():
        known = {p.name: p for p in declared.parameters}
        assert all(type(v) is type(known[n].parse(v)) or isinstance(v, int) for n, v in given.items())


def test_published_presets_are_those_of_the_papers():
    li, nmar, fbp = (methods.load(n).METHOD.presets["published"] for n in ("li", "nmar", "fbp"))
    assert li == {"anchor": 1, "trace_dilation": 0}
    assert nmar == {"keep_lung": False, "trace_dilation": 0}
    assert fbp["window"] == "ramp"
    assert methods.load("a10").METHOD.presets["published"].items() >= {"steps": 250, "repeats": 10, "jump": 10}.items()


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", METAL)
def test_every_preset_of_a_metal_method_runs(name, preset):
    """The numbers of steps are overridden: what else a preset changes is what is tested here."""
    few = FEW[name] | ({"jump": 2} if name == "a10" else {})
    result = run(name, {"ct": ct()}, preset=preset, **few | SMALL)
    assert np.isfinite(result.outputs["corrected"].array).all()
    given = methods.load(name).METHOD.presets[preset]
    kept = {n: v for n, v in given.items() if n not in few and n not in SMALL}
    assert result.record["parameters"].items() >= kept.items()


def test_the_quick_preset_measures_less():
    """Half the views and bins: a quarter of the line integrals."""
    full = run("li", {"ct": ct()}, keep_sinogram=True).outputs["completed"].array
    quick = run("li", {"ct": ct()}, preset="quick", keep_sinogram=True).outputs["completed"].array
    assert full.shape == (2, 640, 641) and quick.shape == (2, 320, 321)


def test_presets_of_fbp_cover_the_same_field():
    made = measured(slices=1)
    found = {preset: run("fbp", {"projections": made}, preset=preset).outputs["volume"] for preset in PRESETS}
    assert found["quick"].array.shape == (1, 128, 128) and found["standard"].array.shape == (1, 256, 256)
    widths = {preset: v.array.shape[2] * v.spacing[0] for preset, v in found.items()}
    assert widths["quick"] == pytest.approx(widths["standard"])
    assert np.array_equal(found["standard"].array, found["published"].array)
    told = made.acquisition | {"image": {"size": 48, "pixel_mm": 2.0}}
    hinted = run("fbp", {"projections": projections(made.array, told)}, preset="quick").outputs["volume"]
    assert hinted.array.shape == (1, 128, 128) and hinted.spacing[0] * 128 == pytest.approx(96)


# ---- plans ----


def planned(name, inputs, **parameters):
    """Stages of the plan, and the number of calls of a network in it."""
    declared = methods.load(name)
    p = validate(declared.METHOD.parameters, parameters)
    stages = declared.plan({n: checks.facts(item) for n, item in inputs.items()}, p)
    slots = {s.name for s in declared.METHOD.models}
    return stages, sum(s.items * s.calls for s in stages if s.part in slots)


def test_plans_are_made_without_torch():
    script = (
        "import sys, json; sys.modules['torch'] = None\n"
        "import numpy as np\n"
        "from diffusion_backend import checks, methods\n"
        "from diffusion_backend.data import PatientGeometry, projections, volume\n"
        "from diffusion_backend.params import validate\n"
        "array = np.full((3, 32, 32), -1000.0, np.float32); array[1, 8:12] = 5000\n"
        "ct = volume(array, PatientGeometry.from_itk((1, 1, 1), (0, 0, 0), np.eye(3).ravel()))\n"
        "about = {'type': 'parallel', 'angles_deg': list(range(90)), 'bins': 91, 'bin_mm': 1.0}\n"
        "made = projections(np.ones((3, 90, 91), np.float32), about)\n"
        "for name in sys.argv[1:]:\n"
        "    m = methods.load(name)\n"
        "    for preset in ('quick', 'standard', 'published'):\n"
        "        p = validate(m.METHOD.parameters, {}, m.METHOD.presets[preset])\n"
        "        cases = ({'projections': made},) if name == 'fbp' else ({'ct': ct}, {'ct': ct, 'sinogram': made})\n"
        "        for inputs in cases:\n"
        "            print(json.dumps([s.items for s in m.plan({n: checks.facts(i) for n, i in inputs.items()}, p)]))\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", script, *FIVE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines == [[1], [1]] * 3 * len(METAL) + [[3]] * 3


VARIANTS = [
    ("a10", {"steps": 10, "repeats": 3, "jump": 2}),
    ("a10", {"steps": 9, "repeats": 2, "jump": 4}),
    ("a10", {"steps": 10, "repeats": 2, "jump": 3, "start_level": 0.55}),
    ("a10", {"steps": 5, "repeats": 4, "jump": 500, "start": "noise"}),
    ("a11", {"steps": 6}),
    ("a11", {"steps": 5, "start_noise": 3000}),
    ("a11", {"steps": 40, "start_noise": 60}),  # fewer levels than steps below 60 HU
    ("a11", {"steps": 5, "prior": "nmar"}),
]


@pytest.mark.parametrize("mode", ["image", "projections"])
@pytest.mark.parametrize("name,parameters", VARIANTS, ids=lambda v: str(v) if isinstance(v, str) else "")
def test_a_run_makes_exactly_the_calls_of_its_plan(name, parameters, mode):
    inputs = {"ct": ct()} | ({"sinogram": measured()} if mode == "projections" else {})
    told = []
    result = run(name, inputs, told=told, **parameters, **SMALL)
    stages, calls = planned(name, inputs, **parameters, **SMALL)
    assert stages[0].items == len(METAL_AT)
    assert result.record["evaluations"] == calls
    assert (calls == 0) == (parameters.get("prior") == "nmar")
    shown = next(e for e in told if e["event"] == "plan")
    assert [(s["items"], s["calls"]) for s in shown["stages"]] == [(s.items, s.calls) for s in stages]
    if parameters.get("start_noise") == 60:
        assert 1 <= stages[0].calls < 40


@pytest.mark.parametrize("name", NETWORK)
def test_samples_repeat_the_calls_of_the_plan(name):
    inputs = {"ct": ct()}
    result = run(name, inputs, samples=2, **FEW[name], **SMALL)
    assert result.record["evaluations"] == 2 * planned(name, inputs, **FEW[name], **SMALL)[1]


SELECTIONS = [
    ({}, {"slice_margin": 1}, 5),
    ({}, {"first_slice": 2}, 1),
    ({}, {"first_slice": 1, "last_slice": 2, "slice_margin": 1}, 2),
    ({}, {"first_slice": 4}, 0),
    ({"metal": outline()}, {}, 1),
    ({"metal": outline(at=(0, 1, 4), value=3)}, {}, 3),
    ({"metal": outline(at=(0, 2), labels={"screw": 1})}, {"slice_margin": 1}, 4),
    ({"metal": outline(), "sinogram": measured()}, {"last_slice": 2}, 1),
]


@pytest.mark.parametrize("more,parameters,count", SELECTIONS)
def test_the_plan_counts_the_slices_that_are_worked_on(more, parameters, count):
    inputs = {"ct": ct(), **more}
    result = run("li", inputs, **parameters, **SMALL)
    assert planned("li", inputs, **parameters, **SMALL)[0][0].items == count == len(result.outputs["report"].rows)


def test_the_plan_follows_the_patients_long_axis():
    """The same patient stored with sagittal slices first: as many calls, of the same size."""
    plain = ct(slices=17)
    array = np.ascontiguousarray(np.moveaxis(plain.array, 0, 2))[:, ::2]  # oblong axial pixels, too: 2 x 4 mm
    direction = np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]], float)
    axis_turned = volume(array, placed(direction=direction.ravel(), spacing=(3.0, 4.0, 2.0)))
    stages, calls = planned("a11", {"ct": axis_turned}, steps=5, **SMALL)
    result = run("a11", {"ct": axis_turned}, steps=5, **SMALL)
    assert result.record["evaluations"] == calls == 10
    assert stages[0].shape == planned("a11", {"ct": plain}, steps=5, **SMALL)[0][0].shape == (1, SIZE, SIZE)


def test_the_memory_of_the_plan_holds_the_tables_of_the_projector():
    """Against the growth of a process that builds them: from below within a quarter, and no more than twice."""
    script = (
        "import torch; from diffusion_backend import memory\n"
        "from diffusion_backend.physics.ct import ImageGrid, projector\n"
        "from diffusion_backend.physics.fbp import fbp\n"
        "from diffusion_backend.physics.metal import virtual_geometry\n"
        "def use(size, views, bins):\n"
        "    image = ImageGrid(size, size, 1.0); scanner = virtual_geometry(image, views, bins)\n"
        "    fbp(projector(scanner, image).forward(torch.zeros(1, size, size)), scanner, image)\n"
        "use(16, 8, 9); before = memory.resident_bytes(); use(160, 320, 321); print(memory.resident_bytes() - before)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    grid = volume(np.zeros((2, 160, 160), np.float32), placed())
    parameters = validate(methods.load("li").METHOD.parameters, {"views": 320, "bins": 321})
    assert 0.75 < estimate.table_bytes(parameters, {"ct": grid}) / int(done.stdout) < 2
    coarse = validate(methods.load("a11").METHOD.parameters, {"views": 320, "bins": 321, "image_size": 80})
    more = estimate.table_bytes(coarse, {"ct": grid}) / estimate.table_bytes(parameters, {"ct": grid})
    assert more == pytest.approx(1 + 80 * 401 / (160 * 481))
    assert estimate.table_bytes(None, {"ct": grid}) == 0
    told = []
    run("li", {"ct": ct()}, told=told, preset="quick")
    assert told[0]["memory_mb"] >= int(4 * 320 * SIZE * (321 + SIZE) / 2**20) == 21


# ---- refusals ----

NARROW = {"type": "parallel", "bins": 21, "bin_mm": 2.0}
BAR = np.zeros((SLICES, SIZE, SIZE), np.uint8)
BAR[2, 23:25, 12:36] = 1  # 48 mm wide, on a detector of 42 mm


def narrow(*angles):
    return measured(geometry=Geometry.from_dict(NARROW | {"angles_deg": angles}))


def changed(change, unit="HU"):
    return volume(change(ct().array), placed(), unit)


def much_metal(array):
    array[3, 12:36, 16:32] = 4000
    return array


def streak(array):
    array[array > 2500] = 40
    array[1, 20, 10:30] = 2700
    return array


REFUSED = {
    "no unit": ({"ct": changed(lambda a: a, "")}, {}, "^The input 'ct' has no unit, but 'HU' is needed"),
    "stored values": ({"ct": changed(lambda a: a + 1024)}, {}, "'ct' isn't in HU.*smallest value is 24.*below -200"),
    "no metal": ({"ct": ct(top=1200.0)}, {}, "'ct' holds no metal: no voxel is above 2500 HU .largest value 1200"),
    "no piece": ({"ct": changed(streak)}, {}, "'ct' holds voxels above 2500 HU, but no piece.*reaches 3000 HU or"),
    "too much metal": ({"ct": changed(much_metal)}, {}, r"'ct' has voxels above 2500 HU in \d\d % of the body of slice "
                       "3, but at most 20 %"),
    "wide outline": ({"metal": Segmentation(np.ones((SLICES, SIZE, SIZE), np.uint8), placed())}, {},
                     "'metal' covers 100 % of the body of slice 0, but at most 20 %"),
    "slices of projections": ({"sinogram": measured(slices=4)}, {}, "'sinogram' has 4 slices, but 'ct' has 5"),
    "size of the outline": ({"metal": outline(shape=(SLICES, SIZE, SIZE - 1))}, {},
                            "'metal' has 5 × 48 × 47 voxels, but 'ct' has 5 × 48 × 48"),
    "place of the outline": ({"metal": outline(origin=(0, 6.5, 0))}, {}, "'metal' lies up to 6.5 mm off the voxels of "
                             "'ct', but both must"),
    "sign of projections": ({"sinogram": measured(scale=-1.0)}, {}, "'sinogram' is -.* on average.*0 to 15.*-log"),
    "scale of projections": ({"sinogram": measured(scale=100.0)}, {},
                             r"'sinogram' is [\d.]+ on average.*0 to 15.*-log"),
    "all-metal view": ({"sinogram": narrow(0, *range(60, 121, 3)), "metal": Segmentation(BAR, placed())}, {},
                       "^Slice 2 of the input 'ct' can't be corrected: in view 0 every ray meets metal, so nothing"),
    "wide shadow": ({"sinogram": narrow(*range(-45, 46, 3)), "metal": Segmentation(BAR, placed())}, {},
                    r"^Slice 2 of the input 'ct' can't be corrected: the metal trace covers \d+% .*at most 60%"),
    "slices asked for": ({}, {"first_slice": 5}, "slices 5 to 100000 were asked for, but .* slices 0 to 4"),
}  # fmt: skip


@pytest.mark.parametrize("name", ["a10", "nmar"])
@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_sentence_before_the_first_step(case, name):
    """Input, value found and value needed; a network has made no more than the calls of its calibration."""
    inputs, parameters, words = REFUSED[case]
    prior, told = Prior(), []
    with pytest.raises(InputError, match=words) as error:
        run(name, {"ct": ct(), **inputs}, network=prior, batch=1, told=told, **FEW[name], **SMALL, **parameters)
    assert prior.calls <= 2 and "\n" not in str(error.value) and str(error.value).endswith(".")
    assert not any(e["event"] == "progress" and e["step"] for e in told)


def test_all_metal_methods_declare_the_same_checks():
    for name in METAL:
        declared = methods.load(name).METHOD
        assert declared.requires == _metal.REQUIRES and declared.inputs == _metal.INPUTS
        assert [c.name for c in declared.checks() if c.pixels] == ["has_metal", "metal_fraction"]


def test_fbp_refuses_what_is_no_line_integral_and_too_few_views():
    with pytest.raises(InputError, match=r"'projections' is [\d.]+ on average.*0 to 15"):
        run("fbp", {"projections": measured(slices=1, scale=100.0)})
    peak = measured(slices=1)
    peak.array[0, 0, 45] = 50.0  # a ray through metal of a simulation that scales line integrals
    assert run("fbp", {"projections": peak}).outputs["volume"].array.shape == (1, 256, 256)
    with pytest.raises(InputError, match="'projections' has 2 views, but at least 3"):
        run("fbp", {"projections": narrow(0, 90)})


# ---- what the scanner did ----


@pytest.fixture
def series(tmp_path):
    """A DICOM series with a name in its description, which a scanner has corrected for metal."""
    import pydicom

    (tmp_path / "dicom").mkdir()
    folder = big_dicom(write_dicom(tmp_path / "dicom" / "s", (0.0, 2.0)))
    for file in folder.iterdir():
        ds = pydicom.dcmread(file)
        ds.SeriesDescription, ds.ConvolutionKernel, ds.ImageComments = "Hip Secret^Name O-MAR", "B30f", "SECRET-ID"
        ds.save_as(file)
    return folder


def test_a_correction_by_the_scanner_is_recognised_and_its_name_alone_is_kept(series, tmp_path):
    grid = images.read_volume(series)
    assert grid.acquisition == {"vendor_correction": "O-MAR"} and grid.array.shape == (2, 64, 64)
    assert images.read_volume(sorted(series.iterdir())[0]).acquisition == {"vendor_correction": "O-MAR"}
    (tmp_path / "job").mkdir()
    write_job(tmp_path / "job", Request("li", SMALL), {"ct": grid})
    assert read_job(tmp_path / "job")[1]["ct"].acquisition == {"vendor_correction": "O-MAR"}
    told = []
    record, outputs = read_result(run_job(tmp_path / "job", told.append))
    sentences = [e["message"] for e in told if e["event"] == "warning"]
    assert sum("corrected this series for metal (O-MAR)" in s and "uncorrected series" in s for s in sentences) == 1
    assert outputs["corrected"].array.shape == grid.array.shape
    written = [f.read_bytes() for f in (tmp_path / "job").rglob("*") if f.is_file()]
    assert len(written) > 5 and not any(b"Secret" in b or b"SECRET" in b or b"Hip" in b for b in written)


def test_a_corrected_series_is_still_a_volume_to_compare_with(series, tmp_path):
    wrong = head.write(tmp_path / "r.nrrd", np.zeros((2, 8, 8), np.float32))
    with pytest.raises(InputError, match="2 × 8 × 8 voxels, but the input 'ct' has 2 × 64 × 64"):
        terminal.read_reference(wrong, {"ct": images.read_volume(series)})


def test_series_and_files_without_such_a_word_have_nothing_to_say(tmp_path):
    plain = images.read_volume(write_dicom(tmp_path / "s", (0.0, 2.0)))
    assert plain.acquisition == {}
    image = sitk.GetImageFromArray(head.hu())
    image.SetMetaData("comment", "O-MAR")  # not a DICOM text
    sitk.WriteImage(image, str(tmp_path / "h.nrrd"))
    assert images.read_volume(tmp_path / "h.nrrd").acquisition == {}


@pytest.mark.parametrize("name", METAL)
def test_warnings_come_once_however_many_samples(name):
    once = volume(ct().array, placed())
    corrected = {"ct": type(once)(once.array, once.axes, "HU", once.geometry, {"vendor_correction": "iMAR"})}
    found = warnings(name, corrected, samples=2)
    assert sum("(iMAR)" in s for s in found) == 1 and not any("12-bit" in s for s in found)


def test_a_twelve_bit_scale_is_recognised_and_an_extended_one_is_not():
    clipped, extended = ct(top=3071.0), ct(top=6000.0)
    said = [s for s in warnings("nmar", {"ct": clipped}) if "12-bit" in s]
    assert len(said) == 1 and "end at 3071 HU" in said[0] and "metal_threshold must stay below" in said[0]
    assert not warnings("nmar", {"ct": extended}) and metal_mask.saturation_level(extended.array) is None
    assert (run("nmar", {"ct": clipped}, **SMALL).outputs["metal"].array > 0).sum() == 2 * (ct().array[1] > 2500).sum()
    with pytest.raises(InputError, match=r"no voxel is above 3071 HU \(largest value 3071\). Lower the threshold"):
        run("nmar", {"ct": clipped}, metal_threshold=3071, **SMALL)


def test_pixels_outside_the_field_of_view_keep_their_mark_and_dark_streaks_do_not():
    """A constant below -1024 HU in all corners is no measurement; it counts as air and comes back as it was."""
    array, plain = ct().array, run("li", {"ct": ct()}, **SMALL)
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    outside = np.hypot(x, y) > 0.48 * SIZE
    array[:, outside] = -3024
    array[1, 24, 20] = -1500  # a streak, inside the body
    result = run("li", {"ct": volume(array, placed())}, **SMALL)
    corrected, difference = (result.outputs[n].array for n in ("corrected", "difference"))
    assert (corrected[:, outside] == -3024).all() and (difference[:, outside] == 0).all()
    assert corrected[1, 24, 20] > -1100
    inside = ~outside & (np.hypot(x - 20 + 23.5, y - 0.5) > 4)
    assert np.abs(corrected[3] - plain.outputs["corrected"].array[3])[~outside].max() < 1e-3
    assert np.abs(corrected[1] - plain.outputs["corrected"].array[1])[inside].max() < 200


def test_a_selection_without_metal_changes_nothing_and_says_so():
    told, given = [], ct()
    result = run("a11", {"ct": given}, told=told, first_slice=4, steps=5, **SMALL)
    assert np.array_equal(result.outputs["corrected"].array, given.array) and result.record["evaluations"] == 0
    assert ["nothing was changed" in e["message"] for e in told if e["event"] == "warning"] == [True]
