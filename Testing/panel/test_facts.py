"""Panel and engine know the same of an input and come to the same verdicts, sentence for sentence."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import slicer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffusion_backend import checks, predicates
from diffusion_panel import declarations, exchange
from diffusion_panel import facts as facts_module
from diffusion_panel.facts import facts
from diffusion_panel.geometry import ExchangeError

from . import exchanging as ex

QUIET = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
SIZES = st.tuples(*[st.sampled_from([1, 2, 3, 15, 16, 17])] * 3)
SPACINGS = st.tuples(*[st.sampled_from([1e-4, 1e-3, 0.5, 1.0, 1.0004, 100.0, 101.0])] * 3)
DTYPES = st.sampled_from(["uint8", "int16", "uint16", "int32", "float32", "float64"])
RANGES = st.sampled_from([(-1000, 3000), (-1000, 3000), (0, 255), (-50000, 10), (40, 40), (-200, 90), (-1024, 2500)])
BAD = st.sampled_from([None, None, None, np.nan, np.inf, -np.inf])
METHODS = declarations.declarations()


@st.composite
def arrays(draw, components=False):
    shape, dtype, (low, high) = draw(SIZES), np.dtype(draw(DTYPES)), draw(RANGES)
    shape = (*shape, draw(st.sampled_from([2, 3]))) if components else shape
    array = np.linspace(low, high, int(np.prod(shape))).reshape(shape)
    array = array.astype(dtype) if dtype.kind == "f" else np.clip(array, np.iinfo(dtype).min, np.iinfo(dtype).max)
    bad = draw(BAD)
    if dtype.kind == "f" and bad is not None:
        array.flat[draw(st.integers(0, array.size - 1))] = bad
    return array.astype(dtype)


@st.composite
def grids(draw):
    directions = list(ex.orientations())[draw(st.integers(0, 47))]
    return ex.grid(directions, draw(SPACINGS), oblique=draw(st.booleans()))


def same(tmp_path, kind, value, **options):
    """Facts of the panel and of the engine for one input."""
    known = facts(kind, value, options.get("reference"), unit=options.get("unit", ""))
    engine = checks.facts(ex.as_item(tmp_path, exchange.export(kind, value, **options)))
    np.testing.assert_equal(json.loads(json.dumps(known)), json.loads(json.dumps(engine)))
    return known, engine


def verdicts(declared, inputs):
    """Every check of a method by panel and by engine; inputs: name -> (panel's facts, engine's facts)."""
    parameters = {p["name"]: p["default"] for p in declared["parameters"]}
    known = {n: pair[0] for n, pair in inputs.items()}
    engine_known = {n: pair[1] for n, pair in inputs.items()}
    found = []
    for check in declared["requires"]:
        panel = predicates.verdict(check, known, parameters)
        if check["pixels"]:
            assert panel == ""
            continue
        made = checks.Check(check["name"], check["input"], **check["limits"])
        engine = checks.verdict(made, engine_known, SimpleNamespace(**parameters), {})
        assert panel == engine, check
        found.append(panel)
    return found


def fresh(array, matrix, **options):
    slicer.mrmlScene.Clear(0)
    class_name = "vtkMRMLVectorVolumeNode" if array.ndim == 4 else "vtkMRMLScalarVolumeNode"
    return ex.volume(array, matrix, class_name=class_name, **options)


@QUIET
@given(
    array=st.one_of(arrays(), arrays(), arrays(components=True)), matrix=grids(), unit=st.sampled_from(["HU", "", "Gy"])
)
def test_every_check_of_every_method_on_volumes(tmp_path, array, matrix, unit):
    node = fresh(array, matrix)
    if unit == "Gy":
        node.SetAttribute(exchange.UNIT, unit)
    pair = same(tmp_path, "volume", node, unit=unit)
    for declared in METHODS.values():
        volumes = [i["name"] for i in declared["inputs"] if i["kind"] == "volume"]
        verdicts(declared, dict.fromkeys(volumes, pair))


@QUIET
@given(
    array=arrays(),
    matrix=grids(),
    angles=st.sampled_from([None, 2, 3]),
    bins=st.sampled_from([None, 7]),
    data=st.data(),
)
def test_every_check_of_every_method_on_projections(tmp_path, array, matrix, angles, bins, data):
    array = array.astype(np.float32) / data.draw(st.sampled_from([1.0, 3000.0]))
    node = fresh(array, matrix)
    declared_views = array.shape[1] if angles is None else angles
    geometry = {"type": "parallel", "angles_deg": list(range(declared_views)), "bin_mm": 1.0}
    exchange.attach_geometry(node, geometry | {"bins": array.shape[2] if bins is None else bins}, matrix)
    pair = same(tmp_path, "projections", node)
    for declared in METHODS.values():
        measured = [i["name"] for i in declared["inputs"] if i["kind"] == "projections"]
        verdicts(declared, dict.fromkeys(measured, pair))


@QUIET
@given(size=SIZES, matrix=grids(), filled=st.booleans(), slices=st.integers(1, 3))
def test_every_check_of_every_method_on_segmentations_with_volume_and_projections(
    tmp_path, size, matrix, filled, slices
):
    ct = fresh(ex.values(size), matrix)
    labels = np.zeros(size, np.uint8)
    labels.flat[-1] = filled
    description = exchange.export("volume", ct).description | {"labels": {"metal": 1}}
    mask = exchange.create(description, labels, name="mask", like=ct)
    sinogram = ex.volume(ex.values((slices, 3, 5), np.float32) * 0 + 1)
    exchange.attach_geometry(sinogram, {"type": "parallel", "angles_deg": [0, 1, 2], "bins": 5, "bin_mm": 1.0})
    given = {
        "volume": same(tmp_path, "volume", ct, unit="HU"),
        "segmentation": same(tmp_path, "segmentation", mask, reference=ct),
        "projections": same(tmp_path, "projections", sinogram),
    }
    for declared in METHODS.values():
        found = verdicts(declared, {i["name"]: given[i["kind"]] for i in declared["inputs"] if i["kind"] in given})
        if not filled and any(c["name"] == "labelled" for c in declared["requires"]):
            assert any("no labelled voxel" in sentence for sentence in found)


@QUIET
@given(text=st.text(max_size=30))
def test_every_check_of_every_method_on_texts(tmp_path, text):
    pair = same(tmp_path, "text", text)
    for declared in METHODS.values():
        verdicts(declared, {i["name"]: pair for i in declared["inputs"] if i["kind"] == "text"})


def test_every_predicate_sees_equal_facts_from_a_mask_on_another_grid(tmp_path):
    """The mask is exported on the volume's grid, so `same_grid` holds whatever its own grid is."""
    ct = ex.volume(ex.values((4, 5, 6)), ex.grid(oblique=True))
    mask = exchange.create({"labels": {"metal": 1}, "ijkToRAS": ex.grid().tolist()}, np.ones((9, 9, 9), int), name="m")
    pair = same(tmp_path, "segmentation", mask, reference=ct)
    check = {"name": "same_grid", "input": "metal", "pixels": False, "limits": {"other": "ct"}}
    assert predicates.verdict(check, {"metal": pair[0], "ct": facts("volume", ct)}, {}) == ""
    alone = facts("segmentation", mask)
    assert "9 × 9 × 9 voxels" in predicates.verdict(check, {"metal": alone, "ct": facts("volume", ct)}, {})


