"""Random views of photographs."""

import numpy as np
import pytest

from pretraining.photographs import PhotographViews
from tests.conftest import write_image
from utils.errors import UserError


def test_a_view_depends_on_seed_and_index_only():
    views, again = PhotographViews("scikit-image", 64, 0), PhotographViews("scikit-image", 64, 0)
    assert views[5].shape == (64, 64, 3) and views[5].dtype == np.uint8
    assert (views[5] == again[5]).all()
    assert (views[5] != views[6]).any() and (views[5] != PhotographViews("scikit-image", 64, 1)[5]).any()
    assert np.mean([views[index].std() for index in range(40)]) > 20


def test_views_of_a_folder_show_its_files_only(tmp_path):
    write_image(tmp_path / "a/red.png", np.full((40, 60, 3), (200, 0, 0), np.uint8))
    views = PhotographViews(str(tmp_path), 32, 0)
    assert all(views[index][..., 1:].max() < views[index][..., 0].min() for index in range(20))
    write_image(tmp_path / "b.png", np.zeros((9, 9, 3), np.uint8))
    assert PhotographViews(str(tmp_path), 32, 0).fingerprint() != views.fingerprint()


def test_a_folder_without_photographs_is_an_error(tmp_path):
    with pytest.raises(UserError, match="photographs: there are no images"):
        PhotographViews(str(tmp_path), 32, 0)
