"""Around a method: models that don't fit, domain, plan and batch size, previews, partial results, label samples."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from diffusion_backend import device, estimate, job, memory, methods
from diffusion_backend.data import PatientGeometry, Segmentation, projections, volume
from diffusion_backend.errors import Cancelled, InputError, MemoryExhausted, ModelError
from diffusion_backend.execute import Request, Surroundings, execute
from diffusion_backend.io.folders import temporary
from diffusion_backend.items import slices
from diffusion_backend.method import Input, Method, ModelSlot, Output, Stage
from diffusion_backend.params import Integer
from diffusion_backend.provenance import domain

PLACED = PatientGeometry.from_itk((1.0, 1.0, 2.0), (0, 0, 0), np.eye(3).ravel())
CARD = {"id": "m", "interface": "Denoiser", "dims": 2, "channels": 1, "unit": "HU", "sha256": "0", "licence": "MIT"}


def method(**more):
    given = {
        "id": "test", "name": "Test", "module": "reconstruction", "task": "test", "state": "works",
        "summary": "A test.", "inputs": (Input("ct", unit="HU", help="CT."),),
        "outputs": (Output("image", unit="HU", help="I."),),
    }  # fmt: skip
    return Method(**given | more)


def ct(n=3, low=-1000.0):
    return volume(np.linspace(low, 1000, n * 256, dtype=np.float32).reshape(n, 16, 16), PLACED)


class Denoises:
    """A method that calls its prior `steps` times on every slice."""

    METHOD = method(
        models=(ModelSlot("prior", default="m"),),
        parameters=(Integer("steps", 2, low=1, high=9, help="Steps of the test."),),
        presets={"quick": {"steps": 1}},
    )

    def plan(self, meta, p):
        return [Stage("sampling", items=meta["ct"]["shape"][0], calls=p.steps, part="prior", shape=(1, 16, 16))]

    def run(self, run, inputs, p):
        prior = run.model("prior")

        def work(batch, hu):
            x = hu[:, None]
            for step in range(p.steps):
                x = prior(x, 100.0)
                batch.progress(step + 1, p.steps, preview=x)
            return x[:, 0]

        with run.stage("sampling"):
            image = run.map(slices(len(inputs["ct"].array)), work, inputs["ct"].array)
        return {"image": inputs["ct"].like(image.numpy())}


def around(events=None, card=CARD, **more):
    report = (lambda e: None) if events is None else events.append
    given = {"card": lambda model: card, "load": lambda model, device: lambda x, sigma, cond=None: x + 1}
    return Surroundings(report=report, **given | more)


def test_evaluations_presets_and_models_are_recorded():
    result = execute(Denoises(), Request("test", preset="quick"), {"ct": ct()}, around())
    assert result.record["evaluations"] == 3 and result.record["parameters"] == {"steps": 1}
    assert result.record["models"]["prior"] == {"id": "m", "sha256": "0", "licence": "MIT", "attribution": ""}
    assert np.array_equal(result.outputs["image"].array, ct().array + 1)
    assert len(result.record["inputs"]["ct"]["sha256"]) == 64


@pytest.mark.parametrize("field,value", [("interface", "Scorer"), ("dims", 3), ("channels", 2), ("unit", "Gy")])
def test_a_model_that_does_not_fit_its_slot_is_refused_before_it_is_loaded(field, value):
    def load(model, device):
        raise AssertionError("loaded")

    with pytest.raises(ModelError, match=f"has {field} {value!r}, but the slot 'prior'"):
        execute(Denoises(), Request("test"), {"ct": ct()}, around(card=CARD | {field: value}, load=load))


@pytest.mark.parametrize(
    "request_,words",
    [
        (Request("test", preset="published"), "no preset 'published'.*standard, quick"),
        (Request("test", samples=0), "'samples' is 0.*1 to 64"),
        (Request("test", seed=-1), "'seed' is -1"),
        (Request("test", batch=0), "'batch' is 0"),
        (Request("test", device="tpu"), "device 'tpu' isn't available.*cpu"),
        (Request("test", models={"prio": "x"}), "no model slot 'prio'.*did you mean 'prior'"),
    ],
)
def test_wrong_requests_are_sentences(request_, words):
    with pytest.raises(InputError, match=words):
        execute(Denoises(), request_, {"ct": ct()}, around())


def test_inputs_that_are_missing_or_unknown_are_sentences():
    with pytest.raises(InputError, match="needs the input 'ct' .volume.*--input ct=PATH"):
        execute(Denoises(), Request("test"), {}, around())
    with pytest.raises(InputError, match="no input 'ctt'.*did you mean 'ct'"):
        execute(Denoises(), Request("test"), {"ct": ct(), "ctt": ct()}, around())


def test_seed_zero_is_a_seed_and_auto_takes_a_device():
    assert execute(Denoises(), Request("test", seed=0), {"ct": ct()}, around()).record["seed"] == 0


@pytest.fixture
def accelerator(monkeypatch):
    """A device "cuda" made of the CPU: `spoil` says what its convolutions do to their result."""

    def make(spoil):
        monkeypatch.setattr(device, "available", lambda name: name in ("cpu", "cuda"))
        monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *a, **k: tensor)
        for name in ("conv2d", "conv3d"):
            true, calls = getattr(torch.nn.functional, name), []

            def convolve(x, w, true=true, calls=calls):
                calls.append(None)  # the second call of a pair is the one on the device
                return true(x, w) if len(calls) % 2 else spoil(true(x, w), x.ndim - 2)

            monkeypatch.setattr(torch.nn.functional, name, convolve)

    return make


def _fail(result, dims):
    raise RuntimeError("CUDA error: no kernel image is available for execution on the device")


@pytest.mark.parametrize(
    "spoil,words",
    [
        (_fail, "because this torch build has no code for it"),
        (lambda result, dims: result * (1.01 if dims == 3 else 1), "because a 3D convolution gives wrong values on it"),
    ],
)
def test_a_device_that_computes_wrongly_is_not_used_and_never_replaced_silently(accelerator, spoil, words):
    accelerator(spoil)
    warnings = []
    assert device.choose("auto", warnings.append) == "cpu"
    assert len(warnings) == 1 and words in warnings[0] and "'cuda'" in warnings[0]
    with pytest.raises(InputError, match=words):
        device.choose("cuda", warnings.append)


def test_a_device_that_computes_rightly_is_taken(accelerator):
    accelerator(lambda result, dims: result * (1 + 1e-6))
    assert device.choose("auto", pytest.fail) == device.choose("cuda", pytest.fail) == "cuda"
    with pytest.raises(InputError, match="'mps' isn't available here. Available: cuda, cpu"):
        device.choose("mps", pytest.fail)


@pytest.mark.parametrize(
    "limits,state,words",
    [
        ({}, "ok", ""),
        ({"pixel_mm": [0.5, 1.5], "range": [-1100, 3000]}, "ok", ""),
        ({"pixel_mm": [0.3, 0.9]}, "outside", "pixels of 1 mm; the model 'm' was trained on 0.3 to 0.9"),
        ({"range": [-1100, 900]}, "outside", "values from -1000 to 1000"),
    ],
)
def test_the_domain_of_the_model_is_compared_with_the_input(limits, state, words):
    found, reason = domain({"prior": CARD | {"domain": limits}}, {"ct": ct()})
    assert found == state and words in reason


def test_the_plan_gives_seconds_bytes_and_a_batch_that_fits(monkeypatch):
    events = []
    execute(Denoises(), Request("test", batch=8, plan_only=True), {"ct": ct(n=20)}, around(events))
    plan = events[0]
    assert plan["stages"] == [{"name": "sampling", "items": 20, "calls": 2, "part": "prior",
                               "seconds": plan["stages"][0]["seconds"]}]  # fmt: skip
    assert plan["stages"][0]["seconds"] >= 0 and plan["batch"] == 8
    monkeypatch.setattr(estimate, "_one_call", lambda run, part, stage: (0.5, 100 * memory.MB))
    monkeypatch.setattr(memory, "available_bytes", lambda device="cpu": 500 * memory.MB)
    execute(Denoises(), Request("test", batch=8, plan_only=True), {"ct": ct(n=20)}, around(events))
    assert events[1]["batch"] == 3 and events[1]["network_s"] == 20 * 2 * 0.5
    assert events[1]["memory_mb"] == 300


def test_volumes_that_cannot_fit_are_exit_code_4_before_the_start(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device="cpu": 1000)
    with pytest.raises(MemoryExhausted, match="needs 0 MB for its input and output volumes, but 0 MB") as error:
        execute(Denoises(), Request("test"), {"ct": ct()}, around())
    assert error.value.exit_code == 4


def test_memory_errors_are_told_from_other_errors():
    for error in (MemoryError(), torch.cuda.OutOfMemoryError("CUDA out of memory"),
                  RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
                  RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)")):  # fmt: skip
        assert memory.is_out_of_memory(error)
    assert not memory.is_out_of_memory(RuntimeError("size mismatch")) and not memory.is_out_of_memory(ValueError("out"))
    assert 0 < memory.resident_bytes() <= memory.peak_bytes() * 1.01 and memory.available_bytes() > 0


class Labels:
    """A method that marks the left half always and the right half in every second sample."""

    METHOD = method(outputs=(Output("mask", kind="segmentation", help="M."),
                             Output("entropy", when="samples>1", of="mask", help="E.")))  # fmt: skip

    def plan(self, meta, p):
        return []

    def run(self, run, inputs, p):
        run.draws += 1
        array = np.zeros(inputs["ct"].array.shape, np.uint8)
        array[..., :8] = 2
        array[..., 8:] = run.sample % 2
        return {"mask": Segmentation(array, PLACED, {"a": 1, "b": 2})}


def test_samples_of_labels_give_majority_and_entropy():
    result = execute(Labels(), Request("test", samples=6), {"ct": ct()}, around())
    mask, entropy = result.outputs["mask"], result.outputs["entropy"].array
    assert mask.array.dtype == np.uint8 and (mask.array[..., :8] == 2).all() and mask.labels == {"a": 1, "b": 2}
    assert np.allclose(entropy[..., :8], 0) and np.allclose(entropy[..., 8:], np.log(2), atol=1e-6)
    assert result.outputs["entropy"].geometry == PLACED


def test_previews_and_finished_slices_reach_the_parent(tmp_path, monkeypatch):
    monkeypatch.setattr(methods, "load", lambda method_id: SimpleNamespace(
        METHOD=Denoises.METHOD, plan=Denoises().plan, run=Denoises().run))  # fmt: skip
    monkeypatch.setattr(job.models, "find", lambda model: tmp_path)
    monkeypatch.setattr(job.models, "read_card", lambda folder: CARD)
    monkeypatch.setattr(job.models, "load", lambda folder, device: lambda x, sigma, cond=None: x + 1)
    (tmp_path / "job").mkdir()
    job.write_job(tmp_path / "job", Request("test", batch=2, keep_partial=True), {"ct": ct()})
    events = []
    job.run_job(tmp_path / "job", events.append)
    partial = [e for e in events if e["event"] == "partial"]
    assert [e["items"] for e in partial] == [[0, 1], [2]]
    assert np.array_equal(np.load(partial[0]["file"]), ct().array + 2)
    preview = next(e for e in events if e["event"] == "preview")
    assert np.allclose(np.load(preview["file"]), ct().array[0] + 1)
    record = json.loads((tmp_path / "job" / "result" / "result.json").read_text())
    assert record["evaluations"] == 6 and record["outputs"]["image"]["file"] == "image.npy"


def test_a_second_run_replaces_the_result_and_a_cancelled_one_keeps_it(tmp_path):
    (tmp_path / "job").mkdir()
    acquisition = {"type": "parallel", "angles_deg": [0.0, 45.0, 90.0, 135.0], "bins": 33, "bin_mm": 1.0}
    made = projections(np.ones((4, 33), np.float32), acquisition)
    job.write_job(tmp_path / "job", Request("fbp", {"size": 16}), {"projections": made})
    first = job.run_job(tmp_path / "job", lambda e: None)
    (first / "extra").touch()
    again = job.run_job(tmp_path / "job", lambda e: None)
    assert again == first and not (first / "extra").exists()
    with pytest.raises(Cancelled):
        job.run_job(tmp_path / "job", lambda e: None, lambda: True)
    assert (first / "result.json").exists() and not list((tmp_path / "job").glob(".result*"))


def test_temporary_folders_go_whatever_happens(tmp_path):
    with pytest.raises(ZeroDivisionError), temporary(tmp_path / "new" / "deep", ".x-") as folder:
        (folder / "a").touch()
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
