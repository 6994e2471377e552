"""Many runs as a table."""

import csv
import io
import math
import statistics

import pytest

from evaluation.tables import OVERALL, Line, Result, as_rows, latex, lines, markdown


def result(method, category, seed, auroc, **more):
    return Result(method, category, "default", seed, {"image_auroc": auroc, **more})


RESULTS = [result("st", "screw", seed, auroc) for seed, auroc in enumerate((0.8, 0.9, 0.7))]
RESULTS += [result("st", "nut_a", seed, auroc) for seed, auroc in enumerate((0.9, 0.9, 0.9))]


def test_a_line_has_mean_and_standard_deviation_over_the_seeds():
    screw, nut, mean = lines(RESULTS)
    assert screw[:4] == ("screw", "st", "default", 3) and nut.category == "nut_a"
    assert screw.values["image_auroc"] == pytest.approx((0.8, statistics.stdev([0.8, 0.9, 0.7])))
    assert nut.values["image_auroc"] == pytest.approx((0.9, 0))
    assert mean.category == OVERALL and mean.values["image_auroc"] == pytest.approx((0.85, 0.05))


def test_the_mean_over_categories_uses_only_seeds_that_have_them_all():
    *_, mean = lines(RESULTS[:-1])
    assert mean.seeds == 2 and mean.values["image_auroc"][0] == pytest.approx((0.85 + 0.9) / 2)
    assert [line.category for line in lines(RESULTS[:3])] == ["screw"]  # one category has no mean
    assert [line.category for line in lines([*RESULTS[:1], *RESULTS[4:]])] == ["screw", "nut_a"]  # no common seed


def test_one_seed_has_no_deviation_and_a_missing_metric_an_empty_cell():
    rows = as_rows(lines([result("st", "screw", 0, 0.8), result("rd", "screw", 0, 0.9, aupro=0.5, seconds=75.2)]))
    assert rows[0] == ["category", "method", "teacher", "seeds", "image AUROC", "AUPRO@0.3", "s"]
    assert rows[1][4:] == ["80.0", "", ""] and rows[2][4:] == ["90.0", "50.0", "75"]


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
