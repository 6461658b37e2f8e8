"""Installing the engine's packages with a pip that fails in every way: states, failures, cancel, repair."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path

import pytest
import slicer

from diffusion_panel import installation, process
from diffusion_panel.installing import commands, packages
from diffusion_panel.installing.failures import InstallFailure

from .engines import children, exists, others, until  # noqa: F401
from .installers import GOOD, finish, gone, installed, make_home, make_one, make_pip, put, run  # noqa: F401

# ---- state ----


def test_missing_packages_are_named(one):
    state = one.state()
    assert (state.ready, state.restart) == (False, False)
    assert "lacks tinyengine >=1,<2 and tinyhelper >=0.5,<1. Press 'Install…'" in state.sentence


def test_an_old_version_is_told_with_found_and_needed(one, tmp_path, monkeypatch):
    put(tmp_path / "slicers", "tinyengine", "0.9")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "slicers")])
    state = one.state()
    assert not state.ready and "tinyengine" not in sys.modules
    assert "tinyengine 0.9 was found, but the engine needs >=1,<2." in state.sentence
    installed(tinyengine="1.2", tinyhelper="0.5")
    assert one.state().ready
    assert [(p.name, p.found, p.own) for p in one.state().packages] == [
        ("tinyengine", "1.2", True), ("tinyhelper", "0.5", True)]  # fmt: skip


def test_the_newest_complete_installation_counts(one, home):
    installed(9, tinyengine="1.1", tinyhelper="0.5")
    newest = installed(10, tinyengine="1.3", tinyhelper="0.5")
    unfinished = packages.new_folder()
    put(unfinished, "tinyengine", "1.4")
    assert unfinished.name == "11" and packages.current() == newest
    assert one.state().sentence == "Engine ready: tinyengine 1.3, tinyhelper 0.5."
    assert newest.parent == one.folder() and home in newest.parents


def test_an_installation_that_has_lost_a_part_asks_for_a_repair(one):
    folder = installed(tinyengine="1.0")
    put(folder, "tinyhelper", "0.5", 'nowhere-to-be-found>=2; python_version >= "3"')
    state = one.state()
    assert not state.ready and "incomplete: nowhere-to-be-found >=2 is missing. Press 'Repair…'" in state.sentence


def test_an_installation_that_hides_a_package_of_slicer_isn_t_ready(one):
    installed(tinyengine="1.0", tinyhelper="0.5", SimpleITK="2.3")
    state = one.state()
    assert not state.ready and "'SimpleITK', which must come from Slicer" in state.sentence


def test_a_package_that_changed_while_slicer_had_it_loaded_asks_for_a_restart(one, tmp_path, monkeypatch):
    put(tmp_path / "slicers", "tinyengine", "1.5")
    put(tmp_path / "slicers", "tinyhelper", "0.5")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "slicers")])
    loaded = types.ModuleType("tinyengine")
    loaded.__version__ = "1.5+cu130"
    monkeypatch.setitem(sys.modules, "tinyengine", loaded)
    assert one.state().ready
    loaded.__version__ = "1.4"
    state = one.state()
    assert (state.ready, state.restart) == (False, True)
    assert "tinyengine 1.5 was installed while Slicer has 1.4 loaded. Restart Slicer." in state.sentence


def test_the_packages_of_a_chosen_python_are_left_to_the_user(one, monkeypatch):
    monkeypatch.setenv("DIFFUSIONMODELS_PYTHON", "/own/python")
    assert one.state().ready and "/own/python" in one.state().sentence


def test_the_engine_sees_our_packages_before_slicers(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/of/slicer")
    folder = installed(tinyengine="1.0", tinyhelper="0.5")
    paths = process.environment()["PYTHONPATH"].split(os.pathsep)
    assert paths == [str(process.PACKAGES), str(folder), "/of/slicer"]
    assert str(folder) not in process.environment_with(None)["PYTHONPATH"]


# ---- pip's failures ----

REFUSED = ("WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(\"<x>: Failed to "
           "establish a new connection: [Errno -2] Name or service not known\")': /simple/tinyengine/")  # fmt: skip
NOTHING = ("ERROR: Could not find a version that satisfies the requirement tinyengine<2,>=1 (from versions: none)",
           "ERROR: No matching distribution found for tinyengine<2,>=1")  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([REFUSED, *NOTHING], ("'tinyengine'", "no connection", "From folder")),
        (["WARNING: Retrying after connection broken by 'SSLError(SSLCertVerificationError(1, '[SSL: "
          "CERTIFICATE_VERIFY_FAILED] certificate verify failed'))': /simple/tinyengine/", *NOTHING],
         ("'tinyengine'", "certificate isn't trusted", "pip config set global.cert")),
        (["WARNING: Retrying after connection broken by 'ProxyError('Cannot connect to proxy.', OSError('Tunnel "
          "connection failed: 407 Proxy Authentication Required'))': /simple/tinyengine/", *NOTHING],
         ("'tinyengine'", "proxy refused", "HTTPS_PROXY")),
        (["Collecting tinyengine<2,>=1", "ERROR: Exception:",
          "pip._vendor.urllib3.exceptions.ReadTimeoutError: HTTPSConnectionPool(host='h', port=1): Read timed out."],
         ("'tinyengine' broke off", "Try again")),
        (["Collecting tinyengine<2,>=1", "ERROR: HTTP error 404 while getting https://host/tinyengine-1.0.whl"],
         ("'tinyengine'", "refused or lacks the file", "mirror")),
        (["Collecting tinyengine", "  Downloading tinyengine-1.0-py3-none-any.whl (190 MB)",
          "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"],
         ("disk filled up while 'tinyengine'", "Free some space")),
        (["Collecting tinyhelper", "ERROR: Could not install packages due to an OSError: [WinError 32] Der Prozess "
          "kann nicht auf die Datei zugreifen: 'C:\\\\x\\\\c10.dll'"],
         ("file of 'tinyhelper' is in use", "Close other Slicer windows")),
        (["Collecting tinyengine", "ERROR: Could not install packages due to an OSError: [WinError 5] Zugriff"],
         ("'tinyengine'", "can't be written to", "home folder")),
        (["Collecting tinyengine", "ERROR: Could not install packages due to an OSError: [Errno 36] too long"],
         ("'tinyengine' is longer than the system allows", "long paths")),
        (["ERROR: Cannot install tinyengine because these package versions have conflicting dependencies.",
          "ERROR: ResolutionImpossible: for help visit https://host"],
         ("No version of 'tinyengine' fits the packages of this Slicer", "Update Slicer")),
        (["Processing /w/tinyengine-1.0-py3-none-any.whl",
          "ERROR: Wheel 'tinyengine' located at /w/tinyengine-1.0-py3-none-any.whl is invalid."],
         ("file of 'tinyengine' is damaged", "Try again")),
        ([*NOTHING], ("no file of 'tinyengine' for Python 3.", "Update Slicer")),
        (["Collecting tinyengine", "MemoryError"], ("memory ran out while 'tinyengine'", "Close other programs")),
        (["/usr/bin/python: No module named pip"], ("has no pip", "Install Slicer anew")),
        (["Collecting tinyengine", "ERROR: something else"], ("'tinyengine': ERROR: something else", "See the log")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stage", ["plan", "install"])
def test_a_failure_of_pip_names_package_cause_and_next_step(one, pip, stage, lines, words):
    pip.order(**{stage: {"lines": lines, "code": 1}})
    run(one)
    assert all(part in str(one.failure) for part in words), one.failure
    assert one.log == [line.strip() for line in lines], "the full log is kept"
    assert not one.state().ready
    gone(packages.root() / "1")


def test_a_folder_that_lacks_a_file_says_which(one, pip, tmp_path):
    pip.order(plan={"lines": [*NOTHING], "code": 1})
    run(one, wheels=tmp_path)
    assert "no file of 'tinyengine' for Python 3." in str(one.failure) and "Add it to the folder" in str(one.failure)


def test_an_interpreter_that_isn_t_there_is_a_sentence(one, monkeypatch):
    monkeypatch.setattr(process, "engine_python", lambda: "/no/such/python")
    run(one)
    assert isinstance(one.failure, InstallFailure) and "/no/such/python" in str(one.failure)


# ---- the course of an installation ----


def test_a_good_installation_is_complete_and_found(one, pip):
    asked = []
    run(one, confirm=lambda plan: asked.append(plan) or True)
    assert one.failure is None and one.state().ready
    assert [(w.name, w.version) for w in asked[0].all()] == [("tinyengine", "1.0"), ("tinyhelper", "0.6")]
    folder = packages.current()
    assert packages.read_record(folder)["packages"] == {"tinyengine": "1.0", "tinyhelper": "0.6"}
    assert not (folder / "t").exists(), "pip's temporary folder is removed"
    stages = [call["stage"] for call in pip.calls()]
    assert stages == ["plan", "install"]
    arguments = pip.calls()[1]["arguments"]
    assert {"tinyengine==1.0", "tinyhelper==0.6", "--no-deps", "--only-binary"} <= set(arguments)
    assert arguments[arguments.index("--target") + 1] == str(folder), "one argument, blanks included"


def test_nothing_is_installed_before_the_user_agrees(one, pip):
    run(one, confirm=lambda plan: False)
    assert one.failure is None and [call["stage"] for call in pip.calls()] == ["plan"]
    assert packages.current() is None
    gone(packages.root() / "1")


def test_pip_has_slicers_versions_as_constraints_and_the_users_network_settings(one, pip, monkeypatch):
    import numpy

    seen = []
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("PIP_CERT", "/of/the/hospital.pem")
    monkeypatch.setenv("PIP_USER", "1")
    installed(4, tinyengine="0.1")
    read = commands.plan
    monkeypatch.setattr(commands, "plan", lambda o, n, c, r: seen.append(c.read_text()) or read(o, n, c, r))
    run(one)
    assert f"numpy=={numpy.__version__}" in seen[0] and "simpleitk==" in seen[0] and "scipy==" in seen[0]
    for call in pip.calls():
        around = call["environment"]
        assert (around["HTTPS_PROXY"], around["PIP_CERT"]) == ("http://proxy:3128", "/of/the/hospital.pem")
        assert around["PIP_USER"] == "0" and str(packages.root() / "4") not in around["PYTHONPATH"]
        assert not [a for a in call["arguments"] if "trusted" in a or "cert" in a], "TLS stays as it is"
        assert Path(around["TMPDIR"]).parent.parent == packages.root(), "not the system's small temporary folder"


@pytest.mark.parametrize("name", ["numpy", "SimpleITK", "scipy", "VTK", "requests"])
def test_a_plan_with_a_package_of_slicer_is_refused(one, pip, name):
    pip.order(report=GOOD["report"] | {name: "9.9"})
    run(one)
    assert f"'{name}', which Slicer needs as it is; nothing was installed" in str(one.failure)
    assert [call["stage"] for call in pip.calls()] == ["plan"]


@pytest.mark.parametrize(
    ("really", "words"),
    [({"tinyengine": "1.0"}, "didn't for: tinyhelper"),
     (GOOD["report"] | {"numpy": "1.0"}, "didn't for: numpy")],
)  # fmt: skip
def test_what_pip_left_is_looked_at(one, pip, really, words):
    pip.order(packages=really)
    run(one)
    assert words in str(one.failure) and not one.state().ready


@pytest.mark.parametrize(
    ("source", "words"),
    [("raise ImportError('numpy.core.multiarray failed to import')", "numpy.core.multiarray failed"),
     ("raise OSError('[WinError 126] DLL load failed')", "Visual C++ Redistributable"),
     ("import os; os._exit(7)", "exit code 7")],
)  # fmt: skip
def test_packages_that_don_t_work_are_no_installation(one, pip, source, words):
    pip.order(source=source)
    run(one)
    assert "The packages were installed, but don't work" in str(one.failure) and words in str(one.failure)
    assert packages.current() is None and not one.state().ready


@pytest.mark.parametrize("stage", ["plan", "install"])
def test_cancel_ends_pip_with_its_children_and_leaves_what_was_there(one, pip, stage):
    before = installed(3, tinyengine="1.0", tinyhelper="0.5")
    pip.order(**{stage: {"hang": True, "lines": ["Collecting tinyengine", "Progress 30 of 40"]}})
    one.install()
    until(lambda: one.fraction)
    assert one.busy and one.fraction == 0.75 and "Collecting tinyengine" in one.doing
    call = pip.calls()[-1]
    one.cancel()
    assert not one.busy and one.failure is None
    until(lambda: not exists(call["pid"]) and not exists(call["child"]))
    gone(packages.root() / "4")
    assert packages.current() == before and one.state().ready


def test_an_installation_doesn_t_count_before_its_trial_is_over(one, pip):
    """A Slicer that ends meanwhile leaves nothing that the next one takes for complete."""
    pip.order(source="import time; time.sleep(60)")
    one.install()
    until(lambda: one.doing == "Trying the packages…", 60)
    assert packages.current() is None and not one.state().ready
    one.cancel()
    gone(packages.root() / "1")


def test_cancel_while_the_user_is_asked_installs_nothing(one, pip):
    ends = []
    one.finished.connect(lambda: ends.append(1))
    run(one, confirm=lambda plan: one.cancel() or True)
    assert not children(), "nothing was started after the question"
    assert [call["stage"] for call in pip.calls()] == ["plan"] and ends == [1] and packages.current() is None


def test_one_operation_at_a_time(one, pip):
    pip.order(plan={"hang": True})
    one.install()
    one.install()
    until(pip.calls)
    one.remove()
    assert one.busy and len(pip.calls()) == 1
    one.cancel()


def test_a_repair_replaces_the_installation_and_a_failed_one_keeps_it(one, pip):
    before = installed(1, tinyengine="1.0", tinyhelper="0.5")
    pip.order(install={"lines": ["ERROR: [Errno 28] No space left on device"], "code": 1})
    one.repair()
    finish(one)
    assert "disk filled up" in str(one.failure) and packages.current() == before and one.state().ready
    pip.order()
    one.repair()
    finish(one)
    assert one.failure is None and packages.current() != before and one.state().ready
    gone(before)


def test_a_repair_takes_the_same_source_again(one, pip, tmp_path):
    run(one, flavour="gpu", wheels=tmp_path)
    one.repair()
    finish(one)
    assert [call["stage"] for call in pip.calls()] == 2 * ["plan", "install"]
    for call in pip.calls():
        assert call["arguments"][-5:-2] == ["--no-index", "--find-links", str(tmp_path)]
    assert packages.read_record(packages.current())["flavour"] == "gpu"


def test_remove_takes_our_own_folders_alone(one, home):
    folder = installed(tinyengine="1.0", tinyhelper="0.5")
    (home / "mine.txt").write_text("of the user")
    one.remove()
    assert packages.current() is None and not one.state().ready
    gone(folder)
    assert (home / "mine.txt").exists()


def test_unfinished_folders_of_another_slicer_stay_for_a_day(one, pip):
    fresh, old = packages.new_folder(), packages.new_folder()
    os.utime(old, (1, 1))
    run(one)
    gone(old)
    assert fresh.exists() and one.state().ready


def test_a_full_disk_is_told_before_anything_is_asked(one, pip, monkeypatch):
    pip.order(report={"torch": "2.9.0"})
    monkeypatch.setattr(installation.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=1e9))
    run(one, confirm=lambda plan: pytest.fail("asked"))
    assert "1.5 GB of disk space are needed" in str(one.failure) and "1.0 GB are free" in str(one.failure)


def test_another_installation_in_slicer_is_waited_for(one, pip, monkeypatch):
    other = types.ModuleType("slicer.packaging")
    other.isPipInstallInProgress = lambda: True
    monkeypatch.setitem(sys.modules, "slicer.packaging", other)
    monkeypatch.setattr(slicer, "packaging", other, raising=False)
    run(one)
    assert "Another extension installs packages" in str(one.failure) and pip.calls() == []
    other.isPipInstallInProgress = lambda: False
    run(one)
    assert one.failure is None


# ---- an engine that can't start all the same ----


@pytest.mark.parametrize(
    ("source", "words"),
    [("raise RuntimeError('another numpy')", "'torch' can't be imported (RuntimeError: another"),
     ("raise OSError('[WinError 126] c10.dll')", "'torch' can't be imported (OSError: [WinError 126] c10.dll)"),
     (None, "'torch' isn't installed for the engine")],
)  # fmt: skip
def test_a_torch_that_fails_at_its_import_is_told_as_such(tmp_path, monkeypatch, source, words):
    """A stub of torch in front of the real one; the engine itself is the real one."""
    (tmp_path / "torch.py").write_text(source or "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    worker = process.Worker()
    worker.start()
    until(lambda: worker.exit_code() is not None, 60)
    told = [event for event in worker.events() if event["event"] == "error"]
    kind, message, remedy = process.describe_end(worker.exit_code(), list(worker.log))
    worker.kill()
    if told:
        kind, message, remedy = told[0]["kind"], told[0]["message"], told[0]["remedy"]
    assert kind == "installation" and words in message and "section 'Engine'" in remedy
