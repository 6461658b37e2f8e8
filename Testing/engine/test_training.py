"""The training loop on a problem with a known optimum, resuming, several processes, and the recipe of ct-image."""

from __future__ import annotations

import csv
import itertools
import json
import math
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from diffusion_backend.diffusion.denoiser import EDM
from diffusion_backend.errors import InputError
from diffusion_backend.recipes import ct_image
from diffusion_backend.training import Ema, Phase, Settings, Training, learning_rate, train


class Line:
    """Fits y = 2 x + 1 by least squares: the optimum is known."""

    def parts(self):
        return {"line": nn.Linear(1, 1), "other": nn.Linear(1, 1)}

    def phases(self):
        def loss(parts, batch, generator):
            return (parts["line"](batch["x"]) - 2 * batch["x"] - 1).square().mean()

        return [Phase("fit", "line", 1.0, loss)]

    def batch(self, phase, rng):
        return {"x": torch.from_numpy(rng.standard_normal((8, 1)).astype("float32"))}

    def validate(self, parts):
        line = parts["line"]
        return {"score": float((line.weight - 2).abs() + (line.bias - 1).abs())}

    def card(self):
        return {"training": {}}


def settings(folder, **changes):
    values = {"output": folder, "steps": 300, "learning_rate": 0.05, "warm_up": 5, "ema": 0.9, "bfloat16": False,
              "checkpoint_minutes": 1e9} | changes  # fmt: skip
    return Settings(**values)


def test_finds_the_optimum_and_leaves_other_parts_and_the_global_generator_alone(tmp_path):
    state = torch.get_rng_state()
    training, rows, finished = Training(Line(), settings(tmp_path)), [], []
    before = training.parts["other"].weight.clone()
    train(training, rows.append, lambda t, row: finished.append(row))
    assert rows[-1]["step"] == 300 and rows[-1]["score"] < 0.02
    assert finished == [rows[-1]]
    assert torch.equal(training.parts["other"].weight, before)
    assert torch.equal(torch.get_rng_state(), state)


class Turns(Line):
    """Fits `line`, then `other` (learning rate anew) by turns with `line`."""

    def phases(self):
        def loss(name):
            return lambda parts, batch, generator: (parts[name](batch["x"]) - 2 * batch["x"] - 1).square().mean()

        slow = Phase("slow", "line", 0.0, loss("line"), rate=0.1)
        return [Phase("alone", "line", 0.6, loss("line")),
                Phase("together", "other", 0.4, loss("other"), partner=slow, fresh=True)]  # fmt: skip


def rate(training, part):
    return training.optimisers[part].param_groups[0]["lr"]


def test_parts_take_turns_and_the_learning_rate_starts_anew(tmp_path):
    training = Training(Turns(), settings(tmp_path, warm_up=1))
    assert training.advance(0.599)[0] == "alone" and rate(training, "line") < 0.001
    names = [training.advance(0.6)[0] for _ in range(4)]
    assert names == ["slow", "together", "slow", "together"]
    assert rate(training, "other") == pytest.approx(0.05) and rate(training, "line") == pytest.approx(0.005)
    assert training.advance(1.0)[0] == "slow" and rate(training, "line") == pytest.approx(0.00005)


def test_average_and_warm_up_of_a_part_begin_with_its_training(tmp_path):
    training = Training(Turns(), settings(tmp_path, warm_up=10, ema=0.999))
    for _ in range(51):
        training.advance(0.3)
    before = training.parts["other"].weight.detach().clone()
    while training.advance(0.7)[0] != "together":
        pass
    assert rate(training, "other") < 0.006  # one tenth of what the cosine gives
    share = (training.ema.state["other"]["weight"] - before) / (training.parts["other"].weight.detach() - before)
    assert float(share) == pytest.approx(0.9, abs=1e-3)


def test_training_can_begin_with_a_later_phase_and_with_some_of_the_parts(tmp_path):
    line = nn.Linear(1, 1)
    training = Training(Turns(), settings(tmp_path, first="together"), {"line": line.state_dict()})
    assert torch.equal(training.parts["line"].weight, line.weight)
    assert training.advance(0.0)[0] == "together"


