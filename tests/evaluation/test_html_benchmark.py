"""The page of a benchmark: its values are those of the tables, and each run is linked."""

import pytest

from evaluation.html_benchmark import write_benchmark
from evaluation.tables import Result, lines
from tests.evaluation.pages import data_of

EVIL = "<img src=x onerror=alert(1)>"


def runs(methods=("st", "rd"), categories=("weave", "screw"), teachers=("default",), seeds=2):
    for place, method in enumerate(methods):
        for category in categories:
            for teacher in teachers:
                for seed in range(seeds):
                    values = {"image_auroc": 0.9 + 0.02 * place + 0.01 * seed, "p50_ms": 10.0 * (place + 1)}
                    yield Result(method, category, teacher, seed, values)


def write(folder, results):
    folders = [folder / result.method / f"{result.category}-{result.seed} #" for result in results]
    page = folder / "benchmark.html"
    write_benchmark(
        page, lines(results), results, folders, "python3 benchmark.py --methods st rd", {"methods": ["st", "rd"]}
    )
    return data_of(page), page.read_text(encoding="utf-8")


def test_a_row_has_mean_and_standard_deviation_of_each_category_and_their_mean(tmp_path):
    data, _ = write(tmp_path, list(runs()))
    assert data["categories"] == ["weave", "screw", "mean"] and data["overall"] == "mean"
    assert [row["name"] for row in data["rows"]] == ["st", "rd"]
    for category in data["categories"]:
        assert data["rows"][0]["values"][category]["image_auroc"] == pytest.approx([0.905, 0.005 * 2**0.5])
        assert data["rows"][1]["values"][category]["p50_ms"] == [20, None]  # measured once


def test_with_one_category_and_one_seed_there_is_no_mean_and_no_deviation(tmp_path):
    data, _ = write(tmp_path, list(runs(categories=["weave"], seeds=1)))
    assert data["categories"] == ["weave"] and data["overall"] == "weave"
    assert data["rows"][0]["values"]["weave"]["image_auroc"] == [0.9, None]


def test_several_teachers_are_named(tmp_path):
    data, _ = write(tmp_path, list(runs(methods=["st"], teachers=["bundled", "imagenet"])))
    assert [row["name"] for row in data["rows"]] == ["st · bundled", "st · imagenet"]


def test_each_run_is_linked_from_the_folder_of_the_page(tmp_path):
    _, text = write(tmp_path, list(runs()))
    for method in ("st", "rd"):
        assert f'href="{method}/weave-1%20%23/report.html"' in text
    assert "python3 benchmark.py --methods st rd" in text and "methods:" in text


def test_what_a_user_wrote_is_text_and_never_code(tmp_path):
    _, text = write(tmp_path, [result._replace(category=EVIL) for result in runs(categories=["any"])])
    assert EVIL not in text and "&lt;img src=x" in text


def test_without_costs_there_is_no_chart_of_them(tmp_path):
    results = [result._replace(values={"image_auroc": 0.5}) for result in runs()]
    assert 'id="scatter"' not in write(tmp_path, results)[1]
