"""Many runs as tables: mean and standard deviation over seeds, as Markdown, CSV and LaTeX."""

import csv
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evaluation.comparison import COVERED, all_pairs, auroc_samples, interval
from evaluation.published import published
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
    "seconds": "run, s",
    "peak_memory_mib": "memory, MiB",
    "p50_ms": "latency p50, ms",
    "p95_ms": "latency p95, ms",
    "parameters_m": "parameters, M",
    "macs_g": "MACs, G",
}
OVERALL = "mean"  # the row over all categories of a method
ON_SCREEN = ("image_auroc", "pixel_auroc", "aupro", "seconds", "p50_ms")
COMPARED = ("image_auroc", "aupro")
Rows = list[list[str]]


class Result(NamedTuple):
    """A finished run: what it is, and its metrics as fractions with what it cost."""

    method: str
    category: str
    teacher: str
    seed: int
    values: dict[str, float]
    scores: tuple[np.ndarray, np.ndarray] | None = None  # of the good and of the defective test images
    defects: tuple[str, ...] = ()  # the types of the defective ones


class Line(NamedTuple):
    """A row: a method and a teacher on a category; for each value its mean and standard deviation over the seeds."""

    category: str
    method: str
    teacher: str
    seeds: int
    values: dict[str, tuple[float, float]]
    interval: tuple[float, float] | None = None  # of the image AUROC, over test images


def lines(results: Iterable[Result]) -> list[Line]:
    """One line for each category, method and teacher; then their means over the categories.

    The standard deviation of such a mean is that of the seeds' means. It is over the seeds that have all categories.
    """
    groups: dict[tuple[str, str, str], dict[int, Result]] = defaultdict(dict)
    for result in results:
        groups[result.category, result.method, result.teacher][result.seed] = result
    samples = {key: _samples(list(by_seed.values())) for key, by_seed in groups.items()}
    found = []
    for key, by_seed in groups.items():
        values = {name: _spread(each) for name, each in _columns(by_seed.values()).items()}
        found.append(Line(*key, len(by_seed), values, None if samples[key] is None else interval(samples[key])))
    categories = list(dict.fromkeys(line.category for line in found))
    if len(categories) > 1:
        found += list(_means(groups, samples, categories))
    return found


def _means(groups: dict, samples: dict, categories: Sequence[str]) -> Iterable[Line]:
    for method, teacher in dict.fromkeys(key[1:] for key in groups):
        keys = [(category, method, teacher) for category in categories]
        of = [groups.get(key, {}) for key in keys]
        seeds = set.intersection(*(set(by_seed) for by_seed in of))
        if not seeds:
            continue
        per_seed = [_columns([by_seed[seed] for by_seed in of]) for seed in sorted(seeds)]
        names = [name for name in per_seed[0] if all(len(each.get(name, ())) == len(categories) for each in per_seed)]
        values = {name: _spread([statistics.mean(each[name]) for each in per_seed]) for name in names}
        drawn = [samples[key] for key in keys]
        overall = None if any(each is None for each in drawn) else interval(np.mean(drawn, axis=0))
        yield Line(OVERALL, method, teacher, len(seeds), values, overall)


def _samples(results: Sequence[Result]) -> np.ndarray | None:
    """Image AUROCs of drawn test sets; None if the runs were not tested on the same images."""
    scores = [result.scores for result in results]
    if None in scores or len({tuple(map(len, each)) for each in scores}) > 1:
        return None
    return auroc_samples(*(np.stack(each) for each in zip(*scores, strict=True)), results[0].category)


def _columns(results: Iterable[Result]) -> dict[str, list[float]]:
    columns = defaultdict(list)
    for result in results:
        for name, value in result.values.items():
            columns[name].append(value)
    return columns


def _spread(values: Sequence[float]) -> tuple[float, float]:
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else float("nan")


def write_tables(folder: Path, results: Sequence[Result], reports: Sequence[dict[str, Any]]) -> str:
    """Write benchmark.csv, .md and .tex, defects.csv and .md, and pairs.csv; returns what the screen shows.

    `reports` are the contents of the results' metrics.json.
    """
    table = lines(results)
    rows, notes = as_rows(table), [*sources(table), *_sentences(table)]
    write_csv(folder / "benchmark.csv", rows[0], rows[1:])
    write_text(folder / "benchmark.md", markdown(rows) + "".join(f"\n{note}\n" for note in notes))
    write_text(folder / "benchmark.tex", latex(rows))
    types = lines(each for pair in zip(results, reports, strict=True) for each in by_defect(*pair))
    rows = as_rows([line for line in types if line.category != OVERALL])
    write_csv(folder / "defects.csv", rows[0], rows[1:])
    write_text(folder / "defects.md", markdown(rows))
    columns = ["metric", "first", "second", "categories", "better", "worse", "difference", "p"]
    pairs = [(name, *pair) for name in COMPARED for pair in all_pairs(_by(table, name))]
    write_csv(folder / "pairs.csv", columns, pairs)
    return markdown(as_rows(table, ON_SCREEN)) + "".join(f"\n{note}" for note in notes)


