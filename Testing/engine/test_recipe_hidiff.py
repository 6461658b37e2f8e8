"""Recipe of `hidiff`: what the networks see, what unlabelled structures teach, a tiny training of all phases."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from diffusion_backend import models, training
from diffusion_backend.io import openkbp
from diffusion_backend.networks.hidiff import CompactRefiner
from diffusion_backend.networks.segmentor import Segmentor, supervise
from diffusion_backend.recipes import hidiff as recipe

RIGHT, LEFT = (recipe.STRUCTURES.index(s) for s in ("RightParotid", "LeftParotid"))


def patient(number: int = 3, slices: int = 20, missing: tuple[str, ...] = ("Larynx",)) -> openkbp.Patient:
    """A body of 40 HU in `slices` slices, one block of 100 HU per structure; slice k has k HU more."""
    hu = np.full(openkbp.SHAPE, -1024, np.int16)
    hu[:slices, 30:100, 20:108] = 40
    masks = np.zeros(openkbp.SHAPE, np.uint16)
    for bit in range(len(recipe.STRUCTURES)):
        block = (slice(4, 16), slice(40, 52), slice(30 + 10 * bit, 38 + 10 * bit))
        masks[block] |= 1 << bit
        hu[block] = 100
    hu[:slices] += np.arange(slices, dtype=np.int16)[:, None, None]
    present = tuple(s for s in openkbp.STRUCTURES if s not in missing)
    return openkbp.Patient(f"pt_{number}", openkbp.split_of(number), hu, masks, present, (3.5, 3.5, 3.0), (0, slices))


def write(folder, number: int):
    made = patient(number)
    masks = made.masks & ~np.uint16(1 << openkbp.STRUCTURES.index("Larynx"))
    axes = {"ct": made.hu + openkbp.OFFSET, "structures": masks}
    arrays = {k: a[::-1].transpose(1, 2, 0) for k, a in axes.items()}
    file = folder / f"{made.split}_pt_{number:03d}.npz"
    openkbp.save(arrays | {"present": np.array(made.present), "voxel_mm": np.array([3.5, 3.5, 3.0])}, file)


def test_networks_see_slices_three_millimetres_apart_clamped_at_the_ends():
    case = recipe.case(patient())
    centre = recipe.View((63.5, 63.5))
    hu, _ = recipe.look(case, 10, centre)
    assert hu[:, 20, 20].tolist() == pytest.approx([48, 49, 50, 51, 52])  # to superior, one slice each
    hu, _ = recipe.look(case, 0, centre)
    assert hu[:, 20, 20].tolist() == pytest.approx([40, 40, 40, 41, 42])
    far, _ = recipe.look(case, 10, recipe.View((-400.0, 63.5)))
    assert far.eq(-1024).all()  # beyond the array: air


def test_view_without_change_returns_the_masks_and_keeps_millimetres():
    case = recipe.case(patient())
    _, masks = recipe.look(case, 10, recipe.View((63.5, 63.5), (128, 128)))
    truth = [(patient().masks[10] >> b) & 1 for b in range(len(recipe.STRUCTURES))]
    assert np.array_equal(masks, np.stack(truth))
    coarse = recipe.case(patient())
    object.__setattr__(coarse, "pixel", 7.0)
    _, enlarged = recipe.look(coarse, 10, recipe.View((63.5, 63.5), (256, 256)))
    assert float(enlarged.sum() / masks.sum()) == pytest.approx(4, rel=0.02)


def test_mirrored_view_is_the_mirrored_slice_with_sides_exchanged():
    case = recipe.case(patient())
    plain, mirrored = (recipe.look(case, 10, recipe.View((63.5, 63.5), (128, 128), mirrored=m)) for m in (False, True))
    assert torch.allclose(mirrored[0], plain[0].flip(-1), atol=1e-3)
    assert torch.equal(mirrored[1][RIGHT], plain[1][LEFT].flip(-1))
    assert torch.equal(mirrored[1][0], plain[1][0].flip(-1))
    assert sorted(recipe.MIRRORED) == list(range(7)) and recipe.MIRRORED[RIGHT] == LEFT


def test_turned_view_keeps_areas_and_scaled_view_changes_them():
    case = recipe.case(patient())
    areas = [recipe.look(case, 10, recipe.View((63.5, 63.5), (160, 160), d, s))[1].sum()
             for d, s in ((0, 1), (15, 1), (0, 1.5))]  # fmt: skip
    assert float(areas[1] / areas[0]) == pytest.approx(1, abs=0.03)
    assert float(areas[2] / areas[0]) == pytest.approx(2.25, abs=0.05)


def test_rare_structures_are_drawn_as_often_as_common_ones():
    rare = recipe.case(patient(1, missing=("Mandible",)))
    common = [recipe.case(patient(n, missing=("Larynx", "Mandible"))) for n in range(2, 40)]
    rng = np.random.default_rng(0)
    drawn = [recipe.random_slice([rare, *common], rng)[0].name for _ in range(700)]
    assert 40 < drawn.count("pt_1") < 110  # 2/3 of a seventh for the larynx, and a little


def test_windows_are_channels_from_minus_one_to_one():
    seen = recipe.channels(torch.tensor([-2000.0, 50.0, 500.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2))
    assert seen.shape == (1, 6, 2, 2)
    assert seen[0, :, 0, 0].tolist() == pytest.approx([-1, 0, 1, -1, -0.3, 0])


def test_random_slices_and_views_repeat_with_their_generator():
    case = recipe.case(patient())
    draws = [[(recipe.random_slice([case], g)[1], recipe.random_view(case, g)) for _ in range(50)]
             for g in (np.random.default_rng(1), np.random.default_rng(1))]  # fmt: skip
    assert draws[0] == draws[1]
    assert 0.6 < np.mean([4 <= k < 16 for k, _ in draws[0]]) < 0.98
    assert len({v.mirrored for _, v in draws[0]}) == 2


def test_structures_that_werent_contoured_teach_nothing():
    torch.manual_seed(0)
    logits = [torch.randn(2, 3, 16, 16, requires_grad=True), torch.randn(2, 3, 8, 8, requires_grad=True)]
    target, known = (torch.rand(2, 3, 16, 16) > 0.7).float(), torch.tensor([[1.0, 1, 0], [1, 0, 0]])
    loss = supervise(logits, target, known)
    loss.backward()
    for level in logits:
        moved = level.grad.abs().amax((2, 3)) > 0
        assert moved.tolist() == known.bool().tolist()
    changed = target.clone()
    changed[:, 2] = 1 - changed[:, 2]
    changed[1, 1] = 1 - changed[1, 1]
    assert supervise(logits, changed, known).item() == pytest.approx(loss.item())
    nothing = supervise(logits, target, torch.zeros(2, 3))
    assert nothing.isfinite()


def test_perfect_logits_have_a_loss_near_zero():
    target = (torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) > 0.7).float()
    assert supervise([40 * target - 20], target, torch.ones(2, 3)) < 1e-3


def test_networks_answer_each_image_alone_and_on_rectangles():
    torch.manual_seed(0)
    segmentor, refiner = Segmentor(4, 2).eval(), CompactRefiner(4, 2).eval()
    torch.nn.init.normal_(refiner.tail.weight, std=0.1)
    image, y = torch.randn(3, 4, 64, 96), (torch.rand(3, 2, 64, 96) > 0.5).float()
    with torch.no_grad():
        logits, features = segmentor(image)
        flip = refiner(image, y, logits[0].sigmoid(), features, torch.tensor([0, 3, 9]))
        alone, few = segmentor(image[1:2])
        single = refiner(image[1:2], y[1:2], alone[0].sigmoid(), few, torch.tensor([3]))
    assert [tuple(level.shape[1:]) for level in logits] == [(2, 64, 96), (2, 32, 48), (2, 16, 24)]
    assert [tuple(f.shape[1:]) for f in features] == [(64, 16, 24), (128, 8, 12)]
    assert flip.shape == (3, 2, 64, 96) and bool(((flip > 0) & (flip < 1)).all())
    assert torch.allclose(flip[1:2], single, atol=1e-5)
    with pytest.raises(ValueError, match="multiples of 8"):
        segmentor(torch.zeros(1, 4, 60, 96))


def test_untrained_refiner_gives_the_prior_back_whatever_the_state():
    refiner, p = CompactRefiner(4, 2).eval(), torch.rand(1, 2, 32, 32) * 0.98 + 0.01
    features = [torch.randn(1, 64, 8, 8), torch.randn(1, 128, 4, 4)]
    for y in (torch.zeros_like(p), torch.ones_like(p)):
        with torch.no_grad():
            flip = refiner(torch.randn(1, 4, 32, 32), y, p, features, torch.tensor([5]))
        assert torch.allclose((y - flip).abs(), p, atol=1e-5)


def test_disturbed_priors_differ_in_every_second_image_only():
    logits = torch.randn(4, 7, 32, 32)
    first, again = (recipe.disturbed(logits, torch.Generator().manual_seed(2)) for _ in range(2))
    assert torch.equal(first, again) and torch.equal(first[1::2], logits[1::2])
    assert not torch.equal(first[0], logits[0]) and not torch.equal(first[2], logits[2])


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A folder of two packed patients; networks see 32 pixels and few images."""
    for number in (3, 205):
        write(tmp_path, number)
    for name, value in (("CROP", 32), ("BATCH", 4), ("VALIDATION_STRIDE", 6), ("VALIDATION_CALLS", 2)):
        monkeypatch.setattr(recipe, name, value)
    monkeypatch.setattr(recipe, "random_view", lambda case, rng: recipe.View((46.0, 60.0), (32, 32), mirrored=False))
    return tmp_path


