"""Where the engine's packages come from: the PyTorch extension, indexes, a folder of wheels with the real pip."""

from __future__ import annotations

import sys
import types
import zipfile
from pathlib import Path

import pytest
import slicer
from packaging.requirements import Requirement

from diffusion_panel.installing import commands, packages, torch_extension

from .installers import NEEDED, finish, make_home, make_one, make_pip, put, run  # noqa: F401

# ---- the PyTorch extension ----


@pytest.fixture
def extension(monkeypatch, tmp_path):
    """The PyTorch extension, with a torch that it "installs" into a folder of Slicer."""
    monkeypatch.setattr(packages, "requirements", lambda: [Requirement("torch>=2.3,<3"), Requirement(NEEDED[1])])
    monkeypatch.delitem(sys.modules, "torch", raising=False)  # another test may have loaded it
    known = packages.version_of
    slicers = tmp_path / "slicers"
    monkeypatch.setattr(packages, "version_of", lambda name, paths: known(name, paths) if name != "torch" else known(
        name, [str(slicers), *([p for p in paths if str(packages.root()) in p])]))  # fmt: skip
    calls = []

    class Logic:
        torch = types.SimpleNamespace(__version__="2.9.0")

        def installTorch(self, **arguments):
            calls.append(arguments)
            put(slicers, "torch", "2.9.0")
            return self.torch

    module = types.ModuleType("PyTorchUtils")
    module.PyTorchUtilsLogic = Logic
    monkeypatch.setitem(sys.modules, "PyTorchUtils", module)
    monkeypatch.setattr(slicer.modules, "pytorchutils", object(), raising=False)
    return types.SimpleNamespace(calls=calls, logic=Logic)


def test_torch_comes_from_the_extension_and_the_rest_from_pip(one, pip, extension):
    pip.order(report={"tinyhelper": "0.6"})
    plans = []
    run(one, confirm=lambda plan: plans.append(plan) or True)
    assert one.failure is None, one.failure
    assert plans[0].by_extension and [w.name for w in plans[0].all()] == ["tinyhelper"]
    assert len(extension.calls) == 1 and extension.calls[0]["askConfirmation"] is False
    assert Requirement("torch" + extension.calls[0]["torchVersionRequirement"]) == Requirement("torch>=2.3,<3")
    assert not any("torch" in a for call in pip.calls() for a in call["arguments"] if "://" not in a and "/" not in a)
    assert one.state().ready


def test_a_torch_that_is_there_is_used_as_it_is(one, pip, extension):
    extension.logic().installTorch()
    extension.calls.clear()
    pip.order(report={"tinyhelper": "0.6"})
    run(one)
    assert one.failure is None and extension.calls == []


@pytest.mark.parametrize("way", ["raises", "declines"])
def test_a_failure_of_the_extension_is_a_sentence(one, pip, extension, way):
    def fail(self, **arguments):
        if way == "raises":
            raise RuntimeError("[Errno 28] No space left on device")

    extension.logic.installTorch = fail
    run(one)
    words = "disk filled up while 'torch'" if way == "raises" else "has not installed torch"
    assert words in str(one.failure) and "PyTorch Utils" in str(one.failure) and packages.current() is None


def test_a_slicer_that_can_t_be_written_to_gets_torch_in_the_users_folder(one, pip, extension, monkeypatch):
    monkeypatch.setattr(torch_extension.os, "access", lambda path, mode: False)
    pip.order(report={"torch": "2.9.0", "tinyhelper": "0.6"})
    run(one, flavour="gpu")
    assert extension.calls == []
    assert {p.name: p.own for p in one.state().packages} == {"torch": True, "tinyhelper": True}


# ---- sources ----


@pytest.mark.parametrize(
    ("system", "flavour", "driver", "index"),
    [("Linux", "cpu", None, "cpu"), ("Linux", "gpu", 590, ""), ("Linux", "gpu", None, ""),
     ("Linux", "gpu", 550, "cu126"), ("Windows", "cpu", None, ""), ("Windows", "gpu", 581, "cu130"),
     ("Windows", "gpu", 552, "cu126"), ("Darwin", "cpu", None, "")],
)  # fmt: skip
def test_the_build_of_torch_fits_system_and_driver(monkeypatch, system, flavour, driver, index):
    monkeypatch.setattr(commands.platform, "system", lambda: system)
    assert commands.index_of(flavour, driver) == (commands.WHEELS + index if index else "")
    assert flavour in commands.flavours()


def test_pytorchs_index_is_asked_for_torch_alone():
    needed = [Requirement("torch>=2.3"), Requirement("safetensors>=0.4")]
    assert commands.sources(needed, "https://w/cpu", None) == [
        (["--index-url=https://w/cpu"], ["torch>=2.3"]), ([], ["safetensors>=0.4"])]  # fmt: skip
    assert commands.sources(needed, "", None) == [([], ["torch>=2.3", "safetensors>=0.4"])]
    assert commands.driver_of(["", "580.65.06"]) == 580 and commands.driver_of(["No devices were found"]) is None


def test_the_list_for_a_computer_without_network_names_every_file(one):
    text = one.offline_list()
    version = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    assert version in text and "tinyengine >=1,<2" in text and "tinyhelper >=0.5,<1" in text
    assert '-m pip download --dest wheels --only-binary :all: "tinyengine<2,>=1"' in text


# ---- the real pip ----


def wheel(folder: Path, name: str, version: str, source: str, *needs: str) -> None:
    """A wheel of one module."""
    info = f"{name}-{version}.dist-info"
    requires = "".join(f"Requires-Dist: {n}\n" for n in needs)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", source)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


def test_real_wheels_from_a_folder_leave_numpy_alone(one, tmp_path):
    """tinyengine needs numpy and tinyextra; numpy is in the folder, too, in a version that pip would prefer."""
    wheels = tmp_path / "wheels of the hospital"
    wheels.mkdir()
    wheel(wheels, "tinyengine", "1.2", "import numpy, tinyextra\n__version__ = '1.2'\n", "numpy>=1", "tinyextra")
    wheel(wheels, "tinyengine", "2.0", "", "numpy>=1")
    wheel(wheels, "tinyextra", "3.1", "")
    wheel(wheels, "tinyhelper", "0.7", "__version__ = '0.7'\n", "scipy")
    wheel(wheels, "numpy", "99.0", "raise ImportError('not Slicer\\'s')")
    plans = []
    run(one, wheels=wheels, confirm=lambda plan: plans.append(plan) or True)
    assert one.failure is None, "\n".join([str(one.failure), *one.log])
    assert {(w.name, w.version) for w in plans[0].all()} == {("tinyengine", "1.2"), ("tinyextra", "3.1"),
                                                            ("tinyhelper", "0.7")}  # fmt: skip
    assert all(w.size == (wheels / f"{w.name}-{w.version}-py3-none-any.whl").stat().st_size for w in plans[0].all())
    folder = packages.current()
    assert len(str(folder)) > 200 and " " in str(folder)
    assert {p.name for p in folder.glob("*.py")} == {"tinyengine.py", "tinyextra.py", "tinyhelper.py"}
    assert one.state().sentence == "Engine ready: tinyengine 1.2, tinyhelper 0.7."
    assert "tinyengine" not in sys.modules
    (wheels / "tinyextra-3.1-py3-none-any.whl").unlink()
    one.repair()
    finish(one)
    assert "no file of 'tinyextra'" in str(one.failure) and packages.current() == folder
