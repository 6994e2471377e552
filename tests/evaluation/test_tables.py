"""Many runs as a table."""

import csv
import io
import math
import re
import statistics

import numpy as np
import pytest

from evaluation.comparison import drawn_metrics
from evaluation.resampling import Counts, ScoredImages, Scores, write_counts
from evaluation.tables import (
    OVERALL,
    Line,
    Result,
    as_numbers,
    as_rows,
    latex,
    lines,
    markdown,
    results_of,
    sources,
    write_tables,
)


def result(method, category, seed, auroc, **more):
    return Result(method, category, "default", seed, {"image_auroc": auroc, **more})


RESULTS = [result("st", "bolt", seed, auroc) for seed, auroc in enumerate((0.8, 0.9, 0.7))]
RESULTS += [result("st", "nut_a", seed, auroc) for seed, auroc in enumerate((0.9, 0.9, 0.9))]


def test_a_line_has_mean_and_standard_deviation_over_the_seeds():
    bolt, nut, mean = lines(RESULTS)
    assert bolt[:4] == ("bolt", "st", "default", 3) and nut.category == "nut_a"
    assert bolt.values["image_auroc"] == pytest.approx((0.8, statistics.stdev([0.8, 0.9, 0.7])))
    assert nut.values["image_auroc"] == pytest.approx((0.9, 0))
    assert mean.category == OVERALL and mean.values["image_auroc"] == pytest.approx((0.85, 0.05))


def test_the_mean_over_categories_uses_only_seeds_that_have_them_all():
    *_, mean = lines(RESULTS[:-1])
    assert mean.seeds == 2 and mean.values["image_auroc"][0] == pytest.approx((0.85 + 0.9) / 2)
    assert [line.category for line in lines(RESULTS[:3])] == ["bolt"]  # one category has no mean
    assert [line.category for line in lines([*RESULTS[:1], *RESULTS[4:]])] == ["bolt", "nut_a"]  # no common seed


def test_one_seed_has_no_deviation_and_a_missing_metric_an_empty_cell():
    rows = as_rows(lines([result("st", "bolt", 0, 0.8), result("rd", "bolt", 0, 0.9, aupro=0.5, seconds=75.2)]))
    assert rows[0][:7] == ["category", "method", "teacher", "seeds", "image AUROC", "AUPRO@0.3", "training, s"]
    assert [row[4:7] for row in rows[1:]] == [["80.0", "", ""], ["90.0", "50.0", "75.2"]]


def test_markdown_and_latex_have_all_cells_and_keep_special_letters():
    rows = as_rows(lines(RESULTS))
    assert [[cell.strip() for cell in row.strip("|").split("|")] for row in markdown(rows).splitlines()[2:]] == rows[1:]
    text = latex(rows)
    assert r"nut\_a & st & default & 3 & 90.0 $\pm$ 0.0 \\" in text and text.count(r"\midrule") == 3
    assert text.startswith(r"\begin{tabular}{lllr" + "r" * (len(rows[0]) - 4) + "}")


def test_rows_survive_a_csv():
    rows = as_rows([Line("a,b", "st", "x", 1, {"aupro": (0.5, math.nan)})])
    buffer = io.StringIO()
    csv.writer(buffer).writerows(rows)
    assert list(csv.reader(io.StringIO(buffer.getvalue()))) == rows


def seen_by(*scores, images=("good", "good", "good", "hole", "hole")):
    """What a run with these image scores adds to a result."""
    types = np.array(images)
    drawn = drawn_metrics(ScoredImages(types, Scores(np.array(scores), types != "good"), None))
    return {"drawn": drawn, "images": images}


def test_an_interval_needs_the_same_images_from_every_seed():
    scores = (0.1, 0.2, 0.3, 0.25, 0.9)
    seen, others = seen_by(*scores), seen_by(*scores, images=("good", "good", "hole", "hole", "hole"))
    runs = [result("st", category, seed, 0.8)._replace(**seen) for category in "ab" for seed in (0, 1)]
    for line in lines(runs):
        assert line.intervals["image_auroc"][0] < 5 / 6 < line.intervals["image_auroc"][1]
        assert "image_ap" not in line.intervals  # it is not among the values
    a, b, mean = lines([runs[0]._replace(drawn={}), *runs[1:]])
    assert not a.intervals and b.intervals and not mean.intervals
    assert not lines([runs[0]._replace(**others), runs[1]])[0].intervals
    assert re.fullmatch(r"80.0 ± 0.0 \[\d+.\d, 100.0\]", as_rows([b])[1][4])


def test_an_interval_is_that_of_the_mean_over_the_seeds():
    """In the first run the fourth image has the lowest score, in the second the fifth."""
    seen = [seen_by(0.2, 0.2, 0.2, 0.1, 0.9), seen_by(0.2, 0.2, 0.2, 0.9, 0.1)]
    runs = [result("st", "a", seed, 0.5)._replace(**each) for seed, each in enumerate(seen)]
    (alone,), (both,) = lines(runs[:1]), lines(runs)
    assert alone.intervals["image_auroc"] == (0, 1) and both.intervals["image_auroc"] == (0.5, 0.5)