def test_collaboration_reaches_the_segmentor_and_leaves_the_refiner_statistics_alone(tiny, monkeypatch):
    state = training.Training(recipe.HiDiff(tiny), training.Settings(output=tiny, bfloat16=False))
    batch = state.recipe.batch(state.recipe.phases()[2], np.random.default_rng(0))
    torch.nn.init.normal_(state.parts["refiner"].tail.weight, std=0.1)
    running = state.parts["refiner"].blocks["down1"].norm.running_mean.clone()

    def gradient(weight):
        monkeypatch.setattr(recipe, "COLLABORATION", weight)
        state.parts["segmentor"].zero_grad()
        state.recipe.collaborative_loss(state.parts, batch, torch.Generator().manual_seed(0)).backward()
        return state.parts["segmentor"].down[0][0].weight.grad.clone()

    assert not torch.allclose(gradient(0.0), gradient(1.0), rtol=1e-3)
    assert torch.equal(state.parts["refiner"].blocks["down1"].norm.running_mean, running)
    frozen = state.parts["segmentor"].down[0][1].running_mean.clone()
    state.parts["segmentor"].zero_grad()
    state.recipe.refiner_loss(state.parts, batch, torch.Generator().manual_seed(0)).backward()
    assert all(p.grad is None for p in state.parts["segmentor"].parameters())
    assert torch.equal(state.parts["segmentor"].down[0][1].running_mean, frozen)


