"""Many runs as a table: mean and standard deviation over seeds, as Markdown, CSV and LaTeX."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

LABELS = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "image_f1max": "image F1-max",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pixel_f1max": "pixel F1-max",
    "aupro": "AUPRO@0.3",
}
OVERALL = "mean"  # the row over all categories of a method


class Result(NamedTuple):
    """A finished run: what it is, and its metrics as fractions with what it cost."""

    method: str
    category: str
    teacher: str
    seed: int
    values: dict[str, float]


class Line(NamedTuple):
    """A row: a method and a teacher on a category; for each value its mean and standard deviation over the seeds."""

    category: str
    method: str
    teacher: str
    seeds: int
    values: dict[str, tuple[float, float]]


def lines(results: Iterable[Result]) -> list[Line]:
    """One line for each category, method and teacher; then their means over the categories.

    The standard deviation of such a mean is that of the seeds' means. It is over the seeds that have all categories.
    """
    groups: dict[tuple[str, str, str], dict[int, Result]] = defaultdict(dict)
    for result in results:
        groups[result.category, result.method, result.teacher][result.seed] = result
    found = [
        Line(*key, len(by_seed), {name: _spread(values) for name, values in _columns(by_seed.values()).items()})
        for key, by_seed in groups.items()
    ]
    categories = list(dict.fromkeys(line.category for line in found))
    if len(categories) > 1:
        found += list(_means(groups, categories))
    return found


def _means(groups: dict[tuple[str, str, str], dict[int, Result]], categories: Sequence[str]) -> Iterable[Line]:
    for method, teacher in dict.fromkeys(key[1:] for key in groups):
        of = [groups.get((category, method, teacher), {}) for category in categories]
        seeds = set.intersection(*(set(by_seed) for by_seed in of))
        if not seeds:
            continue
        per_seed = [_columns([by_seed[seed] for by_seed in of]) for seed in sorted(seeds)]
        names = [name for name in per_seed[0] if all(len(each.get(name, ())) == len(categories) for each in per_seed)]
        values = {name: _spread([statistics.mean(each[name]) for each in per_seed]) for name in names}
        yield Line(OVERALL, method, teacher, len(seeds), values)


def _columns(results: Iterable[Result]) -> dict[str, list[float]]:
    columns = defaultdict(list)
    for result in results:
        for name, value in result.values.items():
            columns[name].append(value)
    return columns


def _spread(values: Sequence[float]) -> tuple[float, float]:
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else float("nan")


COSTS = {"seconds": "s", "peak_memory_mib": "MiB", "ms_per_image": "ms/image"}
Rows = list[list[str]]


def as_rows(table: Sequence[Line]) -> Rows:
    """The table's cells as text, its head first: metrics in percent, costs as they are."""
    names = [name for name in [*LABELS, *COSTS] if any(name in line.values for line in table)]
    head = ["category", "method", "teacher", "seeds", *(LABELS.get(name) or COSTS[name] for name in names)]
    rows = [head]
    for line in table:
        cells = [_cell(line.values.get(name), 100 if name in LABELS else 1) for name in names]
        rows.append([line.category, line.method, line.teacher, str(line.seeds), *cells])
    return rows


def _cell(value: tuple[float, float] | None, factor: float) -> str:
    if value is None:
        return ""
    mean, deviation = (factor * number for number in value)
    digits = 1 if factor == 100 or mean < 10 else 0
    return f"{mean:.{digits}f}" + (f" ± {deviation:.{digits}f}" if deviation == deviation else "")


def markdown(rows: Rows) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"


def latex(rows: Rows) -> str:
    """For the package booktabs; a line between categories."""
    special = str.maketrans({c: rf"\{c}" for c in "#$%&_{}"} | {"±": r"$\pm$", "\\": r"\textbackslash{}"})
    texts = [" & ".join(cell.translate(special) for cell in row) + r" \\" for row in rows]
    body = []
    for before, row, text in zip(rows, rows[1:], texts[1:], strict=False):
        if before is not rows[0] and before[0] != row[0]:
            body.append(r"\midrule")
        body.append(text)
    columns = "l" * 3 + "r" * (len(rows[0]) - 3)
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            texts[0],
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def result_of(method: str, category: str, teacher: str, seed: int, report: dict[str, Any], spent: dict) -> Result:
    """From a run's metrics.json, and what its process cost."""
    values = dict(report["metrics"]) | {key: float(spent[key]) for key in COSTS if key in spent}
    values["ms_per_image"] = 1000 / report["durations"]["test_images_per_second"]
    return Result(method, category, teacher, seed, values)
