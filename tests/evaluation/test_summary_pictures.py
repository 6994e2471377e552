"""scores.png, curves.png and contact.png."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from evaluation.curves import Curve
from evaluation.summary_pictures import _chosen, draw_rates, draw_scores
from tests.evaluation.pages import write_run

GOOD, DEFECTIVE = np.array([0.5, 0.7, 0.7]), np.array([0.7, 1.5])


@pytest.fixture
def figures(monkeypatch):
    """The figures that were written."""
    found, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **how: (found.append(self), save(self, *args, **how)))
    return found


@pytest.mark.parametrize("good", [GOOD, GOOD[:0], 1e-5 * GOOD], ids=["linear", "none", "logarithmic"])
def test_the_histogram_has_every_score_and_the_threshold(good, figures, tmp_path):
    draw_scores(tmp_path / "scores.png", good, DEFECTIVE, 1.1)
    axes = figures[0].axes[0]
    for bars, scores in zip(axes.containers, (good, DEFECTIVE), strict=True):
        assert sum(bar.get_height() for bar in bars) == len(scores)
    assert [label.get_text() for label in axes.get_legend().get_texts()] == [
        f"good ({len(good)})",
        "defective (2)",
        "calibrated threshold 1.1",
    ]


def test_the_curves_are_those_that_the_data_allow(figures, tmp_path):
    covered = Curve(np.array([0, 0.3]), np.array([0, 0.8]))
    for good, pro in ((GOOD, covered), (GOOD, None), (GOOD[:0], covered)):
        draw_rates(tmp_path / "curves.png", good, DEFECTIVE, pro)
    titles = [[axes.get_title() for axes in figure.axes] for figure in figures]
    assert titles == [["ROC", "Precision and recall", "PRO"], ["ROC", "Precision and recall"], ["PRO"]]


def test_the_worst_good_image_has_the_highest_score_and_the_worst_defect_the_lowest():
    own = [7, 3, 5, 1]  # in the order of their scores
    assert _chosen(own, "good") == [("worst", 1), ("median", 3), ("best", 7)]
    assert _chosen(own, "hole") == [("worst", 7), ("median", 5), ("best", 1)]
    assert _chosen(own[:1], "hole") == [("worst", 7)]
    assert _chosen(own[:2], "hole") == [("worst", 7), ("best", 3)]


def test_the_contact_sheet_has_a_row_for_each_kind(tmp_path):
    write_run(tmp_path / "two", ["good"] * 3 + ["hole"] * 2, range(1, 6))
    write_run(tmp_path / "three", ["good"] * 3 + ["hole", "缺"], range(1, 6))
    two, three = (Image.open(tmp_path / name / "contact.png") for name in ("two", "three"))
    assert two.width == three.width > 3 * 2 * 150 and two.height < three.height < 2 * two.height
