"""Positions on a chart, its ticks and its bars."""

import numpy as np
import pytest

from evaluation.curves import Curve
from evaluation.html_charts import Axis, bars, line


@pytest.mark.parametrize(("values", "log"), [([1, 2, 3], False), ([-5, 1e-3, 9], False), ([1e-6, 1e-3, 2], True)])
def test_an_axis_has_all_values_inside_and_a_value_comes_back(values, log):
    axis = Axis.of(values, 40, 540)
    assert axis.log == log
    for value in values:
        assert 40 < axis.at(value) < 540
        assert axis.value((axis.at(value) - 40) / 500) == pytest.approx(value)
    assert axis.at(-1e9) == 40 and axis.at(1e9) == 540


@pytest.mark.parametrize("value", [0.0, 3.0, -2.0])
def test_an_axis_of_one_value_has_it_in_the_middle(value):
    axis = Axis.of([value, value], 0, 100)
    assert axis.at(value) == pytest.approx(50)


@pytest.mark.parametrize(
    ("ends", "log", "texts"),
    [
        ((0, 1), False, ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        ((0, 0.3), False, ["0", "0.1", "0.2", "0.3"]),
        ((0.23, 1.62), False, ["0.5", "1", "1.5"]),
        ((1e-5, 1), True, ["1e-05", "0.0001", "0.001", "0.01", "0.1", "1"]),
        ((0.4, 6), True, ["0.5", "1", "2", "5"]),
    ],
)
def test_ticks_are_round_values_at_their_places(ends, log, texts):
    axis = Axis(*ends, 0, 100, log)
    ticks = axis.ticks(5)
    assert [text for _, text in ticks] == texts
    assert [place for place, _ in ticks] == pytest.approx([axis.at(float(text)) for text in texts])


def test_bars_count_every_score_and_the_highest_has_the_whole_height():
    good, defective = np.array([1.0, 1.0, 1.0, 2.0]), np.array([2.0, 5.0])
    axis = Axis.of([1, 5], 0, 400)
    above, below = bars((good, defective), axis, 90)
    assert [bar.count for bar in above] == [3, 1] and [bar.count for bar in below] == [1, 1]
    assert [bar.height for bar in above] == [90, 30]
    for bar, score in zip(above, (1, 2), strict=True):
        assert bar.x <= axis.at(score) <= bar.x + bar.width


def test_a_chart_of_one_kind_of_images_has_no_bars_of_the_other():
    assert bars((np.array([1.0]), np.array([])), Axis.of([1], 0, 10), 5)[1] == []


def test_a_line_has_the_points_of_its_curve():
    text = line(Curve(np.array([0, 0.5]), np.array([0, 1])), Axis(0, 1, 0, 200), Axis(0, 1, 200, 0))
    assert text == "0.0,200.0 100.0,0.0"
