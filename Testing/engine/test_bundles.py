"""Models from files that the user has: bundles and checkpoints, killed imports, licences that must be acknowledged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from test_models import card, dudodp, rewrite, store, unet  # noqa: F401

from diffusion_backend import __main__ as terminal
from diffusion_backend import importers, licences, models, paths, predicates, provenance
from diffusion_backend.errors import InputError, ModelError
from diffusion_backend.networks.unet import UNet

PACKAGES = Path(models.__file__).parents[1]


@pytest.fixture
def foreign(store):  # noqa: F811
    """A bundle in a folder of its own, with a blank and an umlaut in the path."""
    return models.save_bundle(store / "from a friënd" / "ct-x", card(), {"denoiser": unet().state_dict()})


def zipped(folder: Path, inside: str = "") -> Path:
    """The bundle as a zip file, its files below the folder `inside`."""
    file = folder.parent / f"{folder.name}.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in (models.CARD, models.WEIGHTS):
            archive.write(folder / name, f"{inside}{name}")
        archive.writestr("../outside.txt", "not of the bundle")
    return file


def left(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("form", ["folder", "card", "zip", "zip with a folder"])
def test_a_bundle_is_copied_exactly(store, foreign, form):  # noqa: F811
    path = {"folder": lambda: foreign, "card": lambda: foreign / models.CARD, "zip": lambda: zipped(foreign),
            "zip with a folder": lambda: zipped(foreign, "ct-x/")}[form]()  # fmt: skip
    events = []
    found = importers.import_file(path, report=events.append)
    assert found["id"] == "ct-x" and found["source_file"] == path.name
    copied = paths.user_models() / "ct-x"
    assert (copied / models.WEIGHTS).read_bytes() == (foreign / models.WEIGHTS).read_bytes()
    assert left(paths.user_models()) == ["ct-x"] and left(copied) == [models.CARD, models.WEIGHTS]
    assert [e["fraction"] for e in events if e["stage"] == "copying"][-1] == 1
    assert not list(store.rglob("outside.txt"))
    assert models.load_bundle("ct-x").parts["denoiser"].keys() == unet().state_dict().keys()


def cut_zip(folder: Path) -> Path:
    file = zipped(folder)
    file.write_bytes(file.read_bytes()[:-200])
    return file


def flip_in_zip(folder: Path) -> Path:
    file = zipped(folder)
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 255
    file.write_bytes(raw)
    return file


def flip(folder: Path) -> Path:
    raw = bytearray((folder / models.WEIGHTS).read_bytes())
    raw[-1] ^= 1
    (folder / models.WEIGHTS).write_bytes(raw)
    return folder


def without(folder: Path, name: str) -> Path:
    (folder / name).unlink()
    return folder


def changed(folder: Path, **fields) -> Path:
    rewrite(folder, lambda content: content.update(fields))
    return folder


BROKEN = {
    "a bit of the weights": (flip, "are damaged: their sha256 begins with"),
    "no weights": (lambda f: without(f, models.WEIGHTS), "has no file weights.safetensors"),
    "no weights in the zip": (lambda f: zipped_card_alone(f), "has no file weights.safetensors"),
    "no card": (lambda f: without(f, models.CARD), "it holds weights.safetensors, but the files card.json and"),
    "a cut zip": (cut_zip, "can't be read"),
    "a byte of the zip": (flip_in_zip, "damaged|can't be read"),
    "schema": (lambda f: changed(f, schema=9), "has schema 9"),
    "the id": (lambda f: changed(f, id="../../etc"), "must consist of letters"),
}


def zipped_card_alone(folder: Path) -> Path:
    file = folder.parent / "card.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.write(folder / models.CARD, models.CARD)
    return file


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_bundle_is_a_sentence_and_leaves_nothing(foreign, name):
    hurt, sentence = BROKEN[name]
    path = hurt(foreign)
    with pytest.raises(ModelError, match=sentence):
        importers.import_file(path)
    assert left(paths.user_models()) == []


def test_another_model_of_the_same_id_is_never_replaced_or_hidden(store, foreign):  # noqa: F811
    importers.import_file(foreign)
    assert importers.import_file(foreign)["id"] == "ct-x", "the same model keeps its place"
    models.save_bundle(foreign, card(), {"denoiser": unet(1).state_dict()})
    assert importers.import_file(foreign)["id"] == "ct-x-2"
    assert importers.import_file(foreign, name="ct-x")["id"] == "ct-x", "a name that is given replaces"
    models.save_bundle(store / "Resources" / "Models" / "ct-y", card(), {"denoiser": unet(2).state_dict()})
    with pytest.raises(InputError, match="is bundled already as 'ct-y'"):
        importers.import_file(store / "Resources" / "Models" / "ct-y")
    models.save_bundle(store / "else" / "ct-y", card(), {"denoiser": unet(3).state_dict()})
    assert importers.import_file(store / "else" / "ct-y")["id"] == "ct-y-2"


def test_a_checkpoint_finds_its_method_and_its_place(store):  # noqa: F811
    torch.save(dudodp().state_dict(), store / "m.pt")
    assert importers.import_file(store / "m.pt")["id"] == "a11-published"
    assert importers.import_file(store / "m.pt")["id"] == "a11-published"
    torch.save(dudodp(blocks=2).state_dict(), store / "m.pt")
    found = importers.import_file(store / "m.pt")
    assert found["id"] == "a11-published-2" and found["source_file"] == "m.pt"


def test_a_wrong_checkpoint_is_told_with_expected_and_found_layers(store):  # noqa: F811
    torch.save(UNet(dims=2, in_channels=1, out_channels=1, width=8, multipliers=(1,), blocks=1).state_dict(),
               store / "other.pt")  # fmt: skip
    with pytest.raises(ModelError) as error:
        importers.import_file(store / "other.pt")
    first = next(iter(torch.load(store / "other.pt", weights_only=True)))
    for phrase in ("is not a DuDoDp network", "Expected are layers such as 'time_embed.0.weight' (512, 128), ",
                   f"found are '{first}' (", "Choose the file that the authors"):  # fmt: skip
        assert phrase in str(error.value)
    assert str(error.value).count("' (") == 6, "three that are expected and three that are found"
    assert "\n" not in str(error.value)


def engine(*arguments: object, **more) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "diffusion_backend", "models", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(PACKAGES)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, **more)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
def test_an_import_killed_in_its_middle_leaves_no_model_and_the_next_one_is_complete(store, foreign):  # noqa: F811
    """The weights come out of a pipe which the child empties up to its middle, then it is killed."""
    weights = (foreign / models.WEIGHTS).read_bytes()
    (foreign / models.WEIGHTS).unlink()
    os.mkfifo(foreign / models.WEIGHTS)
    child = engine("import", foreign, "--progress", "json")
    with open(foreign / models.WEIGHTS, "wb") as pipe:
        pipe.write(weights[: len(weights) // 2])
        pipe.flush()
        event = json.loads(child.stdout.readline())
        assert event["stage"] == "copying" and event["pid"] == child.pid
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        child.stdout.close()
    (growing,) = left(paths.user_models())  # the kill came while the copy grew
    assert fnmatch(growing, f".bundle-*.{child.pid}-*")
    assert [c["id"] for c in models.list_models()] == []
    (foreign / models.WEIGHTS).unlink()
    (foreign / models.WEIGHTS).write_bytes(weights)
    importers.import_file(foreign)
    assert left(paths.user_models()) == ["ct-x"] and models.verify("ct-x")


def test_import_needs_neither_torch_nor_network(store, foreign):  # noqa: F811
    (store / "no" / "torch").mkdir(parents=True)
    (store / "no" / "torch" / "__init__.py").write_text("raise ImportError('torch')")
    (store / "no" / "socket.py").write_text("raise ImportError('network')")
    path = os.pathsep.join((str(store / "no"), str(PACKAGES)))
    for words in (["import", str(foreign)], ["list"], ["verify", "ct-x"], ["accept", "ct-x"]):
        run = subprocess.run([sys.executable, "-m", "diffusion_backend", "models", *words],
                             env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)  # fmt: skip
        assert run.returncode == 0 and "ct-x" in run.stdout, run.stderr


# ---- licences ----


@pytest.mark.parametrize(("licence", "expected"), [
    ("MIT", False), ("Apache-2.0", False), ("apache 2.0", False), ("BSD-3-Clause", False), ("CC BY 4.0", False),
    ("CC-BY-4.0", False), ("CC0", False), ("CC0-1.0", False), ("CC-BY-NC-4.0", True), ("CC BY-NC-SA 4.0", True),
    ("CC-BY-SA-4.0", True), ("GPL-3.0", True), ("", True), (None, True), (7, True), ("MIT, but not for you", True),
    (importers.DUDODP_LICENCE, True),
])  # fmt: skip
def test_all_but_permissive_licences_ask(licence, expected):
    assert predicates.asks({"licence": licence}) is expected
    assert predicates.asks({}) is True


def test_the_bundled_models_do_not_ask():
    for file in (Path(models.__file__).parents[2] / "Resources" / "Models").glob("*/card.json"):
        assert not predicates.asks(json.loads(file.read_text())), file


def test_weights_are_not_loaded_before_their_licence_is_acknowledged(store, foreign):  # noqa: F811
    found = importers.import_file(changed(foreign, licence="For friends alone"))
    with pytest.raises(ModelError, match="licence of the model 'ct-x' isn't acknowledged.*For friends alone"):
        models.load_denoiser("ct-x")
    assert provenance._model(found)["acknowledged"] == ""
    licences.acknowledge("ct-x")
    assert models.load_denoiser("ct-x")
    record = provenance._model(found)
    assert record["acknowledged"].startswith("20") and record["licence"] == "For friends alone"
    assert "acknowledged" not in provenance._model(card())


@pytest.mark.parametrize("change", [{"licence": "Another one"}, {"sha256": "0" * 64}])
def test_another_licence_or_other_weights_ask_again(store, foreign, change):  # noqa: F811
    importers.import_file(changed(foreign, licence="For friends alone"))
    licences.acknowledge("ct-x")
    now = models.read_card(paths.user_models() / "ct-x") | change
    assert predicates.asks(now) and licences.acknowledged(now) == ""


def test_acknowledging_keeps_the_others_and_survives_a_damaged_file(store, foreign):  # noqa: F811
    importers.import_file(changed(foreign, licence="One"))
    importers.import_file(changed(foreign, licence="Two"), name="second")
    for name in ("ct-x", "second"):
        licences.acknowledge(name)
    cards = [models.read_card(paths.user_models() / name) for name in ("ct-x", "second")]
    assert all(licences.acknowledged(c) for c in cards)
    for damage in ("{", "[]", '{"x": 3}', "\udcff"):
        (paths.user_models() / licences.FILE).write_bytes(damage.encode(errors="surrogateescape"))
        assert not any(licences.acknowledged(c) for c in cards)
    licences.acknowledge("second")
    assert licences.acknowledged(cards[1]) and not licences.acknowledged(cards[0])


def test_the_terminal_shows_the_licence_and_takes_the_answer(store, foreign, capsys):  # noqa: F811
    changed(foreign, licence="For friends alone", attribution="A. Friend")
    assert terminal.main(["models", "import", str(foreign)]) == 0
    said = capsys.readouterr().out
    assert "For friends alone" in said and "A. Friend" in said and "models accept ct-x" in said
    assert terminal.main(["models", "accept", "ct-x"]) == 0
    assert "For friends alone" in capsys.readouterr().out and models.load_bundle("ct-x")
    assert terminal.main(["models", "accept", "nobody"]) == 3
    assert terminal.main(["models", "accept"]) == 2


def test_a_damaged_model_does_not_hide_the_others(store, foreign, capsys):  # noqa: F811
    importers.import_file(foreign)
    for name, text in (("a-list", "[]"), ("odd", '{"id": {}}'), ("deep", "[" * 100000), ("bytes", "\udcff")):
        (paths.user_models() / name).mkdir()
        (paths.user_models() / name / "card.json").write_bytes(text.encode(errors="surrogateescape"))
    assert [c["id"] for c in models.list_models() if "problem" in c] == ["a-list", "bytes", "deep", "odd"]
    assert terminal.main(["models", "list"]) == 0
    assert "ct-x: Denoiser" in capsys.readouterr().out
