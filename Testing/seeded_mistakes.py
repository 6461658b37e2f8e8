"""Proof that the tests can fail: each seeded mistake must turn the named test file red.

`python Testing/seeded_mistakes.py [WORD]` copies the project to a temporary folder, makes one mistake at a time there
(those with WORD in their description), runs the test file, and prints a row per mistake; exit code 1 if one goes
unnoticed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENGINE, PANEL = "DiffusionBackend/diffusion_backend", "DiffusionBackend/diffusion_panel"
# kind, file, right, wrong, test file
# ruff: noqa: E501
MISTAKES = (
    ("sign: source on the other side", "physics/tables.py", "return r * sin * one, -r * cos * one,",
     "return r * sin * one, r * cos * one,", "test_ct.py"),
    ("off by one: detector half a bin off", "physics/ct.py", "dtype=torch.float64) - (self.bins - 1) / 2) * self.bin_mm",
     "dtype=torch.float64) - self.bins / 2) * self.bin_mm", "test_ct.py"),
    ("axis: quarter turns the wrong way", "physics/ct.py", "torch.rot90(inner, -self.turns[g], (0, 1))",
     "torch.rot90(inner, self.turns[g], (0, 1))", "test_ct.py"),
    ("axis: LI weights the wrong end", "physics/metal.py", "fraction = (index - left) /", "fraction = (right - index) /",
     "test_metal.py"),
    ("sign: Langevin step against the score", "diffusion/samplers.py", "return x + e * score", "return x - e * score",
     "test_samplers.py"),
    ("off by one: DDPM ends one noise too early", "diffusion/samplers.py", "        if i > 0:\n            if log_variance",
     "        if i > 1:\n            if log_variance", "test_samplers.py"),
    ("axis: Langevin norms over the whole batch", "diffusion/samplers.py",
     "z.flatten(1).norm(dim=1) / score.flatten(1).norm(dim=1)", "z.norm() / score.flatten(1).norm(dim=1)",
     "test_samplers.py"),
    ("sign: DDIM keeps the noise reversed", "diffusion/samplers.py", "/ s * (x - x0)", "/ s * (x0 - x)",
     "test_samplers.py"),
    ("sign: DPS climbs the residual", "diffusion/guidance.py", "return x0.detach() - sigma**2", "return x0.detach() + sigma**2",
     "test_guidance.py"),
    ("A10: known region isn't imposed again", "diffusion/samplers.py", "x = torch.where(inside, measured.to(x.dtype), x)",
     "x = x if n else torch.where(inside, measured.to(x.dtype), x)", "test_samplers.py"),
    ("A10: ratio floor left out on the way back", "physics/metal.py", "return ratio * (prior + floor) - floor",
     "return ratio * (prior + floor)", "test_a10.py"),
    ("A10: views aren't wrapped", "methods/a10_ddpm_mar.py", "torch.cat((x[..., -views:, :], x, x[..., :views, :]), -2)",
     "torch.cat((x[..., :views, :], x, x[..., -views:, :]), -2)", "test_a10.py"),
    ("image-only: detail of metal pixels given back", "methods/_metal.py",
     "seen = image.where(~touched, corrected.clamp(min=AIR_HU))", "seen = image", "test_mar_methods.py"),
    ("A14: copies of the X-Former in another order", "networks/bernoulli_unet.py", "x.repeat(1, 1, width // x.shape[-1])",
     "x.repeat_interleave(width // x.shape[-1], 2)", "test_bernoulli_unet.py"),
)
PANEL_MISTAKES = (
    ("axis: parent transform from the wrong side", "geometry.py", "matrix if parent is None else parent @ matrix",
     "matrix if parent is None else matrix @ parent", "test_exchange.py"),
    ("off by one: a slab stays where it was", "geometry.py", "moved[:, 3] = matrix @ [*ijk, 1]", "moved[:, 3] = matrix[:, 3]",
     "test_exchange.py"),
    ("cancel ends the engine, not what it started", "process.py", "os.killpg(process.pid, signal.SIGKILL)",
     "os.kill(process.pid, signal.SIGKILL)", "test_jobs.py"),
    ("a half-written result counts", "recovery.py", 'return (folder / "result" / RESULT).is_file()',
     'return (folder / "result").is_dir()', "test_jobs.py"),
    ("re-run with another seed", "provenance.py", '"seed": record["seed"]', '"seed": record["seed"] + 1', "test_logic.py"),
    ("sign: colours of a difference the wrong way", "views/colors.py", "place = np.linspace(-1, 1, COUNT)",
     "place = np.linspace(1, -1, COUNT)", "test_views.py"),
    ("licences are never asked about", "logic.py", "        _check_licences(request)", "        pass", "test_licences.py"),
    ("sample data are put into another method's inputs", "widget.py",
     'if job.state != "done" or self.chooser.current()["id"] != job.method:', 'if job.state != "done":',
     "test_sample_data.py"),
)  # fmt: skip


def turns_red(copy: Path, file: Path, right: str, wrong: str, test: str) -> bool:
    """Whether `test` fails with the mistake in `file`; the file is put back."""
    text = file.read_text(encoding="utf-8")
    if text.count(right) != 1:
        raise SystemExit(f"'{right}' stands {text.count(right)} times in {file.name}; renew the list of mistakes.")
    file.write_text(text.replace(right, wrong), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", f"Testing/{test}"]
    code = subprocess.run(command, cwd=copy, capture_output=True, check=False).returncode
    file.write_text(text, encoding="utf-8")
    return code == 1


def main(word: str = "") -> int:
    unnoticed = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        ignore = shutil.ignore_patterns(".git", ".venv", "training", "demo", "__pycache__")
        shutil.copytree(ROOT, copy, ignore=ignore)
        for mistakes, code, tests in ((MISTAKES, ENGINE, "engine"), (PANEL_MISTAKES, PANEL, "panel")):
            for kind, name, right, wrong, test in (m for m in mistakes if word in m[0]):
                red = turns_red(copy, copy / code / name, right, wrong, f"{tests}/{test}")
                unnoticed += not red
                print(f"{'red' if red else 'UNNOTICED':10} {kind} ({name}) -> {test}", flush=True)
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
