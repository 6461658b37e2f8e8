"""Declarations, parameters and checks: known without torch, complete, and equal to Resources/methods.json."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from diffusion_backend import checks, describe, methods, paths
from diffusion_backend.data import PatientGeometry, Segmentation, volume
from diffusion_backend.errors import InputError
from diffusion_backend.params import UNITS, Boolean, Choice, Integer, Real, Text, validate

DECLARED = methods.declarations()
EACH = pytest.mark.parametrize("method", DECLARED, ids=lambda m: m.id)


def test_declarations_and_models_are_read_without_torch():
    """describe, the list of models and the checks run where torch can't be imported."""
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from diffusion_backend.__main__ import main\n"
        "assert main(['describe', '--json']) == 0 and main(['describe', 'a11']) == 0\n"
        "assert main(['models', 'list']) == 0\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert '"a11"' in done.stdout and "ct-image" in done.stdout


def test_the_stored_declarations_are_those_of_the_code():
    stored = (paths.resources() / "methods.json").read_text(encoding="ascii")
    assert stored == describe.as_json(), "run `make docs`"
    assert json.loads(stored)["schema"] == 1


def test_the_table_of_the_readme_is_that_of_the_declarations(tmp_path):
    readme = paths.resources().parent / "README.md"
    copy = tmp_path / "README.md"
    copy.write_text(readme.read_text(encoding="utf-8"), encoding="utf-8")
    describe.renew_table(copy)
    assert copy.read_text(encoding="utf-8") == readme.read_text(encoding="utf-8"), "run `make docs`"


@EACH
def test_every_parameter_is_fully_declared(method):
    for p in method.parameters:
        assert p.name.isidentifier() and p.help.endswith(".") and len(p.help) > 15, p
        assert len(p.help) <= 200, p.name
        assert p.level in ("basic", "advanced") and getattr(p, "unit", "") in UNITS
        assert p.parse(p.default) == p.default
    assert len({p.name for p in method.parameters}) == len(method.parameters)
    for preset in method.presets.values():
        validate(method.parameters, {}, preset)
    assert method.summary.endswith(".") and method.citation is not None


@EACH
def test_every_output_is_explained_and_has_its_display(method):
    assert all(o.help for o in method.outputs)
    assert all(i.help for i in method.inputs)
    page = describe.as_page(method.id)
    assert all(f"| {p.name} |" in page for p in method.parameters)


def test_all_twenty_articles_are_declared_and_a_planned_one_says_so():
    articles = {m.id for m in DECLARED if m.id.startswith("a")}
    assert articles == {f"a{n:02d}" for n in range(1, 21)}
    assert {m.id for m in DECLARED if m.state == "planned"} == set(methods.PLANNED)
    with pytest.raises(InputError, match=r"'a18' \(DoseDiff\) is planned; this version can't run it"):
        methods.load("a18")


def test_a11_keeps_the_published_defaults():
    defaults = {p.name: p.default for p in methods.load("a11").METHOD.parameters}
    assert (defaults["a"], defaults["n"], defaults["delta_y"], defaults["data_clamp"]) == (0.4, 4.0, 0.8, 4.0)
    assert (defaults["views"], defaults["bins"]) == (640, 641)


PARAMETERS = (
    Real("width", 1.5, unit="mm", low=0, high=10, help="Width."),
    Integer("steps", 20, low=5, high=100, help="Steps."),
    Choice("mode", "a", choices=("a", "b"), help="Mode."),
    Boolean("flag", False, help="Flag."),
    Text("note", "", longest=5, help="Note."),
)


def test_text_from_a_command_line_becomes_typed_values_and_later_ones_win():
    p = validate(PARAMETERS, {"width": "2.5", "flag": "yes", "mode": "b"}, {"width": 9.0, "steps": 7})
    assert (p.width, p.steps, p.mode, p.flag, p.note) == (2.5, 7, "b", True, "")
    assert isinstance(p.steps, int)


@pytest.mark.parametrize(
    "given,words",
    [
        ({"widht": 1}, "no parameter 'widht'.*did you mean 'width'"),
        ({"width": 11}, "'width' is 11.*0 to 10 mm"),
        ({"width": float("nan")}, "'width' is nan"),
        ({"width": "wide"}, "'width' is 'wide'.*a number"),
        ({"steps": 20.5}, "'steps' is 20.5.*whole number from 5 to 100"),
        ({"steps": True}, "'steps' is True"),
        ({"mode": "c"}, "'mode' is 'c'.*a, b"),
        ({"flag": "perhaps"}, "'flag'.*true or false"),
        ({"note": "longer than five"}, "'note'.*at most 5"),
    ],
)
def test_every_kind_of_parameter_refuses_with_name_value_and_range(given, words):
    with pytest.raises(InputError, match=words):
        validate(PARAMETERS, given)


def item(shape=(3, 20, 20), low=-1000.0, high=500.0, spacing=(1.0, 1.0, 2.0)):
    array = np.linspace(low, high, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    return volume(array, PatientGeometry.from_itk(spacing, (0, 0, 0), np.eye(3).ravel()))


@pytest.mark.parametrize(
    "check,good,bad,words",
    [
        (checks.Check("min_slices", "x", low=2), item(), item((1, 20, 20)), "1 slices.*at least 2"),
        (checks.Check("max_slices", "x", high=3), item(), item((4, 20, 20)), "4 slices.*at most 3"),
        (checks.Check("min_size", "x", low=16), item(), item((3, 8, 20)), "8 × 20"),
        (checks.Check("spacing", "x", low=0.1, high=5), item(), item(spacing=(1.0, 9.0, 1.0)), "9"),
        (checks.Check("square_pixels", "x"), item(), item(spacing=(1.0, 1.2, 1.0)), "1 × 1.2 mm"),
        (checks.Check("unit", "x", unit="HU"), item(), volume(item().array, item().geometry, "Gy"), "'Gy'.*'HU'"),
        (checks.Check("unit", "x", unit="HU"), item(), volume(item().array, item().geometry, ""), "has no unit.*'HU'"),
        (checks.Check("unit_range", "x", below=-200), item(), item(low=0), "smallest value is 0"),
        (checks.Check("not_constant", "x"), item(), item(low=5, high=5), "5 everywhere"),
        (checks.Check("non_negative", "x"), item(low=0), item(), "-1000"),
        (checks.Check("finite", "x"), item(), item(high=np.nan), "NaN"),
        (checks.Check("scalar", "x"), item(), volume(np.zeros((2, 3, 4, 3)), item().geometry), "3 values per voxel"),
        (checks.Check("not_empty", "x"), item(), item((0, 20, 20)), "empty"),
    ],
    ids=lambda c: getattr(c, "name", ""),
)
def test_predicates_pass_and_fail_with_a_sentence(check, good, bad, words):
    checks.enforce((check,), {"x": good}, None)
    with pytest.raises(InputError, match=words):
        checks.enforce((check,), {"x": bad}, None)


def test_checks_on_metal_look_at_pixels_and_are_waived_by_other_inputs():
    p = validate(methods.load("a11").METHOD.parameters, {})
    check = checks.Check("has_metal", "ct", pixels=True, threshold="metal_threshold", unless=("metal",))
    with pytest.raises(InputError, match="no metal.*500"):
        checks.enforce((check,), {"ct": item()}, p)
    mask = Segmentation(np.ones((3, 20, 20), np.uint8), item().geometry)
    checks.enforce((check,), {"ct": item(), "metal": mask}, p)
    checks.enforce((check,), {"ct": item(high=3000.0)}, p)
