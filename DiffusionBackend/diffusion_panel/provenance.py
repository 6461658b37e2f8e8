"""What a result node tells about its origin, and how to compute it again. Never names, paths or node ids: inputs are
node references."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from slicer.i18n import tr as _

METHOD, OUTPUT, PROVENANCE = "DiffusionModels.Method", "DiffusionModels.Output", "DiffusionModels.Provenance"
ROLE = "DiffusionModels."
ROI, REFERENCE = "roi", "reference"  # node references beside the inputs; no input has such a name


def attach(
    node: Any, output: str, record: Mapping[str, Any], request: Mapping[str, Any], sources: Mapping[str, Any]
) -> None:
    """Write the record of the run and what was asked for onto a result node, and in words into its description.

    request : plain JSON values (see `transfer.remembered`). sources : input name (or ROI, REFERENCE) -> node."""
    node.SetAttribute(METHOD, record["method"]["id"])
    node.SetAttribute(OUTPUT, output)
    told = {key: value for key, value in record.items() if key != "outputs"}
    node.SetAttribute(PROVENANCE, json.dumps({"record": told, "request": dict(request)}, ensure_ascii=True))
    run = _("{method}, seed {seed}").format(method=record["method"]["name"], seed=record["seed"])
    node.SetDescription(" | ".join([run, *labels(record)]))
    for name, source in sources.items():
        node.SetNodeReferenceID(ROLE + name, source.GetID())


def settings_of(node: Any) -> dict[str, Any]:
    """Keyword arguments for `run` that compute a result node again, bit for bit on the same build of the engine.

    Batch, threads and device are those that were used. An input that is no longer in the scene, or came from a file, is
    left out. ValueError for a node that is no result."""
    stored = _stored(node)
    record, request = stored["record"], stored["request"]
    inputs = {name: node.GetNodeReference(ROLE + name) for name in request["inputs"]} | request["texts"]
    for name, segments in request["segments"].items():
        inputs[name] = inputs[name] and (inputs[name], segments)
    return {
        "method": record["method"]["id"],
        "inputs": {name: value for name, value in inputs.items() if value is not None},
        "params": dict(record["parameters"]),
        "preset": request["preset"],
        "seed": record["seed"],
        "samples": record["samples"],
        "device": record["device"],
        "threads": record["threads"],
        "batch": record["batch_used"],
        "models": {slot: model["id"] for slot, model in record["models"].items()},
        "roi": node.GetNodeReference(ROLE + ROI),
        "slices": request["slices"] and tuple(request["slices"]),
        "reference": node.GetNodeReference(ROLE + REFERENCE),
        "frames": request["frames"],
    }


def labels(record: Mapping[str, Any]) -> list[str]:
    """What has to stand beside a result: not for clinical use, and the licences of the models."""
    models = [f"{m['id']}: {m['licence']}" for m in record.get("models", {}).values() if m.get("licence")]
    return [record.get("notice", ""), *models]


def domain_warning(record: Mapping[str, Any]) -> str:
    """The engine's reason why the input lies outside what a model was trained on, or ""."""
    return record.get("domain_reason", "") if record.get("domain") == "outside" else ""


def _stored(node: Any) -> dict[str, Any]:
    text = node.GetAttribute(PROVENANCE) if node is not None else None
    if not text:
        raise ValueError(_("This node is no result of DiffusionModels; choose one that a method has made."))
    return json.loads(text)