def test_resumed_run_equals_an_uninterrupted_one(tmp_path):
    whole = Training(Line(), settings(tmp_path))
    for n in range(20):
        whole.advance(n / 300)
    first = Training(Line(), settings(tmp_path))
    for n in range(10):
        first.advance(n / 300)
    first.save(tmp_path / "checkpoint.pt")
    second = Training(Line(), settings(tmp_path, seed=0))
    second.resume(tmp_path / "checkpoint.pt")
    assert second.step == 10
    for n in range(10, 20):
        second.advance(n / 300)
    assert torch.equal(second.parts["line"].weight, whole.parts["line"].weight)
    assert torch.equal(second.ema.state["line"]["bias"], whole.ema.state["line"]["bias"])


def test_missing_checkpoint_is_said_in_a_sentence(tmp_path):
    with pytest.raises(InputError, match="no checkpoint"):
        Training(Line(), settings(tmp_path)).resume(tmp_path / "checkpoint.pt")


def test_init_starts_from_given_weights(tmp_path):
    weights = {"line": {"weight": torch.tensor([[2.0]]).half(), "bias": torch.tensor([1.0]).half()}}
    weights["other"] = weights["line"]
    training = Training(Line(), settings(tmp_path), weights)
    assert training.validate()["score"] == 0


def test_learning_rate_warms_up_and_ends_at_one_percent():
    assert learning_rate(0.0, 0, 1.0, 10) == pytest.approx(0.1)
    assert learning_rate(0.5, 100, 1.0, 10) == pytest.approx(0.505)
    assert learning_rate(1.0, 100, 1.0, 10) == pytest.approx(0.01)


def test_ema_follows_its_recursion_and_copies_integer_buffers():
    module = nn.BatchNorm1d(1)
    ema = Ema({"m": module}, 0.5)
    with torch.no_grad():
        module.running_mean.fill_(1.0)
        module.num_batches_tracked.fill_(7)
    ema.update("m", module, 10**9)
    assert float(ema.state["m"]["running_mean"]) == 0.5
    assert int(ema.state["m"]["num_batches_tracked"]) == 7


def test_two_processes_average_their_gradients(tmp_path):
    """Two processes with own batches end with equal weights that differ from those of one process."""
    script = (
        "import sys, json, torch; sys.path[:0] = sys.argv[2:]\n"
        "torch.set_num_threads(1)\n"
        "from pathlib import Path\n"
        "from test_training import Line, settings\n"
        "from diffusion_backend.training import Training\n"
        "t = Training(Line(), settings(Path(sys.argv[1])))\n"
        "[t.advance(t.progress) for _ in range(5)]\n"
        "print(json.dumps([t.rank, t.parts['line'].weight.item()]), flush=True)\n"
    )
    import os

    def launch(rank, world):
        environment = os.environ | {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1",
                                    "MASTER_PORT": "29517", "OMP_NUM_THREADS": "1"}  # fmt: skip
        command = [sys.executable, "-c", script, str(tmp_path), *[p for p in sys.path if p]]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    pair = [launch(0, 2), launch(1, 2)]
    weights = dict(json.loads(p.communicate(timeout=120)[0].strip().splitlines()[-1]) for p in pair)
    alone = json.loads(launch(0, 1).communicate(timeout=120)[0].strip().splitlines()[-1])[1]
    assert weights[0] == weights[1]
    assert weights[0] != alone


def test_edm_loss_of_the_exact_gaussian_denoiser():
    """For N(0, v) data the optimal weighted loss is E[(x0hat - x0)^2] / c_out^2 = 1 when sigma_data^2 = v."""
    edm, v, sigma = EDM(0.5), 0.25, torch.full((20000,), 0.3)
    generator = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(20000, 1, generator=generator) for _ in range(2))
    loss = edm.loss(lambda x, c, cond: torch.zeros_like(x), x0 * v**0.5, sigma, noise)
    assert float(loss) == pytest.approx(1.0, abs=4 * math.sqrt(2 / 20000))  # zero network = exact posterior mean
    worse = edm.loss(lambda x, c, cond: 0.3 * x, x0 * v**0.5, sigma, noise)
    assert float(worse) > float(loss) + 0.05


