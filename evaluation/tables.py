"""Many runs as tables: mean and standard deviation over seeds, as Markdown, CSV and LaTeX."""

import statistics
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evaluation.comparison import COVERED, against_the_best, all_pairs, drawn_metrics, interval
from evaluation.published import published
from evaluation.resampling import ScoredImages
from utils.console import note
from utils.files import write_csv, write_text

LABELS = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "image_f1max": "image F1-max",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pixel_f1max": "pixel F1-max",
    "aupro": "AUPRO@0.3",
    "spro": "sPRO@0.05",
}
COSTS = {
    "seconds": "training, s",
    "peak_memory_mib": "memory, MiB",
    "gpu_peak_memory_mib": "GPU memory, MiB",
    "p50_ms": "latency p50, ms",
    "p95_ms": "latency p95, ms",
    "parameters_m": "parameters, M",
    "macs_g": "MACs, G",
}
ONCE = ("p50_ms", "p95_ms", "parameters_m", "macs_g")  # measured once for all runs alike: no deviation
BEST = {name: f"{name}_best_on_test" for name in ("image_auroc", "pixel_auroc", "aupro")}  # see engine/paper.py
HEADS = LABELS | {key: f"{LABELS[name]}, epoch chosen on the test" for name, key in BEST.items()} | COSTS
ENDINGS = ("", "_sd", "_low", "_high", "_published")  # of the columns of a CSV
OVERALL = "mean"  # the row over all categories of a method
ON_SCREEN = ("image_auroc", "pixel_auroc", "aupro", "seconds", "p50_ms")
COMPARED = ("image_auroc", "aupro")
LEGEND = (
    "Metrics are in percent: the mean over the seeds, ± their standard deviation, and in square brackets the "
    f"{COVERED:.0%} interval over test images."
)
NAN = float("nan")
Drawn = dict[str, np.ndarray]
Rows = list[list[str]]


class Result(NamedTuple):
    """A finished run: what it is, and its metrics as fractions with what it cost."""

    method: str
    category: str
    teacher: str
    seed: int
    values: dict[str, float]
    drawn: Drawn = {}  # what the metrics are on drawn test sets, see `drawn_metrics`
    images: tuple[str, ...] = ()  # the types of the test images


class Line(NamedTuple):
    """A row: a method and a teacher on a category; for each value its mean and standard deviation over the seeds."""

    category: str
    method: str
    teacher: str
    seeds: int
    values: dict[str, tuple[float, float]]
    intervals: dict[str, tuple[float, float]] = {}  # over test images; the same names, as far as they are known


def lines(results: Iterable[Result]) -> list[Line]:
    """One line for each category, method and teacher; then their means over the categories.

    The standard deviation of such a mean is that of the seeds' means. It is over the seeds that have all categories.
    """
    groups: dict[tuple[str, str, str], dict[int, Result]] = defaultdict(dict)
    for result in results:
        groups[result.category, result.method, result.teacher][result.seed] = result
    found = []
    for key, by_seed in groups.items():
        values = {name: _spread(name, each) for name, each in _columns(by_seed.values()).items()}
        found.append(Line(*key, len(by_seed), values, _intervals([_over_seeds(by_seed.values())], values)))
    categories = list(dict.fromkeys(line.category for line in found))
    if len(categories) > 1:
        found += list(_means(groups, categories))
    return found


def _means(groups: dict, categories: Sequence[str]) -> Iterable[Line]:
    for method, teacher in dict.fromkeys(key[1:] for key in groups):
        of = [groups.get((category, method, teacher), {}) for category in categories]
        seeds = sorted(set.intersection(*(set(by_seed) for by_seed in of)))
        if not seeds:
            continue
        per_seed = [_columns([by_seed[seed] for by_seed in of]) for seed in seeds]
        names = [name for name in per_seed[0] if all(len(each.get(name, ())) == len(categories) for each in per_seed)]
        values = {name: _spread(name, [statistics.mean(each[name]) for each in per_seed]) for name in names}
        drawn = [_over_seeds([by_seed[seed] for seed in seeds]) for by_seed in of]
        yield Line(OVERALL, method, teacher, len(seeds), values, _intervals(drawn, values))


