"""The catalogue's checks pass here, and each of them notices its mistake."""

from __future__ import annotations

import shutil
from pathlib import Path

import catalogue
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
ENTRY, CMAKE, ICON = catalogue.ENTRY, "CMakeLists.txt", "Packaging/DiffusionModels.png"
MISTAKES = [  # file, text, what stands there instead, words of the sentence
    (ENTRY, "Tomographic Reconstruction", "Diffusion", "category 'Diffusion'"),
    (ENTRY, "v1.0.2", "v1.0.1", "'$schema' must name"),
    (ENTRY, '"tier": 1', '"tier": 7', "'tier' must be 1 to 5"),
    (ENTRY, '"tier": 1', '"tier": "1"', "must be of type int"),
    (ENTRY, '"scm_url"', '"url"', "lacks the key 'scm_url'"),
    (ENTRY, '"scm_url"', '"url"', "unknown key 'url'"),
    (ENTRY, "/SlicerDiffusionModels\"", "/DiffusionModels\"", "must start with 'Slicer'"),
    (ENTRY, "https://github", "ssh://github", "must start with https://"),
    (ENTRY, '"PyTorch"', '"PyTorchy"', "no extension 'PyTorchy'"),
    (ENTRY, '"PyTorch"', '"SlicerRT"', "EXTENSION_DEPENDS is ['PyTorch']"),
    (ENTRY, "\n", "\r\n", "line ends"),
    (ENTRY, "{", "", "is not JSON"),
    (CMAKE, "project(DiffusionModels)", "project(Diffusion)", "must call project(DiffusionModels)"),
    (CMAKE, 'set(EXTENSION_ICONURL "', 'set(EXTENSION_ICONURL "${home}', "no variable"),
    (CMAKE, "set(EXTENSION_SCREENSHOTURLS", "list(APPEND EXTENSION_SCREENSHOTURLS", "lacks a line set(EXT"),
    (CMAKE, "demo-montage.png", "montage.png", "there is no file 'Resources/Screenshots/montage.png'"),
    (CMAKE, "https://raw.githubusercontent.com", "https://example.com", "which is outside"),
    (CMAKE, "Generative diffusion models", "Diffusion", "first sentence"),
    (CMAKE, "bundled weights.", "bundled weights;", "no semicolon"),
    (CMAKE, 'HOMEPAGE "https://github.com/Slicer', 'HOMEPAGE "https://github.com/', "EXTENSION_HOMEPAGE is"),
]  # fmt: skip


@pytest.fixture
def copy(tmp_path):
    """What the checks read, to be changed."""
    for file in (CMAKE, "LICENSE"):
        shutil.copy(REPOSITORY / file, tmp_path)
    for folder in ("Packaging", "Resources/Screenshots"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder)
    assert catalogue.problems(tmp_path) == []
    return tmp_path


def test_the_catalogue_would_take_the_repository(capsys):
    assert catalogue.main([]) == 0, capsys.readouterr().out
    assert 0 < catalogue.size_mb(REPOSITORY) < catalogue.LIMIT_MB


@pytest.mark.parametrize("file, text, instead, sentence", MISTAKES)
def test_a_mistake_is_told(copy, capsys, file, text, instead, sentence):
    content = (copy / file).read_bytes().decode()
    assert text in content
    (copy / file).write_bytes(content.replace(text, instead).encode())
    assert catalogue.main([str(copy)]) == 1
    assert sentence in capsys.readouterr().out


def test_pictures_and_licence_are_looked_at(copy, monkeypatch):
    (copy / "LICENSE").unlink()
    shutil.copy(copy / "Resources" / "Screenshots" / "panel-reconstruction.png", copy / ICON)
    (copy / "Resources" / "Screenshots" / "demo-montage.png").write_bytes(b"GIF89a")
    monkeypatch.setattr(catalogue, "PICTURE_SIDE", 100)
    found = "\n".join(catalogue.problems(copy))
    for words in ("no licence file", "128 x 128 are recommended", "is not a PNG file", "must have 64 to 100"):
        assert words in found


def test_the_size_counts_tree_and_history(monkeypatch):
    monkeypatch.setattr(catalogue, "LIMIT_MB", 1)
    assert any("with its history" in sentence for sentence in catalogue.problems(REPOSITORY))


def test_dependencies_are_looked_up_in_a_checkout_of_the_catalogue(copy, tmp_path):
    index = tmp_path / "index"
    index.mkdir()
    assert "The catalogue has no extension 'PyTorch'" in catalogue.problems(copy, index)[0]
    (index / "PyTorch.json").write_text("{}")
    assert catalogue.problems(copy, index) == []
