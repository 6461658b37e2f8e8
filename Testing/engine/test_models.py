"""Model store: bundles, damage, import of published checkpoints, denoisers of bundles."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from conftest import golden_files
from safetensors.torch import save_file

from diffusion_backend import licences, models
from diffusion_backend.diffusion.denoiser import EDM
from diffusion_backend.diffusion.schedules import linear_vp
from diffusion_backend.errors import InputError, ModelError
from diffusion_backend.networks.dudodp import DuDoDpConfig, DuDoDpNet
from diffusion_backend.networks.unet import UNet

SMALL = {"dims": 2, "in_channels": 1, "out_channels": 1, "width": 8, "multipliers": (1, 2), "blocks": 1}


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    """An empty user folder and an empty bundled folder, with a blank and an umlaut in the path."""
    monkeypatch.setenv("DIFFUSIONMODELS_MODELS", str(tmp_path / "own mödels"))
    monkeypatch.setenv("DIFFUSIONMODELS_RESOURCES", str(tmp_path / "Resources"))
    return tmp_path


def card(**fields):
    """A card of a small U-Net."""
    normalisation = {"offset": -500.0, "scale": 1000.0, "sigma_data": 0.5}
    network = {"architecture": "UNet", "parametrisation": "EDM", **SMALL}
    return {"interface": "Denoiser", "dims": 2, "channels": 1, "unit": "HU", "sigma_range": [5.0, 3000.0]} | {
        "normalisation": normalisation, "network": network, "licence": "CC0", **fields}  # fmt: skip


def unet(seed: int = 0) -> UNet:
    """A small U-Net with random weights in every layer."""
    net, generator = UNet(**SMALL), torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        parameter.data = (0.1 * torch.randn(parameter.shape, generator=generator)).half().float()
    return net


def dudodp(**fields) -> DuDoDpNet:
    """A small DuDoDp network with random weights."""
    config = {"width": 32, "multipliers": (1, 2), "blocks": 1, "attention_levels": (1,), "head_width": 64, **fields}
    return DuDoDpNet(DuDoDpConfig(**config))


def bundled(store, name: str = "ct-test"):
    return models.save_bundle(store / "Resources" / "Models" / name, card(), {"denoiser": unet().state_dict()})


def test_bundle_round_trip_is_exact(store):
    bundled(store)
    bundle = models.load_bundle("ct-test")
    assert bundle.card["schema"] == 1 and bundle.card["id"] == "ct-test" and bundle.card["parts"] == ["denoiser"]
    for key, value in unet().state_dict().items():
        assert bundle.parts["denoiser"][key].dtype == torch.float16
        assert torch.equal(bundle.parts["denoiser"][key].float(), value)


def test_users_model_hides_the_bundled_one_and_can_be_removed(store):
    bundled(store)
    models.save_bundle(store / "own mödels" / "ct-test", card(licence="CC0-1.0"), {"denoiser": unet(1).state_dict()})
    assert [(c["licence"], c["removable"]) for c in models.list_models()] == [("CC0-1.0", True)]
    assert models.load_bundle("ct-test").card["licence"] == "CC0-1.0"
    models.remove("ct-test")
    assert models.load_bundle("ct-test").card["licence"] == "CC0"
    with pytest.raises(ModelError, match="can't be removed"):
        models.remove("ct-test")


def test_saving_again_replaces_and_leaves_nothing_behind(store):
    folder = bundled(store)
    models.save_bundle(folder, card(licence="new"), {"denoiser": unet(1).state_dict()})
    assert models.verify(folder)["licence"] == "new"
    assert [entry.name for entry in folder.parent.iterdir()] == ["ct-test"]


def test_missing_model_names_what_there_is(store):
    bundled(store)
    with pytest.raises(ModelError, match="'ct-nothing' was not found.*available: ct-test") as error:
        models.load_bundle("ct-nothing")
    assert error.value.exit_code == 3
    with pytest.raises(ModelError, match="was not found"):
        models.load_bundle("../ct-test")


def damage_bit(folder):
    raw = bytearray((folder / models.WEIGHTS).read_bytes())
    raw[-1] ^= 1
    (folder / models.WEIGHTS).write_bytes(raw)


DAMAGES = {
    "one bit": (damage_bit, "damaged: their sha256"),
    "cut off": (lambda f: (f / models.WEIGHTS).write_bytes((f / models.WEIGHTS).read_bytes()[:-9]), "damaged"),
    "no weights": (lambda f: (f / models.WEIGHTS).unlink(), "has no file"),
    "no json": (lambda f: (f / models.CARD).write_text("{"), "can't be read"),
    "schema 2": (lambda f: (f / models.CARD).write_text('{"schema": 2}'), "has schema 2"),
    "no licence": (lambda f: rewrite(f, lambda c: c.pop("licence")), "lacks licence"),
    "unknown interface": (lambda f: rewrite(f, lambda c: c.update(interface="Oracle")), "unknown interface 'Oracle'"),
}


def rewrite(folder, change):
    content = json.loads((folder / models.CARD).read_text())
    change(content)
    (folder / models.CARD).write_text(json.dumps(content))


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found_and_named(store, name):
    folder = bundled(store)
    hurt, sentence = DAMAGES[name]
    hurt(folder)
    with pytest.raises(ModelError, match=sentence):
        models.load_denoiser("ct-test")


@pytest.mark.parametrize(("change", "sentence"), [
    (lambda c: c["network"].update(width=16), "has shape"),
    (lambda c: c["network"].update(blocks=2), "is missing"),
    (lambda c: c["network"].update(wings=2), "wings"),
    (lambda c: c["network"].update(architecture="VNet"), "'VNet' is unknown"),
    (lambda c: c.pop("normalisation"), "normalisation"),
    (lambda c: c.update(interface="Segmentor"), "is a Segmentor"),
])  # fmt: skip
def test_card_that_does_not_fit_its_weights(store, change, sentence):
    rewrite(bundled(store), change)
    with pytest.raises(ModelError, match=sentence):
        models.load_denoiser("ct-test")


def test_values_beyond_half_precision_are_refused(store):
    with pytest.raises(ModelError, match="'denoiser/w' has values that are not finite"):
        models.save_bundle(store / "x", card(), {"denoiser": {"w": torch.tensor([1e6])}})
    assert list(store.iterdir()) == []


def test_denoiser_is_the_network_in_hu(store):
    bundled(store)
    denoise, net = models.load_denoiser("ct-test"), unet()
    hu = 1000 * torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = EDM(0.5).denoise(net, (hu + 500) / 1000, torch.tensor([0.04, 0.04])) * 1000 - 500
    assert torch.allclose(denoise(hu, 40.0), expected, atol=1e-2)
    assert torch.allclose(denoise(hu, torch.tensor([40.0, 40.0])), expected, atol=1e-2)


def test_denoiser_pads_to_the_stride_and_cuts_again(store):
    bundled(store)
    denoise = models.load_denoiser("ct-test")
    hu = torch.randn(1, 1, 7, 10, generator=torch.Generator().manual_seed(1)) * 500
    padded = torch.nn.functional.pad(hu, (0, 0, 0, 1), mode="reflect")
    assert torch.allclose(denoise(hu, 100.0), denoise(padded, 100.0)[..., :7, :], atol=1e-3)
    assert denoise(hu[..., :1, :1], 100.0).shape == (1, 1, 1, 1)


def test_levels_outside_the_trained_range(store):
    """Above the range the image is contracted towards the offset; below it the lowest level is used."""
    bundled(store)
    denoise = models.load_denoiser("ct-test")
    hu = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 30000
    assert torch.allclose(denoise(hu, 30000.0), denoise(-500 + (hu + 500) / 10, 3000.0), atol=1e-2)
    assert torch.equal(denoise(hu, 30000.0), denoise(hu, torch.tensor([30000.0])))
    assert torch.equal(denoise(hu, 0.0), denoise(hu, 5.0))


def test_import_keeps_weights_and_answers_as_the_network(store):
    net = dudodp()
    torch.save({"state_dict": {f"module.{k}": v for k, v in net.state_dict().items()}}, store / "mödel 1.pt")
    found = models.import_model("a11", store / "mödel 1.pt")
    assert "no licence file" in found["licence"].lower() and found["source_file"] == "mödel 1.pt"
    licences.acknowledge("a11-published")
    denoise, scale = models.load_denoiser("a11-published"), 1000 / 0.384
    x = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    t, schedule = 300, linear_vp()
    abar = schedule.alpha_bar[t]
    hu = (x / abar**0.5 + 1) * scale - 1000
    expected = (net(x, torch.tensor([t]))[:, :1] + 1) * scale - 1000
    assert torch.allclose(denoise(hu, schedule.sigmas[t] * scale), expected.detach(), atol=2e-5 * scale)
    levels = torch.tensor([schedule.sigmas[t] * scale, 500.0], dtype=torch.float64)
    pair = denoise(torch.cat([hu, hu]), levels)
    assert torch.allclose(pair[:1], expected.detach(), atol=2e-5 * scale)
    assert torch.allclose(pair[1:], denoise(hu, 500.0), atol=2e-5 * scale)


def test_import_of_safetensors_under_a_name(store):
    save_file({k: v.contiguous() for k, v in dudodp(variance=False).state_dict().items()}, store / "ema.safetensors")
    models.import_model("a11", store / "ema.safetensors", name="a11-ema")
    licences.acknowledge("a11-ema")
    assert models.load_bundle("a11-ema").card["network"]["variance"] is False


class Harmful:
    """Unpickling this would run code."""

    def __reduce__(self):
        return print, ("code of a foreign file ran",)


def test_import_never_runs_foreign_code(store, capsys):
    with open(store / "evil.pt", "wb") as file:
        pickle.dump({"w": Harmful()}, file)
    torch.save({"w": Harmful()}, store / "evil2.pt")
    for name in ("evil.pt", "evil2.pt"):
        with pytest.raises(ModelError, match="foreign code|can't be read"):
            models.import_model("a11", store / name)
    assert "ran" not in capsys.readouterr().out


def test_import_lists_what_does_not_fit(store):
    state = dict(dudodp().state_dict())
    del state["out.2.bias"]
    state["surplus"] = torch.zeros(1)
    state["middle_block.1.qkv.weight"] = torch.zeros(5, 64, 1)
    torch.save(state, store / "m.pt")
    with pytest.raises(ModelError) as error:
        models.import_model("a11", store / "m.pt")
    for phrase in ("3 tensors differ", "'out.2.bias' is missing", "'surplus' is not part",
                   "'middle_block.1.qkv.weight' has shape (5, 64, 1), but (192, 64, 1) is needed"):  # fmt: skip
        assert phrase in str(error.value)
    assert models.list_models() == []


@pytest.mark.parametrize(("content", "sentence"), [
    (b"", "can't be read"), (b"not a checkpoint", "can't be read|foreign code"), (None, "There is no file"),
])  # fmt: skip
def test_import_of_a_file_that_is_none(store, content, sentence):
    if content is not None:
        (store / "m.pt").write_bytes(content)
    with pytest.raises((ModelError, InputError), match=sentence):
        models.import_model("a11", store / "m.pt")


def test_import_refuses_other_networks_methods_and_options(store):
    torch.save({"conv.weight": torch.zeros(1)}, store / "m.pt")
    torch.save([1, 2], store / "list.pt")
    with pytest.raises(ModelError, match="not a DuDoDp"):
        models.import_model("a11", store / "m.pt")
    with pytest.raises(ModelError, match="no state dict"):
        models.import_model("a11", store / "list.pt")
    with pytest.raises(InputError, match="no import for 'a99'"):
        models.import_model("a99", store / "m.pt")
    torch.save(dudodp().state_dict(), store / "m.pt")
    with pytest.raises(InputError, match="Unknown import option 'wings'"):
        models.import_model("a11", store / "m.pt", options={"wings": 2})
    for wrong in ("many", 0, -1):
        with pytest.raises(InputError, match="head_width is .* whole number above 0"):
            models.import_model("a11", store / "m.pt", options={"head_width": wrong})
    with pytest.raises(ModelError, match="64 channels can't be split into heads of 48"):
        models.import_model("a11", store / "m.pt", options={"head_width": 48})
    with pytest.raises(InputError, match="must consist of letters"):
        models.import_model("a11", store / "m.pt", name="../outside")


@pytest.mark.golden
@pytest.mark.parametrize("file", golden_files("a11-unet*.npz"), ids=lambda f: f.stem)
def test_golden_a11_network_through_import(file, store):
    """Network output, clipped x0, posterior mean and log variance of the imported checkpoint."""
    archive = np.load(file)
    config = json.loads(str(archive["config"]))
    denoise = imported(archive, config, store)
    x, steps = torch.from_numpy(archive["in/x"]), config["diffusion_steps"]
    y = denoise.module(x, torch.from_numpy(archive["in/t"]))
    assert np.abs(y.numpy() - archive["out/y"]).max() <= 2e-5
    schedule = respaced(config)
    for row, i in enumerate(archive["in/resp_index"].tolist()):
        out = denoise.module(x[row : row + 1], torch.tensor([schedule.times[i]]))
        x0 = out[:, :1].clamp(-1, 1)
        c_x0, c_x = schedule.posterior_coefficients[i]
        small, large = schedule.posterior_log_variance_clipped[i], np.log(schedule.betas[i])
        found = {"out/pm_x0": x0, "out/pm_mean": c_x0 * x0 + c_x * x[row : row + 1]}
        found["out/pm_logvar"] = large + out[:, 1:] * (small - large)
        for name, value in found.items():
            assert np.abs(value[0].numpy() - archive[name][row]).max() <= 2e-5, name
    assert denoise.card["schedule"]["steps"] == steps


def imported(archive, config, store):
    """The golden weights through a temporary checkpoint, the import and the store."""
    state = {k[2:]: torch.from_numpy(archive[k].astype(np.float32)) for k in archive.files if k.startswith("w/")}
    torch.save(state, store / "golden.pt")
    options = {"head_width": config["num_head_channels"], "diffusion_steps": config["diffusion_steps"]}
    models.import_model("a11", store / "golden.pt", name="golden", options=options)
    licences.acknowledge("golden")
    return models.load_denoiser("golden")


def respaced(config):
    """The respaced schedule of a golden configuration."""
    from diffusion_backend.diffusion.schedules import section_indices

    steps = config["diffusion_steps"]
    kept = section_indices(steps, config["timestep_respacing"])
    return linear_vp(0.1 / steps, 20 / steps, steps).respaced(kept)
