"""The commands of `python -m diffusion_backend`: for each its help, its arguments and what it does.

Modules with torch are imported when their command runs, so that `describe` and `models list` work without it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import InputError
from .params import nearest, pairs

Command = tuple[str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]]

SIMULATIONS = {
    "ct": "simulate.ct",
    "metal": "simulate.metal",
}  # task -> module with INPUTS, PARAMETERS, simulate(inputs, p, seed)
EVALUATIONS = {
    "denoise": "evaluate.denoise",
    "mar": "evaluate.mar",
    "clinical": "evaluate.clinical",
}  # task -> module with evaluate(data, output, **params)

CONVERSIONS = {"syndeeplesion": "io.syndeeplesion"}  # data set -> module with convert(path, output, **params)


def _module(name: str) -> Any:
    return importlib.import_module(f".{name}", __package__)


def _guarded(work: Callable[[], Any]) -> int:
    """Run a command that talks plain text; errors are sentences on standard error and exit codes."""
    from .events import Bar, guarded

    return guarded(work, Bar(sys.stderr))


def _describe_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", nargs="?", help="a method; without it all")
    parser.add_argument(
        "--json", action="store_true", help="declarations as JSON (the content of Resources/methods.json)"
    )
    parser.add_argument("--readme", type=Path, metavar="FILE", help="renew the table of methods in this file")


def _describe(arguments: argparse.Namespace) -> int:
    def work() -> None:
        from . import describe

        if arguments.readme:
            describe.renew_table(arguments.readme)
        else:
            sys.stdout.write(describe.as_json(arguments.id) if arguments.json else describe.as_page(arguments.id))

    return _guarded(work)


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    from . import options

    parser.add_argument("method", help="id of the method, for example a11")
    parser.add_argument(
        "--input", action="append", default=[], metavar="[NAME=]PATH", help="an input; a single path goes to the first"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--parent-pipe", action="store_true", help="stop when standard input closes")
    parser.add_argument("--plan", action="store_true", help="print time and memory, then stop")
    parser.add_argument(
        "--once", action="store_true", help="do nothing where FOLDER holds the result of the same command and inputs"
    )
    options.add_arguments(parser)


def run_arguments(words: list[str]) -> argparse.Namespace:
    """The command line of `run`, without the word itself, read."""
    parser = argparse.ArgumentParser()
    _run_arguments(parser)
    return parser.parse_args(words)


def _run(arguments: argparse.Namespace) -> int:
    return _module("terminal").run(arguments)


def _worker(arguments: argparse.Namespace) -> int:
    return _module("worker").main()


def _batch_arguments(parser: argparse.ArgumentParser) -> None:
    from . import options

    parser.add_argument(
        "list",
        type=Path,
        metavar="LIST",
        help="a CSV with the columns id and input names (reference for metrics), one row a study; a folder with "
        "volumes or DICOM series; or one file",
    )
    parser.add_argument("--method", help="id of the method; may come from --parameters")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--jobs", type=int, default=1, help="studies at once on this computer")
    parser.add_argument("--scheduler", metavar="tcp://…", help="an existing Dask cluster that sees the same folders")
    parser.add_argument("--parent-pipe", action="store_true", help="stop when standard input closes")
    options.add_arguments(parser)
    options.add_parameters_file(parser)


def _batch(arguments: argparse.Namespace) -> int:
    return _module("batch").main(arguments)


def _simulate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", help=", ".join(SIMULATIONS))
    parser.add_argument("--input", action="append", default=[], metavar="[NAME=]PATH")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="settings")
    parser.add_argument("--seed", type=int, default=0)


def _simulate(arguments: argparse.Namespace) -> int:
    return _guarded(lambda: _module("simulate").run_task(_task(SIMULATIONS, arguments.task), arguments))


def _sample_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("method", help="id of the method, for example a11")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")


def _sample(arguments: argparse.Namespace) -> int:
    return _guarded(lambda: _module("sample_data").write(arguments.method, arguments.output))


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", help=", ".join(EVALUATIONS))
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--output", type=Path, required=True, metavar="TABLE.csv")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="settings")


def _evaluate(arguments: argparse.Namespace) -> int:
    def work() -> None:
        module = _task(EVALUATIONS, arguments.task)
        module.evaluate(arguments.data, arguments.output, **_settings(arguments))

    return _guarded(work)


def _convert_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", metavar="DATASET", help=", ".join(CONVERSIONS))
    parser.add_argument("path", type=Path, metavar="PATH", help="its folder, or the folder of one case")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="settings")


def _convert(arguments: argparse.Namespace) -> int:
    def work() -> None:
        module = _task(CONVERSIONS, arguments.task)
        module.convert(arguments.path, arguments.output, **_settings(arguments))

    return _guarded(work)


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The values of --set, as JSON where they are."""
    return {name: _literal(text) for name, text in pairs(arguments.settings, "--set").items()}