@pytest.mark.parametrize("kind", ["vector volume", "complex volume", "sequence", "table", "file"])
def test_the_other_kinds_have_equal_facts(tmp_path, kind):
    value = {
        "vector volume": lambda: ex.volume(ex.values((2, 3, 4, 3), np.uint8), class_name="vtkMRMLVectorVolumeNode"),
        "complex volume": lambda: ex.volume(ex.values((2, 3, 4, 2), np.float32), class_name="vtkMRMLVectorVolumeNode"),
        "sequence": lambda: exchange.create(
            {"kind": "sequence", "ijkToRAS": ex.grid().tolist()}, ex.values((2, 3, 4, 5)), name="s"
        ),
        "table": lambda: exchange.create({"columns": ["a", "b"], "rows": [[1, "x"]]}, None, name="t"),
        "file": lambda: str(tmp_path),
    }[kind]()
    known, _engine = same(tmp_path, kind, value)
    assert known.get("components") == (3 if kind == "vector volume" else None if kind in ("table", "file") else 1)


@pytest.fixture
def asked(monkeypatch):
    """A function like `facts` that says whether the data were looked at."""
    counted = []
    original = facts_module.facts_of
    monkeypatch.setattr(facts_module, "facts_of", lambda *a: counted.append(1) or original(*a))

    def ask(*arguments, **options):
        del counted[:]
        facts(*arguments, **options)
        return bool(counted)

    return ask


