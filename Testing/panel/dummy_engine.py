"""A stand-in for the engine: speaks its protocol and misbehaves as the parameter `act` of a job says.

python dummy_engine.py [hang | missing | broken]   how it starts; without a word it starts well
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

KINDS = {1: "internal", 2: "input", 3: "model", 4: "memory", 5: "cancelled"}
FOREVER = 600


def say(event: str, folder: Path | None = None, /, **more) -> None:
    always = {} if folder is None else {"job": str(folder)}
    print(json.dumps({"event": event, **more, **always}), flush=True)


def progress(folder: Path, step: int, steps: int) -> None:
    say("progress", folder, stage="dummy", step=step, steps=steps, item=0, items=1, fraction=step / steps, eta_s=1.0,
        memory_mb=10)  # fmt: skip


def write_result(folder: Path, job: dict) -> None:
    """The first input plus 1 and a table; complete or absent."""
    fresh = folder / ".result-new"
    fresh.mkdir()
    name, described = next((n, d) for n, d in job["inputs"].items() if "file" in d)
    array = np.load(folder / described["file"])
    np.save(fresh / "corrected.npy", array + np.ones(1, array.dtype))
    (fresh / "result.json").write_text(json.dumps({"schema": 1, "outputs": outputs(described), **record(job)}))
    fresh.rename(folder / "result")


def outputs(described: dict) -> dict:
    volume = {k: v for k, v in described.items() if k not in ("file", "kind", "labels")}
    volume |= {"file": "corrected.npy", "kind": "volume", "unit": "HU", "display": "compare"}
    table = {"columns": ["slice", "value"], "rows": [[0, 1.5]], "kind": "table", "unit": "", "display": "table"}
    return {"corrected": volume, "report": table}


def record(job: dict) -> dict:
    model = {"id": "dummy-model", "sha256": "0", "licence": "CC0", "attribution": ""}
    return {
        "method": {"id": job["method"], "name": "Dummy", "state": "works"}, "parameters": job["parameters"],
        "preset": job["preset"], "seed": job["seed"], "samples": job["samples"], "device": "cpu",
        "threads": job["threads"] or 1, "batch": job["batch"] or 8, "batch_used": job["batch"] or 8,
        "models": {"prior": model}, "inputs": {}, "timings": {"total": 0.1}, "evaluations": 1, "domain": "outside",
        "domain_reason": "'ct' has pixels of 9 mm; the model 'dummy-model' was trained on 0.5 to 2 mm",
        "versions": {"diffusion_backend": "0"}, "finished": "2026-01-01T00:00:00+00:00",
        "notice": "Not for clinical use.",
    }  # fmt: skip


def serve(folder: Path) -> int:
    """One job; returns its exit code."""
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    p = job["parameters"]
    act = p.get("act", "work")
    say("plan", folder, stages=[], network_s=0.1, memory_mb=5, available_mb=1000, batch=1, device="cpu")
    if job["plan_only"]:
        return 0
    progress(folder, 0, 10)
    if act == "work":
        time.sleep(p.get("seconds", 0))
    elif act == "slow":
        for step in range(FOREVER * 100):
            progress(folder, step % 10, 10)
            time.sleep(0.01)
            if (folder / "cancel").exists():
                say("error", folder, kind="cancelled", message="The run was cancelled.", remedy="")
                return 5
    elif act == "hang":
        time.sleep(FOREVER)
    elif act == "grandchild":
        child = subprocess.Popen(["sleep", str(FOREVER)])
        Path(p["pid_file"]).write_text(str(child.pid))
        if p.get("leave"):
            os._exit(1)
        time.sleep(FOREVER)
    elif act == "garbage":
        for stream in (sys.stdout.buffer, sys.stderr.buffer):
            stream.write(bytes(range(256)) * 3 + b"\n\xff\xfe{\"event\": broken\n[1, 2]\n\"event\"\n")
            stream.write("no line end: ".encode("utf-16"))
            stream.flush()
    elif act == "error":
        say("error", folder, kind=KINDS[p["code"]], message=f"Sentence {p['code']}.", remedy="Do this.")
        return p["code"]
    elif act == "die":
        if p.get("says"):
            say("error", folder, kind=KINDS[p["code"]], message=f"Sentence {p['code']}.", remedy="Do this.")
        print("the last line", file=sys.stderr, flush=True)
        os._exit(p["code"])
    elif act == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif act == "preview":
        np.save(folder / "preview.npy", np.full((4, 5), 7.0, np.float32))
        say("preview", folder, file=str(folder / "preview.npy"), stage="dummy")
        say("warning", folder, message="A warning.")
    elif act == "nothing":
        return 0
    elif act == "hollow":
        (folder / "result").mkdir()
        return 0
    if act == "half":
        (folder / ".result-new").mkdir()
        os._exit(1)
    write_result(folder, job)
    if act == "complete and dead":
        os._exit(1)
    say("result", folder, folder=str(folder / "result"))
    if act == "linger":
        time.sleep(FOREVER)
    return 0


def main() -> None:
    start = sys.argv[1] if len(sys.argv) > 1 else ""
    if start == "hang":
        time.sleep(FOREVER)
    if start == "broken":
        import no_such_package_anywhere  # noqa: F401
    if start == "missing":
        say("error", kind="installation", message="The package 'torch' is missing.", remedy="Install it.")
        sys.exit(1)
    say("ready")
    for line in sys.stdin:
        folder = Path(line.strip())
        say("end", folder, exit_code=serve(folder))


if __name__ == "__main__":
    main()