def _task(tasks: dict[str, str], task: str) -> Any:
    if task not in tasks:
        raise InputError(f"There is no task '{task}'{nearest(task, tasks)}. Known are: {', '.join(tasks)}.")
    return _module(tasks[task])


def _literal(text: str) -> Any:
    """Numbers, lists and true/false as JSON; everything else as text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, help="RECIPE --data FOLDER --output FOLDER … (see train RECIPE --help)"
    )


def _train(arguments: argparse.Namespace) -> int:
    return _module("training").main(arguments.arguments)


def _demo_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input", type=Path, metavar="PATH", help="a CT with metal; without it a generated phantom")
    parser.add_argument("--output", type=Path, default=Path("demo"), metavar="FOLDER")


def _demo(arguments: argparse.Namespace) -> int:
    return _guarded(lambda: _module("demo").demo(arguments.output, arguments.input))


def _models_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("list", "import", "verify", "accept", "remove"))
    parser.add_argument("id", nargs="?", help="model id; for import the file, or the method and the file")
    parser.add_argument("file", nargs="?", type=Path, help="for import: published checkpoint, model folder or its zip")
    parser.add_argument("--name", help="for import: id of the new model")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="settings", help="for import: an option"
    )
    parser.add_argument("--progress", default="bar", choices=("bar", "json"), help="for import: events as JSON lines")


def _models(arguments: argparse.Namespace) -> int:
    if arguments.progress == "bar":
        return _guarded(lambda: print(_models_text(arguments, lambda event: None)))
    from .events import JsonLines, guarded

    report = JsonLines(sys.stdout, pid=os.getpid())  # a launcher may hide the process behind its own id
    return guarded(lambda: report({"event": "result", "message": _models_text(arguments, report)}), report)


def _models_text(arguments: argparse.Namespace, report: Callable[[dict[str, Any]], None]) -> str:
    """What `models ACTION` prints."""
    from . import licences, models

    if arguments.action == "list":
        return "\n".join(_model_line(card) for card in models.list_models()) or "No models."
    if not arguments.id:
        raise InputError(f"models {arguments.action} needs an id.")
    if arguments.action == "verify":
        card = models.verify(arguments.id)
        return f"{card['id']}: weights match their sha256 {card['sha256']}."
    if arguments.action == "accept":
        card = licences.acknowledge(arguments.id)
        return f"{card['id']}: licence acknowledged.\n{_licence(card)}"
    if arguments.action == "remove":
        models.remove(arguments.id)
        return f"{arguments.id}: removed."
    method, file = (arguments.id, arguments.file) if arguments.file else (None, Path(arguments.id))
    options = {"method": method, "name": arguments.name, "options": _settings(arguments)}
    card = _module("importers").import_file(file, **options, report=report)
    asks = f"\nAcknowledge it with 'models accept {card['id']}' before the first use." if licences.asks(card) else ""
    return f"{card['id']}: imported, {card.get('parameters', '?')} parameters.\n{_licence(card)}{asks}"


def _licence(card: Any) -> str:
    attribution = card.get("attribution")
    return f"Licence: {card['licence']}" + (f"\nAttribution: {attribution}" if attribution else "")


def _model_line(card: Any) -> str:
    if "problem" in card:
        return f"{card['id']}: {card['problem']}"
    return f"{card['id']}: {card['interface']}, {card.get('parameters', '?')} parameters, licence {card['licence']}"


COMMANDS: dict[str, Command] = {
    "describe": ("Print the declaration of a method, or of all.", _describe_arguments, _describe),
    "run": ("Run a method on files.", _run_arguments, _run),
    "worker": ("Run job folders named on standard input.", lambda parser: None, _worker),
    "batch": ("Run a method on many studies.", _batch_arguments, _batch),
    "simulate": ("Make test data.", _simulate_arguments, _simulate),
    "sample": ("Make sample data for a method.", _sample_arguments, _sample),
    "convert": ("Bring a public data set to files that run takes.", _convert_arguments, _convert),
    "evaluate": ("Print a table of methods and metrics.", _evaluate_arguments, _evaluate),
    "train": ("Train the weights of a recipe.", _train_arguments, _train),
    "models": ("List, import, verify or remove models; acknowledge a licence.", _models_arguments, _models),
    "demo": ("Run the main job and show the result.", _demo_arguments, _demo),
}
