"""The pages of checkData.py."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from datasets.doctor.copies import Pair
from evaluation import check_pictures
from evaluation.check_pictures import PAIRS, draw_copies, draw_shortcuts, draw_strangers
from evaluation.outliers import Stranger
from tests.datasets.doctor.pictures import part, written


@pytest.fixture
def facts(tmp_path):
    names = ["train/good/0", "train/good/1", "test/good/2", "test/hole/3", "test/hole/4"]
    return [written(tmp_path, f"{name}.png", part(k)) for k, name in enumerate(names)]


@pytest.fixture
def drawn(monkeypatch):
    """The last figure that was saved."""
    kept, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: (kept.append(figure), save(figure, *a, **k)))
    return lambda: kept[-1]


def titles(figure):
    return [axis.get_title() for axis in figure.axes if axis.axison]


def test_copies_across_train_and_test_come_first(tmp_path, facts, drawn):
    pairs = [Pair(0, 1, 0.95, False), Pair(3, 4, 1.0, True), Pair(2, 3, 0.97, False), Pair(1, 2, 1.0, True)]
    draw_copies(tmp_path / "page.png", facts, pairs, tmp_path)
    assert titles(drawn()) == [
        *("train and test", "the same pixels"),
        *("good and defective", "likeness 0.97"),
        *("within train", "likeness 0.95"),
        *("within test", "the same pixels"),
    ]
    assert [axis.get_xlabel() for axis in drawn().axes[:2]] == ["train/good/1.png", "test/good/2.png"]


def test_a_name_is_no_formula(tmp_path, facts, drawn):
    found = [Stranger(tmp_path / "train/good/a_$1_$2.png", 1.0, 9.0)]
    draw_strangers(tmp_path / "page.png", found, 0, tmp_path)
    assert drawn().axes[0].get_xlabel() == "train/good/a_$1_$2.png" and (tmp_path / "page.png").exists()


def test_many_copies_make_no_long_page(tmp_path, facts, drawn):
    many = [*facts, *(facts[0]._replace(digest=bytes([k])) for k in range(20))]
    draw_copies(tmp_path / "page.png", many, [Pair(0, 5 + k, 0.95, False) for k in range(20)], tmp_path)
    assert len(titles(drawn())) == 2 * PAIRS


def test_outliers_are_marked_and_a_lost_file_is_said(tmp_path, facts, drawn):
    found = [Stranger(each.picture.path, 1.0, 9.0 - k) for k, each in enumerate(facts[:2])]
    found.append(Stranger(tmp_path / "train/good/gone.png", 1.0, 0.5))
    draw_strangers(tmp_path / "page.png", found, 1, tmp_path)
    assert titles(drawn()) == ["OUTLIER: 9.00 x the median", "8.00 x the median", "the file is gone"]


def test_only_scores_that_differ_are_drawn(tmp_path, facts, drawn):
    draw_shortcuts(tmp_path / "page.png", facts)
    assert titles(drawn()) == ["file size", "brightness", "contrast"]
    assert np.asarray(Image.open(tmp_path / "page.png")).std() > 0


@pytest.mark.filterwarnings("error")
def test_letters_that_no_font_has_are_no_warning(tmp_path):
    fact = written(tmp_path, "train/good/\u90e8\U0001f9e9.png", part(0))
    draw_strangers(tmp_path / "page.png", [Stranger(fact.picture.path, 1.0, 1.0)], 0, tmp_path)
    assert (tmp_path / "page.png").exists()


def test_names_are_shortened_at_their_beginning(tmp_path, drawn, monkeypatch):
    monkeypatch.setattr(check_pictures, "LONGEST", 10)
    fact = written(tmp_path, "train/good/a_long_name.png", part(0))
    draw_strangers(tmp_path / "page.png", [Stranger(fact.picture.path, 1.0, 1.0)], 0, tmp_path)
    assert drawn().axes[0].get_xlabel() == "…_name.png"
