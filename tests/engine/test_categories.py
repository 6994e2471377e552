"""Which categories and runs a configuration asks for."""

from pathlib import Path

import pytest

from engine.categories import categories, runs_of
from trainer import read_run
from utils.errors import UserError


def test_the_runs_of_a_configuration_take_all_its_words(tiny_mvtec):
    words = ["distillType=st", "backbone=resnet18", "run=7", f"data_path={tiny_mvtec}", "unified=true"]
    for obj, names in (("[part, nut]", ["part", "nut"]), ("all", ["part"])):
        ((name, run),) = runs_of({"weights": "random"}, [*words, f"obj={obj}"]).items()
        _, config = read_run(*run)
        assert name is None and (config.run, config.obj, config.unified) == ("7", "+".join(names), names)
    apart = runs_of({"weights": "random"}, [*words[:-1], "obj=[01, nut]"])
    assert [(name, read_run(*run)[1].obj) for name, run in apart.items()] == [("01", "01"), ("nut", "nut")]


def test_all_categories_are_those_with_good_images(tmp_path, tiny_mvtec):
    assert categories(tiny_mvtec, ["all"]) == ["part"] and categories(tmp_path, ["x", "y"]) == ["x", "y"]
    assert categories(Path("demo_data"), "all") == ["weave", "washer"]
    with pytest.raises(UserError, match="data_path: there is no data set in"):
        categories(tmp_path, ["all"])


def test_a_folder_that_is_a_category_itself_has_no_categories_and_says_what_to_write(tiny_mvtec):
    with pytest.raises(UserError, match=r"this is a category itself: write data_path=\S+ obj=part"):
        categories(Path(tiny_mvtec, "part"), "all")
