"""python -m apilock check | update | lint (from the folder Testing, or with it on PYTHONPATH)."""

from __future__ import annotations

import sys

from . import lint, lock


def main(arguments: list[str]) -> int:
    """0: nothing to say. 1: findings, one a line."""
    command = arguments[0] if arguments else ""
    given = lock.headers()
    if command == "check":
        collected, findings = lock.check()
        findings += lock.verify(given) if given else []
        print(lock.summary(collected), "and" if given else "and no", "headers compared")
        for place in sorted(collected.unresolved) if "--unresolved" in arguments else ():
            print("unresolved:", place)
    elif command == "update":
        findings = lock.update(given)
    elif command == "lint":
        findings = lint.lint()
    else:
        print(__doc__)
        return 2
    for finding in findings:
        print(finding)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