def volume_and_mask():
    node, labels = ex.volume(ex.values((2, 3, 4))), np.ones((2, 3, 4), np.uint8)
    return node, exchange.create({"labels": {"m": 1}, "ijkToRAS": ex.grid().tolist()}, labels, name="m", like=node)


def test_facts_are_kept_until_the_volume_or_its_place_changes(asked):
    node, mask = volume_and_mask()
    volume, labels = ("volume", node), ("segmentation", mask, node)
    outer = ex.transform(np.eye(4))
    inner = ex.transform(np.eye(4), outer)

    def edit():
        slicer.util.arrayFromVolume(node)[0, 0, 0] = 7
        slicer.util.arrayFromVolumeModified(node)

    assert asked(*volume) and asked(*labels)
    for change in (
        edit,
        lambda: node.GetImageData().GetPointData().GetScalars().Modified(),
        lambda: node.SetSpacing(1, 2, 3),
        lambda: node.SetAndObserveTransformNodeID(inner.GetID()),
        lambda: outer.SetMatrixTransformToParent(ex.node_matrix(ex.grid())),
    ):
        assert not asked(*volume) and not asked(*labels)
        change()
        assert asked(*volume) and asked(*labels), change
    assert asked(*volume, unit="HU") and asked(*volume, slab=(0, 0, 1)) and not asked(*volume)


def test_facts_are_kept_until_the_segmentation_changes(asked):
    node, mask = volume_and_mask()
    segmentation = mask.GetSegmentation()
    assert asked("segmentation", mask, node)
    for change in (
        lambda: segmentation.GetNthSegment(0).SetName("n"),
        lambda: segmentation.AddEmptySegment("", "other"),
        lambda: slicer.util.updateSegmentBinaryLabelmapFromArray(
            np.zeros((2, 3, 4), np.uint8), mask, segmentation.GetNthSegmentID(0), node
        ),
    ):
        assert not asked("segmentation", mask, node)
        change()
        assert asked("segmentation", mask, node), change


def test_unusable_inputs_raise_the_sentence_of_the_exchange_each_time():
    node = ex.volume(ex.values((2, 3, 4)))
    facts("volume", node)
    slicer.mrmlScene.RemoveNode(node)
    for _attempt in range(2):
        with pytest.raises(ExchangeError, match="'ct' was removed from the scene"):
            facts("volume", node)
        with pytest.raises(ExchangeError, match="No volume is chosen"):
            facts("volume", None)


def test_facts_do_not_copy_the_volume(monkeypatch):
    node = ex.volume(ex.values((2, 3, 4)))
    _description, view = exchange.read("volume", node)
    assert np.shares_memory(view, slicer.util.arrayFromVolume(node)) and not view.flags.writeable


def test_the_part_of_a_slab_alone_is_known():
    array = ex.values((4, 5, 6))
    array[3] = 3100
    node = ex.volume(array)
    assert facts("volume", node)["range"][1] == 3100 > facts("volume", node, slab=(0, 0, 3))["range"][1]
    assert facts("volume", node, slab=(0, 0, 3))["shape"] == [3, 5, 6]