def test_the_interval_of_the_mean_is_about_the_seeds_that_all_categories_have():
    good, bad = seen_by(0.2, 0.2, 0.2, 0.9, 0.9), seen_by(0.2, 0.2, 0.2, 0.1, 0.1)
    runs = [result("st", "a", 0, 1.0)._replace(**good), result("st", "a", 1, 0.0)._replace(**bad)]
    *_, mean = lines([*runs, result("st", "b", 0, 1.0)._replace(**good)])
    assert mean.values["image_auroc"][0] == 1 and mean.intervals["image_auroc"] == (1, 1)


def test_numbers_are_for_programs():
    line = Line(
        "bottle", "rd", "x", 2, {"image_auroc": (0.9, 0.01), "seconds": (7.5, math.nan)}, {"image_auroc": (0.8, 1)}
    )
    head, row = as_numbers([line])
    assert dict(zip(head, row, strict=True)) == {
        "category": "bottle",
        "method": "rd",
        "teacher": "x",
        "seeds": "2",
        "image_auroc": "0.9",
        "image_auroc_sd": "0.01",
        "image_auroc_low": "0.8",
        "image_auroc_high": "1",
        "image_auroc_published": "1",
        "pixel_auroc_published": "0.987",
        "aupro_published": "0.966",
        "seconds": "7.5",
    }


def test_published_figures_stand_in_brackets_with_their_source():
    table = lines([result("rd", "bottle", 0, 0.9), result("rd", "mine", 0, 0.9)])
    rows = as_rows(table)
    at = rows[0].index("published image AUROC")
    assert [row[at] for row in rows[1:]] == ["(100.0)", "", ""]
    (source,) = sources(table)
    assert "wide ResNet-50" in source and "Deng and Li" in source


@pytest.fixture
def tested(tmp_path):
    """The folder and the report of a run on two good images and one with a hole."""
    lines = ["path,label,score,defect_type", "a,0,0.1,good", "b,0,0.5,good", "c,1,0.4,hole"]
    (tmp_path / "scores.csv").write_text("\n".join(lines), encoding="utf-8")
    bins = [[2, 1], [1, 0], [1, 1]], [[0, 0], [0, 0], [1, 1]], [[0, 0], [0, 0], [0.5, 0.5]]
    write_counts(tmp_path, Counts(*map(np.array, bins)))
    hole = {"images": 1, "image_auroc": 0.5, "aupro": 0.25}
    durations = {"train_seconds": 2.0, "test_seconds": 1.0}
    metrics = {"image_auroc": 0.5, "aupro": 0.25}
    return tmp_path, {"metrics": metrics, "per_defect": {"hole": hole}, "durations": durations}


def test_a_run_has_metrics_costs_and_types(tested):
    folder, report = tested
    found, hole = results_of("st", "part", "default", 0, folder, report, {"image": {}, "p50_ms": 2.5})
    assert found.values == {"image_auroc": 0.5, "aupro": 0.25, "seconds": 2, "p50_ms": 2.5}
    assert found.images == ("good", "good", "hole") and set(found.drawn) >= {"image_auroc", "image_f1max", "aupro"}
    assert (hole.category, hole.values) == ("part/hole", {"image_auroc": 0.5, "aupro": 0.25})


def test_the_best_epoch_on_the_test_has_columns_of_its_own(tested):
    folder, report = tested
    report["best_on_test"] = {"epoch": 3, "metrics": {"image_auroc": 0.75, "image_ap": 1.0}}
    (found, _) = results_of("st", "part", "default", 0, folder, report, {})
    (head, row) = as_rows(lines([found]))
    assert dict(zip(head, row, strict=True))["image AUROC, epoch chosen on the test"] == "75.0"


@pytest.mark.parametrize("damage", ["pixels.npz", "scores.csv"])
def test_damaged_files_of_a_run_leave_its_metrics(tested, damage, capsys):
    folder, report = tested
    (folder / damage).write_text("nothing")
    found = results_of("st", "part", "default", 0, folder, report, {})
    assert found[0].values["image_auroc"] == 0.5 and not found[0].drawn and not found[1].drawn
    assert "no intervals: " in capsys.readouterr().err


def test_files_have_the_table_the_defect_types_and_the_pairs(tmp_path, tested):
    folder, report = tested
    found = [results_of(method, "part", "default", 0, folder, report, {}) for method in ("st", "rd")]
    results, defects = zip(*found, strict=True)
    said = write_tables(tmp_path, lines(results), results, defects)
    assert (
        "| part | rd | default | 1 |" in said
        and "Not tested: st default (highest image AUROC) against rd default." in said
    )
    assert "| part/hole | st | default | 1 | 50.0 [0.0, 100.0] | 25.0 [" in (tmp_path / "defects.md").read_text()
    with (tmp_path / "pairs.csv").open(newline="", encoding="utf-8") as file:
        assert [row["metric"] for row in csv.DictReader(file)] == ["image_auroc", "aupro"]
    assert (tmp_path / "benchmark.tex").read_text().startswith("% Metrics are in percent")