def _by(table: Sequence[Line], metric: str) -> dict[str, dict[str, float]]:
    """A metric by method with teacher and category."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for line in table:
        if line.category != OVERALL and metric in line.values:
            found[f"{line.method} {line.teacher}"][line.category] = line.values[metric][0]
    return found


def _sentences(table: Sequence[Line]) -> list[str]:
    """The best method against each other one, by image AUROC; all pairs are in pairs.csv."""
    pairs = all_pairs(_by(table, COMPARED[0]))
    return [pair.sentence(LABELS[COMPARED[0]]) for pair in pairs if pair.first == pairs[0].first]


def as_rows(table: Sequence[Line], wanted: Sequence[str] = (*LABELS, *COSTS)) -> Rows:
    """The table's cells as text, its head first: metrics in percent, costs as they are.

    Columns that no line has are left out. What was published for a category's name stands in brackets.
    """
    names = [name for name in wanted if any(name in line.values for line in table)]
    quoted = [published(line.method, line.category) for line in table]
    known = [name for name in wanted if any(each and name in each.metrics for each in quoted)]
    sure = [f"image AUROC, {COVERED:.0%}"] if any(line.interval for line in table) else []
    head = ["category", "method", "teacher", "seeds", *sure, *(LABELS.get(name) or COSTS[name] for name in names)]
    rows = [[*head, *(f"published {LABELS[name]}" for name in known)]]
    for line, quote in zip(table, quoted, strict=True):
        cells = [_range(line.interval)] if sure else []
        cells += [_cell(line.values.get(name), 100 if name in LABELS else 1) for name in names]
        cells += [f"({100 * quote.metrics[name]:.1f})" if quote and name in quote.metrics else "" for name in known]
        rows.append([line.category, line.method, line.teacher, str(line.seeds), *cells])
    return rows


def sources(table: Sequence[Line]) -> list[str]:
    """Where the published figures of a table come from, and their protocol: a sentence for each method."""
    quotes = {line.method: quote for line in table if (quote := published(line.method, line.category))}
    return [f"Published, {method}: {quote.protocol}. Source: {quote.source}." for method, quote in quotes.items()]


def _range(bounds: tuple[float, float] | None) -> str:
    return "" if bounds is None else "{:.1f} to {:.1f}".format(*(100 * bound for bound in bounds))


def _cell(value: tuple[float, float] | None, factor: float) -> str:
    if value is None:
        return ""
    mean, deviation = (factor * number for number in value)
    digits = 1 if factor == 100 or mean < 100 else 0
    known = deviation == deviation and (deviation or factor == 100)  # the cost of an image is measured once for all
    return f"{mean:.{digits}f}" + (f" ± {deviation:.{digits}f}" if known else "")


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


def result_of(method: str, category: str, teacher: str, seed: int, folder: Path, report: dict, spent: dict) -> Result:
    """From a run's folder, its metrics.json, and what its process cost."""
    durations = [report["durations"].get(name) or 0 for name in ("train_seconds", "test_seconds")]
    values = dict(report["metrics"]) | {key: float(spent[key]) for key in COSTS if key in spent}
    values["seconds"] = sum(durations)
    return Result(method, category, teacher, seed, values, *_scores(folder, report["metrics"].get("image_auroc")))


def _scores(folder: Path, auroc: float | None) -> tuple[tuple[np.ndarray, np.ndarray] | None, tuple[str, ...]]:
    """Of good and of defective images, and the latter's types.

    None if their AUROC is not that of the report, which left images out.
    """
    if auroc is None:
        return None, ()
    with (folder / "scores.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        table = list(csv.DictReader(file))
    good, defective = (np.array([float(row["score"]) for row in table if row["label"] == kind]) for kind in "01")
    whole = ((defective > good[:, None]) + 0.5 * (defective == good[:, None])).mean()
    types = tuple(row.get("defect_type", "") for row in table if row["label"] == "1")
    return ((good, defective), types) if abs(whole - auroc) < 1e-6 else (None, ())


def by_defect(result: Result, report: dict[str, Any]) -> list[Result]:
    """The same for each defect type of a run, as categories called category/defect type."""
    return [
        result._replace(
            category=f"{result.category}/{defect}",
            values={key: value for key, value in values.items() if key in LABELS},
            scores=_of_type(result, defect),
        )
        for defect, values in report["per_defect"].items()
    ]


def _of_type(result: Result, defect: str) -> tuple[np.ndarray, np.ndarray] | None:
    """The scores of the good images, and of those with this defect type."""
    chosen = np.array([each == defect for each in result.defects], bool)
    return (result.scores[0], result.scores[1][chosen]) if result.scores and chosen.any() else None
