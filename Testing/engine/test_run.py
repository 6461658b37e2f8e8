"""Runs and items: noise keys, batches, halving, blending, samples, progress, cancelling."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from diffusion_backend import items
from diffusion_backend.data import PatientGeometry, volume
from diffusion_backend.errors import Cancelled, MemoryExhausted
from diffusion_backend.execute import Request, Surroundings, execute
from diffusion_backend.items import slabs, slices, tiles, whole
from diffusion_backend.method import Input, Method, Output, Stage
from diffusion_backend.params import SLICE_NOISE, Integer
from diffusion_backend.run import Run, Settings, keyed_noise

METHOD = Method(
    id="test", name="Test", module="reconstruction", task="test", state="works", summary="A test.",
    inputs=(Input("ct", unit="HU", help="CT."),),
    outputs=(Output("image", unit="HU"), Output("std", unit="HU", when="samples>1", of="image")),
    parameters=(Integer("steps", 3, low=1, high=9, help="Number of steps."), SLICE_NOISE),
)  # fmt: skip


def make(batch=8, seed=0, shared="shared", **more):
    return Run(METHOD, SimpleNamespace(slice_noise=shared, steps=3), Settings(seed=seed, batch=batch), **more)


def draw(run, n=6, shape=(2, 3), stage="sampling", step=1):
    with run.stage(stage):
        return run.map(slices(n), lambda batch, x: batch.noise(step, shape), np.zeros(n))


def test_noise_is_bit_identical_for_every_batch_and_normal():
    reference = draw(make(1, shared="independent"))
    for batch in (2, 5, 8):
        assert torch.equal(draw(make(batch, shared="independent")), reference)
    many = keyed_noise((0, 0, "s", 1, 0), (200, 200))
    assert abs(float(many.mean())) < 3 / 200 and abs(float(many.var()) - 1) < 3 * 2**0.5 / 200


def test_noise_depends_on_seed_sample_stage_step_and_item_and_on_nothing_else():
    base = draw(make(shared="independent"))
    state = torch.get_rng_state()
    assert not torch.equal(draw(make(seed=1, shared="independent")), base)
    other = make(shared="independent")
    other.sample = 1
    assert not torch.equal(draw(other), base)
    assert not torch.equal(draw(make(shared="independent"), stage="refining"), base)
    assert not torch.equal(draw(make(shared="independent"), step=2), base)
    assert len({tuple(b.flatten().tolist()) for b in base}) == 6
    assert torch.equal(torch.get_rng_state(), state)
    keys = [(0, 0, "a", 1, 0), (0, 0, "b", 1, 0), (0, 0, "a", 2, 0)]
    drawn = [keyed_noise(k, (4,)) for k in keys]
    assert not torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_shared_noise_drops_the_item():
    noise = draw(make())
    assert all(torch.equal(noise[0], n) for n in noise[1:])


def test_batches_are_halved_when_memory_runs_out_and_the_result_is_the_same():
    sizes, events = [], []

    def hungry(batch, x):
        sizes.append(len(x))
        if len(x) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return 2 * x

    run = make(batch=8, report=events.append)
    out = run.map(slices(7), hungry, np.arange(7.0))
    assert torch.equal(out, 2 * torch.arange(7.0).double())
    assert sizes == [7, 3] + [1] * 7
    assert [e for e in events if e["event"] == "warning"]


def test_a_single_item_that_does_not_fit_is_exit_code_4_and_other_errors_pass():
    def hungry(batch, x):
        raise MemoryError

    with pytest.raises(MemoryExhausted, match="needs more memory") as error:
        make().map(slices(2), hungry, np.zeros(2))
    assert error.value.exit_code == 4

    def wrong(batch, x):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        make().map(slices(2), wrong, np.zeros(2))


def test_chosen_slices_along_any_axis_keep_their_numbers():
    array = np.random.default_rng(0).normal(size=(4, 5, 6))
    seen = []

    def take(batch, x):
        seen.extend(batch.indices)
        return x

    out = make(batch=2).map(slices((1, 3, 4), axis=1), take, array)
    assert seen == [1, 3, 4]
    assert np.array_equal(out.numpy(), array[:, [1, 3, 4]])


@pytest.mark.parametrize("cut", [lambda s: slabs(s, 3, 1), lambda s: tiles(s, (4, 5, 3), (2, 2, 1)), lambda s: whole()])
@pytest.mark.parametrize("shape", [(7, 9, 8), (3, 5, 4)])
def test_cutting_and_blending_is_the_identity(cut, shape):
    array = np.random.default_rng(1).normal(size=shape)
    out = make(batch=3).map(cut(shape), lambda batch, x: x, array)
    assert np.allclose(out.numpy().reshape(shape), array, rtol=1e-12)


def test_tiles_that_cannot_overlap_are_refused():
    with pytest.raises(ValueError, match="overlap must be smaller"):
        items.tiles((8, 8), 4, 4)


def test_dicts_of_results_and_partial_results():
    kept = []
    run = make(batch=2, keep=lambda stage, which, chosen, pieces: kept.append(tuple(chosen)))
    out = run.map(slices(3), lambda batch, x: {"a": x, "b": -x}, np.arange(3.0))
    assert torch.equal(out["a"], -out["b"]) and kept == [(0, 1), (2,)]


def test_progress_counts_and_ends_and_tells_the_remaining_time():
    events = []
    run = make(batch=2, report=events.append, plan=[Stage("sampling", items=4, calls=3)])
    run.progress._last_report = -1e9
    with run.stage("sampling"):
        run.map(slices(4), lambda batch, x: [batch.progress(k, 3) for k in (1, 2, 3)] and x, np.zeros(4))
    shown = [e for e in events if e["event"] == "progress"]
    assert shown[0]["stage"] == "sampling" and shown[-1]["item"] == 4 and shown[-1]["fraction"] == 1
    assert {"step", "steps", "items", "eta_s", "memory_mb"} <= set(shown[-1])
    assert [e["fraction"] for e in shown] == sorted(e["fraction"] for e in shown)


def test_cancelling_stops_at_the_next_step():
    calls = []

    def f(batch, x):
        calls.append(1)
        batch.progress(1, 3)
        return x

    run = make(batch=1, cancelled=lambda: len(calls) >= 2)
    with pytest.raises(Cancelled):
        run.map(slices(5), f, np.zeros(5))
    assert len(calls) == 2


def test_models_are_loaded_once_counted_and_timed():
    loads = []

    def load(model):
        loads.append(model)
        return lambda x, sigma, cond=None: x

    run = make(load=load, models={"prior": "m"})
    for _ in range(2):
        run.model("prior")(torch.zeros(3, 1, 2, 2), 1.0)
    assert loads == ["m"] and run.evaluations == 6 and run.seconds["network"] > 0


class Noisy:
    """A method that returns the input plus noise of 10 HU, or the bare input."""

    METHOD = METHOD

    def __init__(self, noise=True):
        self.noise, self.runs = noise, 0

    def plan(self, meta, p):
        return [Stage("sampling", items=meta["ct"]["shape"][0])]

    def run(self, run, inputs, p):
        self.runs += 1
        ct = inputs["ct"]
        with run.stage("sampling"):
            out = run.map(slices(len(ct.array)), lambda b, x: x + (10 * b.noise(1, x.shape[1:]) if self.noise else 0),
                          ct.array)  # fmt: skip
        return {"image": ct.like(out.numpy())}


def ct():
    placed = PatientGeometry.from_itk((1, 1, 1), (0, 0, 0), np.eye(3).ravel())
    return volume(np.linspace(-1000, 1000, 2 * 64 * 64, dtype=np.float32).reshape(2, 64, 64), placed)


def test_samples_give_the_mean_and_the_standard_deviation_of_the_draws():
    module, given = Noisy(), ct()
    result = execute(module, Request("test", {"slice_noise": "independent"}, samples=16), {"ct": given}, Surroundings())
    image, std = result.outputs["image"].array, result.outputs["std"].array
    assert module.runs == 16
    assert (image - given.array).std() == pytest.approx(10 / 4, rel=0.05)
    assert np.sqrt((std**2).mean()) == pytest.approx(10, rel=0.02)
    assert result.record["samples"] == 16 and result.record["versions"]["torch"]


def test_a_method_without_noise_runs_once_whatever_the_samples():
    module = Noisy(noise=False)
    result = execute(module, Request("test", samples=5), {"ct": ct()}, Surroundings())
    assert module.runs == 1 and result.outputs["std"].array.max() == 0


def test_the_plan_comes_first_and_a_plan_alone_runs_nothing():
    events, module = [], Noisy()
    assert execute(module, Request("test", plan_only=True), {"ct": ct()}, Surroundings(report=events.append)) is None
    assert module.runs == 0 and [e["event"] for e in events] == ["plan"]
    assert events[0]["memory_mb"] < events[0]["available_mb"]