def _over_seeds(results: Collection[Result]) -> Drawn:
    """The mean over the runs; nothing if these were not tested on the same images."""
    return _averages([result.drawn for result in results]) if len({result.images for result in results}) == 1 else {}


def _averages(drawn: Sequence[Drawn]) -> Drawn:
    """The mean of each metric that all have."""
    names = [name for name in drawn[0] if all(name in each for each in drawn)]
    return {name: np.mean([each[name] for each in drawn], 0) for name in names}


def _intervals(drawn: Sequence[Drawn], values: dict[str, Any]) -> dict[str, tuple[float, float]]:
    return {name: interval(found) for name, found in _averages(drawn).items() if name in values}


def _columns(results: Iterable[Result]) -> dict[str, list[float]]:
    columns = defaultdict(list)
    for result in results:
        for name, value in result.values.items():
            columns[name].append(value)
    return columns


def _spread(name: str, values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation; NaN if there is none."""
    several = len(values) > 1 and name not in ONCE
    return statistics.mean(values), statistics.stdev(values) if several else NAN


def write_tables(folder: Path, table: Sequence[Line], results: Sequence[Result], defects: Sequence[Result]) -> str:
    """Write benchmark.csv, .md and .tex, defects.csv and .md, and pairs.csv; returns what the screen shows.

    `table` has the results' lines; `defects` are the results of each defect type.
    """
    rows = as_rows(table)
    notes = [LEGEND, *sources(table), *against_the_best(_by(results, COMPARED[0]), LABELS[COMPARED[0]])]
    _write_numbers(folder / "benchmark.csv", table)
    write_text(folder / "benchmark.md", markdown(rows) + "".join(f"\n{note}\n" for note in notes))
    write_text(folder / "benchmark.tex", "".join(f"% {note}\n" for note in notes) + latex(rows))
    types = [line for line in lines(defects) if line.category != OVERALL]
    _write_numbers(folder / "defects.csv", types)
    write_text(folder / "defects.md", f"{markdown(as_rows(types))}\n{LEGEND}\n")
    columns = ["metric", "first", "second", "categories", "better", "worse", "difference", "p"]
    pairs = [(name, *pair) for name in COMPARED for pair in all_pairs(_by(results, name))]
    write_csv(folder / "pairs.csv", columns, pairs)
    return markdown(as_rows(table, ON_SCREEN)) + "".join(f"\n{note}" for note in notes)


def _write_numbers(path: Path, table: Sequence[Line]) -> None:
    head, *rows = as_numbers(table)
    write_csv(path, head, rows)


def _by(results: Sequence[Result], metric: str) -> dict[str, dict[str, dict[int, float]]]:
    """A metric by method with teacher, category and seed."""
    found: dict = defaultdict(lambda: defaultdict(dict))
    for result in results:
        if metric in result.values:
            found[f"{result.method} {result.teacher}"][result.category][result.seed] = result.values[metric]
    return found


def as_rows(table: Sequence[Line], wanted: Sequence[str] = tuple(HEADS)) -> Rows:
    """The table's cells as text, its head first: metrics in percent, costs as they are.

    Columns that no line has are left out. The interval over test images stands in square brackets, and what was
    published for a category's name in round ones.
    """
    names = [name for name in wanted if any(name in line.values for line in table)]
    quoted = [published(line.method, line.category) for line in table]
    known = [name for name in wanted if any(each and name in each.metrics for each in quoted)]
    head = ["category", "method", "teacher", "seeds", *(HEADS[name] for name in names)]
    rows = [[*head, *(f"published {LABELS[name]}" for name in known)]]
    for line, quote in zip(table, quoted, strict=True):
        cells = [_cell(line, name) for name in names]
        cells += [f"({100 * quote.metrics[name]:.1f})" if quote and name in quote.metrics else "" for name in known]
        rows.append([line.category, line.method, line.teacher, str(line.seeds), *cells])
    return rows


def sources(table: Sequence[Line]) -> list[str]:
    """Where the published figures of a table come from, and their protocol: a sentence for each method."""
    quotes = {line.method: quote for line in table if (quote := published(line.method, line.category))}
    return [f"Published, {method}: {quote.protocol}. Source: {quote.source}." for method, quote in quotes.items()]


def _cell(line: Line, name: str) -> str:
    if name not in line.values:
        return ""
    factor = 1 if name in COSTS else 100
    mean, deviation = (factor * number for number in line.values[name])
    digits = 1 if factor == 100 or mean < 100 else 0
    text = f"{mean:.{digits}f}" + (f" ± {deviation:.{digits}f}" if deviation == deviation else "")
    if name in line.intervals:
        text += " [{:.1f}, {:.1f}]".format(*(100 * end for end in line.intervals[name]))
    return text


def as_numbers(table: Sequence[Line]) -> Rows:
    """The table for programs, its head first: metrics as fractions, under their names in metrics.json."""
    numbers = [_numbers(line) for line in table]
    columns = [name + ending for name in HEADS for ending in ENDINGS]
    columns = [column for column in columns if any(column in row for row in numbers)]
    rows = [[f"{row[column]:.6g}" if column in row else "" for column in columns] for row in numbers]
    head = ["category", "method", "teacher", "seeds", *columns]
    return [head, *([*map(str, line[:4]), *row] for line, row in zip(table, rows, strict=True))]


def _numbers(line: Line) -> dict[str, float]:
    """What is known of each value: its name with one of `ENDINGS`."""
    quote = published(line.method, line.category)
    parts = {name: [*pair, *line.intervals.get(name, ())] for name, pair in line.values.items()}
    found = {name + end: x for name, part in parts.items() for end, x in zip(ENDINGS, part, strict=False) if x == x}
    return found | {f"{name}{ENDINGS[-1]}": value for name, value in (quote.metrics if quote else {}).items()}


def markdown(rows: Rows) -> str:
    lines = [f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"


def latex(rows: Rows) -> str:
    """For the package booktabs; a line between categories."""
    special = str.maketrans(
        {c: rf"\{c}" for c in "#$%&_{}"} | {"±": r"$\pm$", "\\": r"\textbackslash{}", "^": r"\^{}", "~": r"\~{}"}
    )
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


def results_of(
    method: str, category: str, teacher: str, seed: int, folder: Path, report: dict, spent: dict
) -> list[Result]:
    """A run and then each of its defect types, called category/type, from its folder, metrics.json and costs."""
    values = {key: float(each[key]) for each in (report, spent) for key in COSTS if key in each} | report["metrics"]
    values["seconds"] = report["durations"].get("train_seconds") or 0.0
    best = report.get("best_on_test") or {}
    values |= {key: best["metrics"][of] for of, key in BEST.items() if of in best.get("metrics", {})}
    found = _outcome(folder, report["metrics"])

    def result(name: str, values: dict, outcome: ScoredImages | None) -> Result:
        images = tuple(outcome.types.tolist()) if outcome else ()
        return Result(method, name, teacher, seed, values, drawn_metrics(outcome, name) if outcome else {}, images)

    defects = [
        result(f"{category}/{defect}", {k: v for k, v in row.items() if k in LABELS}, found and found.of_type(defect))
        for defect, row in report["per_defect"].items()
    ]
    return [result(category, values, found), *defects]


def _outcome(folder: Path, metrics: dict[str, float]) -> ScoredImages | None:
    """None, and a note, if files are damaged or those of an earlier version."""
    try:
        return ScoredImages.read(folder, metrics)
    except (OSError, ValueError, KeyError) as error:
        reason = f"{error.filename} is missing" if isinstance(error, FileNotFoundError) else str(error)
        note(f"{folder}: no intervals: {reason}; test it again with phase=test")
        return None
