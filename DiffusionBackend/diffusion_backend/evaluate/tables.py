"""Tables of an evaluation: every case is a row on disk as soon as it is known, so that a broken run can go on."""

from __future__ import annotations

import csv
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path


class Cases:
    """Rows of single cases in a CSV file; `keys` identify a case, `figures` are its numbers.

    compute(case, function) calls function() -> figures only for a case that the file doesn't hold yet.
    """

    def __init__(self, path: Path, keys: Sequence[str], figures: Sequence[str]):
        self.path, self.keys, self.figures = path, tuple(keys), tuple(figures)
        self.rows: dict[tuple[str, ...], dict[str, float]] = {}
        if path.exists():
            with open(path, newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    self.rows[tuple(row[k] for k in keys)] = {f: float(row[f]) for f in figures}
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._append([*keys, *figures])

    def compute(self, case: Mapping[str, object], function: Callable[[], Mapping[str, float]]) -> dict[str, float]:
        key = tuple(str(case[k]) for k in self.keys)
        if key not in self.rows:
            self.rows[key] = {f: float(v) for f, v in function().items()}
            self._append([*key, *(f"{self.rows[key][f]:.6g}" for f in self.figures)])
        return self.rows[key]

    def means(self, by: Sequence[str]) -> list[dict[str, str | float]]:
        """Mean of each figure over the cases that agree in the keys `by`, in order of appearance, with their number."""
        groups: dict[tuple[str, ...], list[dict[str, float]]] = {}
        for key, figures in self.rows.items():
            groups.setdefault(tuple(key[self.keys.index(k)] for k in by), []).append(figures)
        means = {g: {f: statistics.fmean(r[f] for r in rows) for f in self.figures} for g, rows in groups.items()}
        return [dict(zip(by, group)) | mean | {"cases": len(groups[group])} for group, mean in means.items()]

    def _append(self, values: Iterable[object]) -> None:
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(list(values))


def cases_path(output: Path) -> Path:
    """Where the single cases behind the table `output` lie: table.csv -> table.cases.csv."""
    return output.with_suffix(".cases.csv")


def write_table(path: Path, rows: Sequence[Mapping[str, str | float]]) -> str:
    """Write rows as CSV (numbers with 5 digits) and return them as an aligned text table."""
    columns = list(rows[0])
    cells = [[f"{row[c]:.5g}" if isinstance(row[c], float) else str(row[c]) for c in columns] for row in rows]
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *cells])
    widths = [max(len(line[n]) for line in [columns, *cells]) for n in range(len(columns))]
    return "\n".join("  ".join(value.rjust(width) for value, width in zip(line, widths)) for line in [columns, *cells])


def renew_tables(page: Path) -> None:
    """Replace what stands between `<!-- table FILE.csv -->` and `<!-- end of table -->` in a Markdown page by that
    file.

    FILE is relative to the page's folder, so that every figure on the page is one of a stored table."""

    def markdown(match: re.Match[str]) -> str:
        with open(page.parent / match[1], newline="", encoding="utf-8") as file:
            head, *rows = csv.reader(file)
        lines = [f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rows]]
        return f"<!-- table {match[1]} -->\n" + "\n".join(lines) + "\n<!-- end of table -->"

    pattern = re.compile(r"<!-- table (\S+) -->.*?<!-- end of table -->", re.DOTALL)
    page.write_text(pattern.sub(markdown, page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    renew_tables(Path(sys.argv[1]))