def test_all_phases_train_and_save_a_bundle_that_goes_on(tiny, capsys):
    arguments = ["hidiff", "--data", str(tiny), "--output", str(tiny / "out"), "--steps", "12", "--float32",
                 "--checkpoint-minutes", "0"]  # fmt: skip
    assert training.main(arguments) == 0
    rows = [json.loads(line) for line in (tiny / "out" / "log.jsonl").read_text().splitlines()]
    assert [row["phase"] for row in rows] == [*["segmentor"] * 8, *["refiner"] * 3, "collaborating"]
    assert "dice_refiner" not in rows[7] and "dice_refiner" in rows[8]
    assert "dice_segmentor_Mandible" in rows[0] and np.isnan(rows[0]["dice_segmentor_Larynx"])
    bundle = models.load_bundle(tiny / "out" / "hidiff")
    assert set(bundle.parts) == {"segmentor", "refiner"} and bundle.card["interface"] == "BernoulliRefiner"
    assert bundle.card["training"]["patients"] == {"train": 1, "validation": ["pt_205"]}
    assert sum(t.numel() * 2 for part in bundle.parts.values() for t in part.values()) < 3e6
    more = [*arguments[:6], "2", "--float32", "--init", str(tiny / "out" / "hidiff"), "--first", "refiner"]
    assert training.main(more) == 0
    assert "refiner" in capsys.readouterr().out.splitlines()[-1]


def test_segmentor_learns_blocks_of_another_density(tiny):
    state = training.Training(recipe.HiDiff(tiny), training.Settings(output=tiny, bfloat16=False, warm_up=5))
    losses = [state.advance(0.0)[1] for _ in range(40)]
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
