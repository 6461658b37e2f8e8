"""A pip that says and does what the file FAKE_PIP asks for, and writes down how it was called.

FAKE_PIP holds JSON: for the stages "plan" and "install" {"lines": what it prints, "code": exit code, "hang": whether it
waits for ever}, "report" (name -> version) and "packages" (name -> version, what it really installs)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

file = Path(os.environ["FAKE_PIP"])
orders = json.loads(file.read_text(encoding="utf-8"))
arguments = sys.argv[1:]
stage = "plan" if "--dry-run" in arguments else "install"
with file.with_suffix(".calls").open("a", encoding="utf-8") as stream:
    child = subprocess.Popen(["sleep", "60"]) if orders[stage].get("hang") else None
    call = {"stage": stage, "arguments": arguments, "environment": dict(os.environ), "pid": os.getpid()}
    stream.write(json.dumps(call | {"child": child.pid if child else None}) + "\n")
for line in orders[stage].get("lines", []):
    print(line, flush=True)
if orders[stage].get("hang"):
    time.sleep(60)
if code := orders[stage].get("code", 0):
    sys.exit(code)
if stage == "plan":
    wheels = [{"metadata": {"name": n, "version": v}, "download_info": {"url": f"https://host/{n}-{v}.whl"}}
              for n, v in orders["report"].items()]  # fmt: skip
    Path(arguments[arguments.index("--report") + 1]).write_text(json.dumps({"install": wheels}), encoding="utf-8")
else:
    target = Path(arguments[arguments.index("--target") + 1])
    for name, version in orders.get("packages", orders["report"]).items():
        metadata = target / f"{name}-{version}.dist-info" / "METADATA"
        metadata.parent.mkdir()
        metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
        source = orders.get("source", "__version__ = '1.0'\n")
        (target / f"{name}.py").write_text(source, encoding="utf-8")