@pytest.fixture
def small_set(tmp_path):
    """A folder like the real one with two training patients, one of them excluded, and one validation patient."""
    folder = tmp_path / "ct-tcia-slices"
    folder.mkdir()
    rng = np.random.default_rng(0)
    hu = np.full((4, 256, 256), -1000, np.int16)
    hu[:, 64:192, 64:192] = rng.integers(0, 60, (4, 128, 128))
    np.savez(folder / "train-01.npz", hu=hu)
    np.savez(folder / "val.npz", hu=hu[:1])
    rows = [("train-01.npz", 0, "p001", 0, "train"), ("train-01.npz", 1, "p001", 7, "train"),
            ("train-01.npz", 2, "p062", 0, "train"), ("train-01.npz", 3, "p001", 0, "train"),
            ("val.npz", 0, "p031", 0, "val")]  # fmt: skip
    with open(folder / "slices.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["npz", "index", "patient", "px_over_2500", "split"])
        writer.writerows(rows)
    return tmp_path


def test_ct_image_leaves_metal_and_reserved_patients_out(small_set):
    assert {p: len(s) for p, s in ct_image.read_slices(small_set, "train").items()} == {"p001": 2}
    with pytest.raises(InputError, match="slices.csv"):
        ct_image.CtImage(small_set / "nowhere")


def test_ct_image_trains_and_saves_a_loadable_bundle(small_set, monkeypatch, tmp_path):
    from diffusion_backend import models, training

    monkeypatch.setitem(ct_image.NETWORK, "width", 4)
    output = tmp_path / "out"
    arguments = ["ct-image", "--data", str(small_set), "--output", str(output), "--steps", "3"]
    assert training.main(arguments) == 0
    bundle = models.load_bundle(output / "ct-image")
    assert bundle.card["training"]["steps"] == 3
    assert bundle.card["training"]["patients"] == {"train": ["p001"], "validation": ["p031"]}
    assert training.main([*arguments[:-2], "--steps", "2", "--init", str(output / "ct-image")]) == 0
    assert (output / "log.jsonl").read_text().count("\n") == 2


def test_card_holds_the_curve_steps_and_hours_of_all_legs(monkeypatch, tmp_path):
    """Two legs by the command, the second from the first one's model; the clock gains six minutes at each look."""
    from diffusion_backend import models, recipes, training

    class Better(Line):
        """A line whose score falls at each look and starts anew in each leg."""

        def __init__(self, data):
            self.looks = 0

        def validate(self, parts):
            self.looks += 1
            return {"score": 10 / self.looks}

        def card(self):
            return {"interface": "Denoiser", "network": {}, "licence": "MIT", "training": {"patients": {}}}

    def leg(name, steps, *more):
        arguments = ["line", "--data", str(tmp_path), "--output", str(tmp_path / name), "--steps", str(steps),
                     "--float32", "--checkpoint-minutes", "0", *more]  # fmt: skip
        assert training.main(arguments) == 0
        return models.read_card(tmp_path / name / "line")["training"]

    minutes = itertools.count(0, 6)
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: 60.0 * next(minutes)))
    monkeypatch.setitem(recipes.RECIPES, "line", Better)
    first = leg("one", 3)
    assert (first["steps"], first["hours"], first["validation"]) == (3, 0.3, {"score": pytest.approx(10 / 3)})
    both = leg("two", 2, "--init", str(tmp_path / "one" / "line"))
    assert (both["steps"], both["hours"], both["validation"]) == (5, 0.5, {"score": 5.0})
    assert both["curve"][:3] == first["curve"]
    assert [row["step"] for row in both["curve"]] == [1, 2, 3, 4, 5]
    assert [row["hours"] for row in both["curve"]] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert [row["score"] for row in both["curve"]] == [10, 5, 3.33, 10, 5]
    assert both["patients"] == {}
    monkeypatch.setattr(Better, "validate", lambda self, parts: {"score": 1.0})
    longer = leg("two", 3, "--resume", "--init", str(tmp_path / "one" / "line"))  # goes on after step 2 of this leg
    assert longer["steps"] == 6 and [row["step"] for row in longer["curve"]] == [1, 2, 3, 4, 5, 6]
    assert longer["curve"][:5] == both["curve"]


def test_crops_keep_hounsfield_units_and_random_state(small_set):
    image = torch.from_numpy(ct_image.read_slices(small_set, "val")["p031"][0]).float()
    crops = [ct_image.random_crop(image, 64, np.random.default_rng(n)) for n in range(20)]
    again = ct_image.random_crop(image, 64, np.random.default_rng(3))
    assert torch.equal(again, crops[3])
    assert all(c.shape == (64, 64) and c.min() >= -1000 and c.max() < 300 for c in crops)
    assert sum(float(c.mean()) > -900 for c in crops) >= 18
