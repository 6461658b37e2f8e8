"""The workflow of the public repository: nothing that it could do beyond testing, and no file that isn't there."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
WORKFLOW = (REPOSITORY / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")


def test_actions_are_pinned_and_rights_are_the_least():
    used = re.findall(r"uses: (.*)", WORKFLOW)
    assert used and all(re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40} # v[\d.]+", line) for line in used), used
    assert re.findall(r"^permissions:\n((?:  .*\n)+)", WORKFLOW, re.MULTILINE) == ["  contents: read\n"]
    assert WORKFLOW.count("permissions:") == 1 and "secrets" not in WORKFLOW
    assert WORKFLOW.count("persist-credentials: false") == WORKFLOW.count("actions/checkout@")


def test_what_comes_from_a_form_never_becomes_part_of_a_command():
    commands = re.findall(r"run: (\|\n(?:(?: {10}.*)?\n)+|.*)", WORKFLOW)
    assert len(commands) > 8 and not any("inputs." in command or "github.event" in command for command in commands)


def test_the_files_that_it_names_exist():
    named = set(re.findall(r"(?:Testing|Resources)/[\w./-]*\w", WORKFLOW))
    assert len(named) > 4 and [name for name in named if not (REPOSITORY / name).exists()] == []
    for test in re.search(r"for test in (.*); do", WORKFLOW)[1].split():
        assert any((REPOSITORY / folder / f"{test}.py").is_file() for folder in (test, "Testing/slicer")), test
