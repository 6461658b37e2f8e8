"""lock.json: the committed list of names, compared with what the extension uses and with the sources."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .api import Api, entry
from .collect import Collected, Finding, collect
from .headers import Headers
from .sources import Source, python, shells

FILE = Path(__file__).with_name("lock.json")
LOCK = "Testing/apilock/lock.json"
WHEEL = "wheel"  # how `checked` begins for what the wheels answer


def read() -> dict[str, dict[str, Any]]:
    """The committed entries by name."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def headers() -> Headers | None:
    """The checkouts that SLICER_SRC and CTK_SRC name; None where they aren't given."""
    roots = {name: os.environ.get(variable) for name, variable in (("Slicer", "SLICER_SRC"), ("CTK", "CTK_SRC"))}
    return Headers({n: Path(r) for n, r in roots.items() if r}) if all(roots.values()) else None


def check(sources: list[Source] | None = None) -> tuple[Collected, list[Finding]]:
    """What is wrong with the names of the extension, by the wheels and the lock alone."""
    api = Api(read())
    collected = collect(sources or python(), shells(), api)
    return collected, sorted(collected.findings) + compare(api)


def compare(api: Api) -> list[Finding]:
    """Names without an entry, of another kind than their entry, and entries that nothing uses."""
    found = []
    for key, used in sorted(api.used.items()):
        if key not in api.lock:
            found.append(Finding(LOCK, 0, "L2", f"'{key}' isn't in the lock: python -m apilock update."))
        elif api.lock[key]["kind"] != used.kind:
            found.append(Finding(LOCK, 0, "L2", f"'{key}' is a {used.kind}, the lock says {api.lock[key]['kind']}."))
    unused = sorted(set(api.lock) - set(api.used))
    return found + [Finding(LOCK, 0, "L2", f"nothing uses '{k}' any more: python -m apilock update.") for k in unused]


def verify(given: Headers) -> list[Finding]:
    """Every entry that comes from sources, against these sources: there, of this kind, with this signature."""
    locked = read()
    api = Api({}, given)
    collect(python(), shells(), api)
    found = []
    for key, kept in locked.items():
        if kept["checked"].startswith(WHEEL):
            continue
        now = api.used.get(key)
        if now is None:
            found.append(Finding(LOCK, 0, "L2", f"'{key}' isn't in the sources."))
        elif (now.kind, now.signature) != (kept["kind"], kept["signature"]):
            found.append(Finding(LOCK, 0, "L2", f"'{key}' is now '{now.signature}', not '{kept['signature']}'."))
    return found


def update(given: Headers | None) -> list[Finding]:
    """Write lock.json. Without checkouts only names that the wheels know can be added."""
    api = Api(read() if FILE.exists() else {}, given)
    collected = collect(python(), shells(), api)
    entries = {}
    for key, found in sorted(api.used.items()):
        kept = entry(found)
        if not kept["file"] and not key.startswith("*"):
            kept["file"], kept["line"] = _place(given, key) if given else _kept_place(api, key)
        entries[key] = kept
    FILE.write_text(_text(entries), encoding="utf-8")
    return sorted(collected.findings)


def _place(given: Headers, key: str) -> tuple[str, int]:
    """File and line of a class or method of VTK or MRML; VTK's own files have no checkout here."""
    parts = key.split(".")
    owner, method = (parts[1], parts[2]) if len(parts) > 2 else (parts[1], "")
    return given.line(owner, method) or given.line(owner, "") or (f"VTK:{owner}.h", 0)


def _kept_place(api: Api, key: str) -> tuple[str, int]:
    kept = api.lock.get(key, {})
    return kept.get("file", f"VTK:{key.split('.')[1]}.h"), kept.get("line", 0)


def _text(entries: dict[str, dict[str, Any]]) -> str:
    """JSON with one line per name: a diff shows the names that came and went."""
    lines = [f"{json.dumps(key)}: {json.dumps(kept, sort_keys=True)}" for key, kept in entries.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def summary(collected: Collected) -> str:
    """How the uses were resolved, in one line."""
    counts = collected.counts
    return (
        f"{len(collected.inference.api.used)} names; {counts['typed']} uses on known objects, "
        f"{counts['by name alone']} by name alone (VTK), {counts['unresolved']} unresolved calls, "
        f"{counts['signals of unknown objects']} signals of unknown objects"
    )
