"""The pages of visualization.py: what they compute and what is on them."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from evaluation.feature_pages import ImageView, LevelView, channel_importance, draw_level, draw_overview, level_shares
from evaluation.score import HELD_OUT

# ---- importance of channels, shares of levels ----------------------------------------------------------------


def test_channel_importance_counts_differences_where_the_map_is_high():
    teacher, student, final = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 16, 16)
    final[..., :4, :4] = 1
    student[0, 0, 0, 0] = 1  # inside
    student[0, 1, 0, 0] = 2
    student[0, 2, 3, 3] = 9  # outside
    assert channel_importance(teacher, student, final).tolist() == pytest.approx([0.2, 0.8, 0.0])


def test_channel_importance_where_a_map_without_padding_lies():
    """Cell (1, 1) of a map without 2 cells on each side is cell (3, 3) of the image."""
    teacher, student, final = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 16, 16)
    final[..., 6:8, 6:8] = 1
    student[0, 0, 1, 1] = student[0, 1, 2, 2] = 1
    assert channel_importance(teacher, student, final, margin=2).tolist() == [1, 0]


def test_channels_without_any_difference_have_no_importance():
    same = torch.rand(1, 3, 4, 4)
    assert channel_importance(same, same, torch.ones(1, 1, 16, 16)).tolist() == [0, 0, 0]


def combining(final_map):
    """A detector with this `final_map`."""
    return SimpleNamespace(final_map=final_map)


@pytest.mark.parametrize("combine", ["sum", "prod"])
def test_a_level_that_says_nothing_about_place_has_no_share(combine):
    detector = combining(lambda levels, size: getattr(torch.stack(levels), combine)(dim=0))
    flat, peak = torch.ones(1, 1, 8, 8), torch.ones(1, 1, 8, 8)
    peak[0, 0, 2, 3] = 5
    assert level_shares(detector, [flat, peak], (8, 8)) == [0, 1]
    assert level_shares(detector, [peak, peak], (8, 8)) == pytest.approx([0.5, 0.5])
    assert level_shares(detector, [flat, flat], (8, 8)) == [0, 0]


def test_a_level_that_the_map_vanishes_without_is_not_all_there_is():
    """MixedTeacher's published fusion is zero where the context map is constant; every pair of levels counts."""
    detector = combining(lambda levels, size: (levels[0] + levels[1]) * (levels[2] - levels[2].min()))
    levels = [torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    for level in levels:
        level[0, 0, 2, 3] = 5
    shares = level_shares(detector, levels, (8, 8))
    assert sum(shares) == pytest.approx(1) and shares[0] > 0.05 and shares[1] > 0.05 and shares[2] > 0.5


# ---- pages ---------------------------------------------------------------------------------------------------


def view(marked=True, aspect=1.0, title="screw · hole / 003", models=("teacher", "teacher", "teacher"), normal=None):
    """An image of 64 x 64 pixels, its highest value at row 50, column 9, and levels of 16, 8 and 4 positions."""
    random = torch.Generator().manual_seed(0)
    mask, final, levels = np.zeros((64, 64), bool), np.zeros((64, 64), np.float32), []
    mask[10:30, 40:60] = marked
    final[50, 9] = 2
    for k, model in enumerate(models):
        teacher, student = (torch.rand(6, 16 >> k, 16 >> k, generator=random) for _ in range(2))
        importance = torch.linspace(0, 1, 6) / 3
        levels.append(LevelView(model, teacher, student, (teacher - student).square().sum(0), importance, 1 / 3))
    return ImageView(title, "st · resnet18", aspect, np.full((64, 64, 3), 90, np.uint8), mask, final, normal, levels)


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """drawn(draw_level, view, ...) -> the figure, which was written to a file that can be opened."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **how: (figures.append(self), save(self, *args, **how)))

    def make(draw, *args):
        draw(tmp_path / "page.png", *args)
        with Image.open(tmp_path / "page.png") as page:
            assert page.width > 500
        return figures[-1]

    return make


def titles(figure):
    return [axis.get_title().replace("\n", " ") for axis in figure.axes if axis.get_title()]


def bars(figure):
    return [axis for axis in figure.axes if axis.get_label() == "<colorbar>"]


def test_an_overview_has_a_title_on_every_panel_and_a_bar_beside_every_map(drawn):
    figure = drawn(draw_overview, view())
    shares = [f"level {k} 33 % of the score" for k in (1, 2, 3)]
    assert titles(figure) == ["image", "marked defect", *shares, "anomaly map (ring: highest value)"]
    assert len(bars(figure)) == 4
    assert "screw · hole / 003" in figure.get_suptitle() and "score 2" in figure.get_suptitle()


def test_an_overview_of_an_unmarked_image_does_not_show_it_twice(drawn):
    assert "marked defect" not in titles(drawn(draw_overview, view(marked=False)))
    assert titles(drawn(draw_level, view(marked=False), 0, 2))[0] == "image"
    assert titles(drawn(draw_level, view(), 0, 2))[0] == "marked defect"


def test_an_overview_says_who_is_compared_where_it_is_not_the_teacher(drawn):
    """EfficientAD also compares its student with the autoencoder."""
    figure = drawn(draw_overview, view(models=("teacher", "autoencoder")))
    assert titles(figure)[2:4] == ["level 1 33 % of the score", "level 2 (autoencoder and student) 33 % of the score"]


def test_an_overview_explains_the_colours_of_its_map(drawn):
    normal = {"source": HELD_OUT, "scores": [1.0, 1.5, 3.0]}
    figure = drawn(draw_overview, view(normal=normal))
    assert "above 2 of 3 held-out good images" in figure.get_suptitle()
    assert "the scores of 3 held-out good images" in figure.get_supxlabel()
    assert [label.get_text() for label in bars(figure)[-1].get_yticklabels()][-3:] == ["2 x", "10 x", "100 x"]
    assert "the values of this map" in drawn(draw_overview, view()).get_supxlabel()


def test_the_ring_is_around_the_highest_value(drawn):
    figure = drawn(draw_overview, view())
    (ring,) = next(axis for axis in figure.axes if "ring" in axis.get_title()).lines
    assert [ring.get_xdata()[0], ring.get_ydata()[0]] == pytest.approx([9.5 / 64, 50.5 / 64])


@pytest.mark.parametrize("aspect", [0.125, 1.0, 8.0])
@pytest.mark.parametrize("page", ["overview", "level"])
def test_panels_have_the_shape_of_the_original(page, aspect, drawn):
    shaped = view(aspect=aspect)
    figure = drawn(draw_overview, shaped) if page == "overview" else drawn(draw_level, shaped, 1, 3)
    panels = [axis for axis in figure.axes if axis not in bars(figure)]
    assert len(panels) == (6 if page == "overview" else 2 + 3 * 3)
    for axis in panels:
        box = axis.get_window_extent()
        assert box.width / box.height == pytest.approx(aspect, rel=0.02)
        assert box.width > 20 and box.height > 20


def test_wide_images_stand_below_each_other(drawn):
    wide, square = (drawn(draw_overview, view(aspect=aspect)) for aspect in (3.0, 1.0))
    assert wide.get_figheight() > wide.get_figwidth() and square.get_figwidth() > square.get_figheight()


def test_a_level_page_shows_the_most_important_channels_and_a_bar_for_each_scale(drawn):
    figure = drawn(draw_level, view(), 1, 4)
    channels = ["channel 5 33.3 %", "channel 4 26.7 %", "channel 3 20.0 %", "channel 2 13.3 %"]
    assert titles(figure) == ["marked defect", "distance 33 % of the score", *channels]
    assert len(bars(figure)) == 2
    assert [axis.get_ylabel() for axis in figure.axes if axis.get_ylabel()] == [
        "teacher",
        "student",
        "squared difference",
    ]
    assert "level 2: 6 channels of 8 x 8" in figure.get_suptitle()


def test_a_page_of_more_channels_than_there_are_shows_all(drawn):
    assert sum("channel" in title for title in titles(drawn(draw_level, view(), 0, 16))) == 6


def test_maps_of_zeros_can_be_drawn(drawn):
    """A student that copies its teacher."""
    empty = view()
    zero = torch.zeros(6, 4, 4)
    levels = [LevelView("teacher", zero, zero, zero.sum(0), zero[:, 0, 0], 0.0)]
    empty = empty._replace(levels=levels, final=np.zeros((64, 64), np.float32))
    assert any(title.startswith("anomaly map") for title in titles(drawn(draw_overview, empty)))
    assert "distance 0 % of the score" in titles(drawn(draw_level, empty, 0, 2))


NAMES = ["缺陷 · 零件", "خلل", "two\nlines, raw \udcff", "$x^2$ · $\\frac{$"]


@pytest.mark.parametrize("name", NAMES, ids=["chinese", "arabic", "bytes", "formula"])
def test_pages_of_any_name_are_drawn_without_a_warning(name, drawn):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for figure in (drawn(draw_overview, view(title=name)), drawn(draw_level, view(title=name), 0, 2)):
            shown = figure.get_suptitle().splitlines()
            assert len(shown) == 3 and "st · resnet18" in shown[1]
            assert shown[0] == name.replace("\n", "?").replace("\udcff", "?")


def test_a_long_name_is_not_wider_than_its_page(drawn):
    figure = drawn(draw_level, view(title="long_" * 60), 0, 2)
    head, tail = figure.get_suptitle().splitlines()[0].split("…")
    assert head.startswith("long_") and tail.endswith("long_")
    box = figure._suptitle.get_window_extent()
    assert 0 <= box.x0 and box.x1 <= figure.bbox.width
