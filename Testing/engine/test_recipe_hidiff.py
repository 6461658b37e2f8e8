"""Recipe of `hidiff`: what the networks see, what unlabelled structures teach, a tiny training of all phases."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from diffusion_backend import models, training
from diffusion_backend.errors import InputError
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
    assert np.array_equal(masks[0], np.stack(truth))
    coarse = recipe.case(patient())
    object.__setattr__(coarse, "pixel", 7.0)
    _, enlarged = recipe.look(coarse, 10, recipe.View((63.5, 63.5), (256, 256)))
    assert float(enlarged.sum() / masks.sum()) == pytest.approx(4, rel=0.02)


def test_neighbours_whose_priors_are_shown_are_six_millimetres_away():
    case = recipe.case(patient())
    view = recipe.View((46.0, 60.0), (64, 96))
    hu, masks = recipe.look_around(case, 5, view)
    for neighbour, index in enumerate((5, 3, 7)):  # 3 mm slices; the blocks begin at slice 4
        alone = recipe.look(case, index, view)
        assert torch.equal(hu[neighbour], alone[0]) and torch.equal(masks[neighbour], alone[1][0])
    assert not masks[1].any() and masks[2].any()


def test_mirrored_view_is_the_mirrored_slice_with_sides_exchanged():
    case = recipe.case(patient())
    plain, mirrored = (recipe.look(case, 10, recipe.View((63.5, 63.5), (128, 128), mirrored=m)) for m in (False, True))
    assert torch.allclose(mirrored[0], plain[0].flip(-1), atol=1e-3)
    assert torch.equal(mirrored[1][0, RIGHT], plain[1][0, LEFT].flip(-1))
    assert torch.equal(mirrored[1][0, 0], plain[1][0, 0].flip(-1))
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


def test_refiner_sees_priors_of_neighbours_and_corrects_its_own():
    refiner = CompactRefiner(4, 2, priors=3).eval()
    torch.nn.init.normal_(refiner.tail.weight, std=0.1)
    prior, rest = torch.rand(1, 6, 32, 32), (torch.randn(1, 4, 32, 32), torch.zeros(1, 2, 32, 32))
    features, t = [torch.randn(1, 64, 8, 8), torch.randn(1, 128, 4, 4)], torch.tensor([9])
    with torch.no_grad():
        first = refiner(*rest, prior, features, t)
        prior[:, 2:] = 0
        second = refiner(*rest, prior, features, t)
        refiner.tail.weight.zero_()
        untrained = refiner(*rest, prior, features, t)
    assert first.shape == (1, 2, 32, 32) and not torch.allclose(first, second)
    assert torch.allclose(untrained, prior[:, :2], atol=1e-4)


def test_priors_are_less_sure_than_the_segmentor_and_features_are_the_slices_own():
    segmentor, images = Segmentor(4, 2).eval(), torch.randn(2, 3, 4, 16, 24)
    with torch.no_grad():
        _, logits, features = recipe.segmented(segmentor, images)
        alone = [segmentor(images[:, neighbour]) for neighbour in range(3)]
    for neighbour, answer in enumerate(alone):
        assert torch.allclose(logits[:, neighbour], answer.logits[0] / recipe.TEMPERATURE, atol=1e-4)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(features, alone[0].features, strict=True))


def squares(count: int = 8) -> torch.Tensor:
    """Masks [count, 3, 2, 48, 48] of one square each."""
    masks = torch.zeros(count, 3, 2, 48, 48)
    masks[..., 16:32, 12:30] = 1
    return masks


def test_priors_are_the_segmentors_disturbed_or_drawn_by_hand():
    logits, truth = 3 * torch.randn(8, 3, 2, 48, 48, generator=torch.Generator().manual_seed(1)), squares()
    first, again = (recipe.disturbed(logits, truth, torch.Generator().manual_seed(2)) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(first[::2], logits[::2].sigmoid())
    errors = first[1::4].logit() - logits[1::4]
    assert 0.05 < errors.std() < 1.5 and errors.diff(dim=-1).std() < 0.4 * errors.std()  # smooth
    assert not torch.equal(errors[:, 0], errors[:, 1])  # not alike in all slices
    assert first[3::4].min() >= 0.02 and first[3::4].max() <= 0.98


def test_masks_by_hand_are_near_the_truth_and_sometimes_left_out():
    truth = squares(40)
    drawn = recipe.by_hand(truth, torch.Generator().manual_seed(0)) > 0.5
    found = drawn.any(-1).any(-1)
    assert 0.7 < found.float().mean() < 0.9
    overlap = 2 * (drawn & (truth > 0)).sum((3, 4)) / (drawn.sum((3, 4)) + truth.sum((3, 4)))
    assert 0.7 < overlap[found].mean() < 0.98


def test_prior_of_a_mask_is_certain_inside_and_soft_at_its_border():
    p = recipe.prior_of_masks(squares(1))[0, 0, 0]
    assert p[24, 20] == pytest.approx(0.98) and p[2, 2] == pytest.approx(0.02)
    assert p[16, 20] == pytest.approx(0.02 + 0.96 * 2 / 3)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A folder of two packed patients; networks see 32 pixels and few images."""
    for number in (3, 5):
        write(tmp_path, number)
    for name, value in (("CROP", 32), ("BATCH", 4), ("HELD_OUT", 1), ("HELD_OUT_STRIDE", 6), ("DRAWS", 2)):
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


def test_every_second_state_comes_from_the_refiners_own_estimate(tiny):
    """A refiner that finds nothing, masks that are everywhere, a prior without opinion."""
    seen = []

    class Nothing(torch.nn.Module):
        def forward(self, image, y, prior, features, t):
            seen.append(y)
            return y * (1 - 1e-3) + (1 - y) * 1e-3

    batch = {"image": torch.zeros(8, 3, 2, 8, 8), "target": torch.ones(8, 3, 7, 8, 8), "known": torch.ones(8, 7)}
    prior, features = torch.full((8, 3, 7, 8, 8), 0.5), [torch.zeros(8, 1)]
    loss = recipe.HiDiff(tiny)._refined(Nothing(), batch, prior, features, torch.Generator().manual_seed(0))
    first, states = seen
    assert loss.isfinite() and len(first) == 4 and abs(first.mean() - 0.5) < 0.05
    means = states.mean((1, 2, 3))
    assert means[::2].mean() < 0.4 and means[1::2].mean() > 0.6 and (means[::2] < 0.56).all()


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
    assert bundle.card["training"]["patients"] == {"train": 1, "held_out": ["pt_3"]}
    assert len(bundle.card["thresholds"]) == 7 and set(bundle.card["thresholds"]) <= set(recipe.THRESHOLDS)
    assert bundle.card["network"]["refiner"]["priors"] == 3
    assert sum(t.numel() * 2 for part in bundle.parts.values() for t in part.values()) < 3e6
    more = [*arguments[:6], "2", "--float32", "--init", str(tiny / "out" / "hidiff"), "--first", "refiner",
            "--last", "refiner"]  # fmt: skip
    assert training.main(more) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["phase"] == "refiner"
    with pytest.raises(InputError, match="no phase 'second'"):
        training.main([*more[:-1], "second"])


def test_segmentor_learns_blocks_of_another_density(tiny):
    state = training.Training(recipe.HiDiff(tiny), training.Settings(output=tiny, bfloat16=False, warm_up=5))
    losses = [state.advance(0.0)[1] for _ in range(40)]
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
