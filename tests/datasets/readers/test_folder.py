"""Any folders: paths and patterns, which images are tested, masks, and mistakes."""

import numpy as np
import pytest

from datasets import readers
from tests.conftest import draw_good, write_image
from tests.datasets.readers import trees
from tests.datasets.readers.trees import bad, config_of, good
from utils.config import FolderData
from utils.errors import UserError


def config(root, obj="line", **keys):
    return config_of(root, obj, reader="folder", folder=keys)


def stems(samples):
    return [sample.stem for sample in samples]


def test_one_path_may_be_given_without_a_list():
    assert FolderData.model_validate({"good": "ok"}).good == ["ok"]


def test_only_good_images_make_no_test_set(tmp_path):
    good(*(tmp_path / f"ok/{k}.png" for k in range(5)))
    assert stems(readers.train_samples(config(tmp_path, good=["ok"]))) == list("01234")
    assert readers.test_samples(config(tmp_path, good=["ok"])) == []


def test_every_fifth_good_part_is_tested_if_there_are_only_defective_images_for_it(tmp_path):
    good(*(tmp_path / f"ok/{k:02}.png" for k in range(12)))
    bad(tmp_path / "ng/0.png", None)
    paths = config(tmp_path, good=["ok"], bad=["ng"])
    train, test = readers.train_samples(paths), readers.test_samples(paths)
    assert [sample.name for sample in test] == ["good/04", "good/09", "ng/0"] and len(train) == 10
    pairs = paths.model_copy(update={"part_pattern": r"^(\d)"})  # 00 to 09 show one part, 10 and 11 another
    assert len(readers.train_samples(pairs)) == 12 and stems(readers.test_samples(pairs)) == ["0"]


def test_paths_begin_in_the_category_if_it_has_a_folder(tmp_path):
    good(tmp_path / "line/ok/0.png", tmp_path / "ok/1.png")
    assert stems(readers.train_samples(config(tmp_path, "line", good=["ok"]))) == ["0"]
    assert stems(readers.train_samples(config(tmp_path, "any name", good=["ok"]))) == ["1"]
    elsewhere = str(tmp_path / "ok")
    assert stems(readers.train_samples(config(tmp_path, "line", good=[elsewhere]))) == ["1"]


def test_patterns_and_subfolders(tmp_path):
    root = tmp_path / "data [1]"  # not a pattern
    good(root / "2024-1/ok/0.png", root / "2024-2/ok/deep/1.jpg", root / "2025-1/ok/2.png")
    assert stems(readers.train_samples(config(root, good=["2024-*/ok"]))) == ["0", "1"]
    assert stems(readers.train_samples(config(root, good=["*/ok/*.png"]))) == ["0", "2"]
    assert stems(readers.train_samples(config(root, good=["**/*.jpg"]))) == ["1"]
    assert stems(readers.train_samples(config(root, good=["2024-1", "2025-1"]))) == ["0", "2"]


def test_defective_images_and_masks_inside_the_folder_of_good_ones_do_not_train(tmp_path):
    good(*(tmp_path / f"all/{k}.png" for k in range(5)))
    bad(tmp_path / "all/ng/7.png", tmp_path / "all/ng/marks/7_mask.png")
    paths = config(tmp_path, good=["all"], bad=["all/ng"], masks=["all/ng/marks"])
    assert stems(readers.train_samples(paths)) == list("0123")  # 4 is tested
    (defect,) = (sample for sample in readers.test_samples(paths) if sample.defect_type != "good")
    assert (defect.name, defect.mask) == ("ng/7", tmp_path / "all/ng/marks/7_mask.png")


def test_however_paths_are_spelled_defective_images_and_masks_do_not_train(tmp_path, monkeypatch):
    good(*(tmp_path / f"all/{k}.png" for k in range(5)))
    bad(tmp_path / "all/ng/7.png", tmp_path / "all/marks/7_mask.png")
    (tmp_path / "link").symlink_to(tmp_path / "all/ng")
    monkeypatch.chdir(tmp_path)
    for spelled in (str(tmp_path / "all"), "ng/../all"):
        (tmp_path / "ng").mkdir(exist_ok=True)
        paths = config("../" + tmp_path.name, good=[spelled], bad=["link"], masks=["all/marks"])
        assert stems(readers.train_samples(paths)) == list("0123")  # 4 is tested


def test_images_of_the_same_name_and_type_are_named_after_all_of_their_path(tmp_path):
    good(*(tmp_path / f"ok/{k}.png" for k in range(3)), tmp_path / "more/ok/a/9.png", tmp_path / "more/ok/b/9.png")
    samples = readers.test_samples(config(tmp_path, good=["ok"], test_good=["more"]))
    assert [sample.name for sample in samples] == ["good/more_ok_a_9", "good/more_ok_b_9"]


def test_masks_are_matched_by_folder_and_name_or_by_name(tmp_path):
    trees.folder(tmp_path)
    masks = {sample.defect_type: sample.mask for sample in readers.test_samples(on_line(tmp_path)) if sample.mask}
    assert {kind: mask.parent.name for kind, mask in masks.items()} == {"dent": "dent", "scratch": "scratch"}
    (tmp_path / "line 1/masks/dent").rename(tmp_path / "line 1/masks/marked by hand")
    one = on_line(tmp_path, bad=["rejected/dent"], masks=["masks/marked by hand"])
    assert readers.test_samples(one)[-1].mask == tmp_path / "line 1/masks/marked by hand/0_mask.png"


def on_line(root, **keys):
    given = {"good": ["ok"], "test_good": ["known good"], "bad": ["rejected/*"], "masks": ["masks"]} | keys
    return config(root, "line 1", **given)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"good": []}, "folder.good: say which folder has the good images"),
        ({"good": ["ok*"]}, None),
        ({"good": ["gone"]}, "folder.good: there is nothing at .*line 1/gone"),
        ({"good": ["rejected"]}, "folder.good: no images to train on in rejected"),
        ({"bad": ["*.gif"]}, r"folder.bad: there is nothing at .*\*.gif"),
        ({"bad": ["rejected/dent"]}, "folder.masks: there is no defective image 0 for .*scratch/0_mask.png"),
        ({"masks": ["masks/dent"]}, r"this image has no mask \(1 of 2 defective"),
        ({"bad": ["named/good"], "masks": []}, "folder.bad: .*good/0.png is in a folder named 'good'"),
    ],
)
def test_mistakes_name_the_key(tmp_path, keys, words):
    trees.folder(tmp_path)
    write_image(tmp_path / "line 1/named/good/0.png", draw_good(np.random.default_rng(0)))
    if words is None:
        assert readers.train_samples(on_line(tmp_path, **keys))
        return
    with pytest.raises(UserError, match=words):
        readers.train_samples(on_line(tmp_path, **keys))
        readers.test_samples(on_line(tmp_path, **keys))


def test_two_masks_and_masks_of_several_images_are_named(tmp_path):
    trees.folder(tmp_path)
    write_image(tmp_path / "line 1/more/0.png", trees.EMPTY)
    with pytest.raises(UserError, match="folder.masks: there is more than one defective image 0 for .*more/0.png"):
        readers.test_samples(on_line(tmp_path, masks=["more"]))
    write_image(tmp_path / "line 1/masks/dent/0.png", trees.EMPTY)
    with pytest.raises(UserError, match="folder.masks: .* is a second mask of .*0.png"):
        readers.test_samples(on_line(tmp_path))
