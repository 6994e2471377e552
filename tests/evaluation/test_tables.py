"""Many runs as a table."""

import csv
import io
import math
import statistics

import numpy as np
import pytest

from evaluation.tables import OVERALL, Line, Result, as_rows, latex, lines, markdown, result_of, sources, write_tables


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
    assert rows[0][:7] == ["category", "method", "teacher", "seeds", "image AUROC", "AUPRO@0.3", "run, s"]
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


def test_an_interval_needs_scores_of_the_same_images_from_every_seed():
    scores = (np.array([0.1, 0.2, 0.3]), np.array([0.25, 0.9]))
    runs = [result("st", category, seed, 0.8)._replace(scores=scores) for category in "ab" for seed in (0, 1)]
    for line in lines(runs):
        assert line.interval[0] < 5 / 6 < line.interval[1]
    a, b, mean = lines([runs[0]._replace(scores=None), *runs[1:]])
    assert a.interval is None and b.interval and mean.interval is None
    longer = (np.zeros(4), np.ones(2))
    assert lines([runs[0]._replace(scores=longer), runs[1]])[0].interval is None
    assert as_rows([b])[0][4] == "image AUROC, 95%" and " to " in as_rows([b])[1][4]


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
    hole = {"images": 1, "image_auroc": 0.5, "aupro": 0.25}
    durations = {"train_seconds": 2.0, "test_seconds": 1.0}
    metrics = {"image_auroc": 0.5, "aupro": 0.25}
    return tmp_path, {"metrics": metrics, "per_defect": {"hole": hole}, "durations": durations}


def test_scores_are_used_only_if_they_give_the_reported_auroc(tested):
    folder, report = tested
    found = result_of("st", "part", "default", 0, folder, report, {"image": {}, "p50_ms": 2.5})
    assert found.values == {"image_auroc": 0.5, "aupro": 0.25, "seconds": 3, "p50_ms": 2.5}
    assert [each.tolist() for each in found.scores] == [[0.1, 0.5], [0.4]]
    report["metrics"]["image_auroc"] = 1.0
    assert result_of("st", "part", "default", 0, folder, report, {}).scores is None


def test_files_have_the_table_the_defect_types_and_the_pairs(tmp_path, tested):
    folder, report = tested
    results = [result_of(method, "part", "default", 0, folder, report, {}) for method in ("st", "rd")]
    said = write_tables(tmp_path, results, [report, report])
    assert "| part | rd | default | 1 |" in said and "st default against rd default, 1 category" in said
    assert "| part/hole | st | default | 1 | 0.0 to 100.0 | 50.0 | 25.0 |" in (tmp_path / "defects.md").read_text()
    with (tmp_path / "pairs.csv").open(newline="", encoding="utf-8") as file:
        assert [row["metric"] for row in csv.DictReader(file)] == ["image_auroc", "aupro"]
    assert (tmp_path / "benchmark.tex").read_text().startswith(r"\begin{tabular}")
