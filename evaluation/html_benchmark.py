"""The page of a benchmark: methods by categories, accuracy against cost with its Pareto front, and all runs."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from evaluation.comparison import COVERED
from evaluation.html import write_page
from evaluation.tables import COSTS, LABELS, OVERALL, Line, Result

PREFERRED = "p50_ms"  # the cost that is shown first


def write_benchmark(
    path: Path,
    table: Sequence[Line],
    results: Sequence[Result],
    folders: Sequence[Path],
    command: str,
    settings: dict[str, Any],
) -> None:
    """`table` has the results' lines, `folders` are their runs; `command` was typed, `settings` it meant, for YAML."""
    categories = list(dict.fromkeys(line.category for line in table))
    metrics = {key: label for key, label in LABELS.items() if _present(key, table)}
    write_page(
        path,
        "benchmark.html",
        title="benchmark",
        metrics=metrics,
        covered=COVERED,
        costs=_costs(table),
        preferred=PREFERRED,
        counts=[len(results), *(len({line[k] for line in table} - {OVERALL}) for k in (1, 0))],
        runs=[
            (result, _address(folder / "report.html", path.parent))
            for result, folder in zip(results, folders, strict=True)
        ],
        data={
            "categories": categories,
            "rows": _rows(table),
            "overall": _overall(categories),
            "labels": LABELS | COSTS,
        },
        settings=yaml.safe_dump(settings, sort_keys=False, allow_unicode=True),
        command=command,
    )


def _overall(categories: Sequence[str]) -> str | None:
    """What the chart shows: the mean over all categories, or the only one; None if no method has all of them."""
    return OVERALL if OVERALL in categories else categories[0] if len(categories) == 1 else None


def _present(key: str, table: Sequence[Line]) -> bool:
    return any(key in line.values for line in table)


def _costs(table: Sequence[Line]) -> dict[str, str]:
    return {key: label for key, label in COSTS.items() if _present(key, table)}


def _rows(table: Sequence[Line]) -> list[dict[str, Any]]:
    """For each method and teacher its values by category: mean, standard deviation (None for one seed), interval."""
    rows: dict[tuple[str, str], dict[str, dict]] = {}
    for line in table:
        values = {
            key: [mean, None if sd != sd else sd, *line.intervals.get(key, ())]
            for key, (mean, sd) in line.values.items()
        }
        rows.setdefault((line.method, line.teacher), {})[line.category] = values
    several = len({teacher for _, teacher in rows}) > 1
    return [
        {"name": f"{method} · {teacher}" if several else method, "values": values}
        for (method, teacher), values in rows.items()
    ]


def _address(file: Path, start: Path) -> str:
    """Relative, so that the folder of the benchmark can be moved."""
    return quote(os.fsencode(Path(os.path.relpath(file, start)).as_posix()))
