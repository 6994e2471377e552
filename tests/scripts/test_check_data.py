"""checkData.py: what it says, what it writes, and its exit code."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

import checkData
import trainNet
from engine import cross, run
from tests.conftest import PLACE, write_image
from tests.datasets.doctor.pictures import part
from tests.scripts.conftest import CONFIG

FILES = {"report.txt", "report.json", "pictures.csv", "copies.csv", "shortcuts.png"}


def write_data(root, train=16):
    """Good parts, and bad ones with a small mark and its mask."""
    for k in range(train):
        write_image(root / f"train/good/{k:02}.png", part(k))
    for k in range(3):
        image, mask = part(100 + k), np.zeros((160, 160), np.uint8)
        image[20:26, 20:26], mask[20:26, 20:26] = 200, 255
        write_image(root / f"test/good/{k}.png", part(200 + k))
        write_image(root / f"test/mark/{k}.png", image)
        write_image(root / f"ground_truth/mark/{k}_mask.png", mask)


def spoil(root):
    (root / "train/good/03.png").write_bytes(b"rubbish")
    (root / "test/mark/1.png").write_bytes(b"")
    shutil.copy(root / "train/good/05.png", root / "test/good/copied.png")
    Image.open(root / "train/good/06.png").save(root / "test/good/resaved.jpg", quality=70)
    write_image(root / "ground_truth/mark/gone_mask.png", np.zeros((160, 160), np.uint8))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with two categories, and a config.yaml of one."""
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path / "data/right")
    write_data(tmp_path / "data/wrong")
    spoil(tmp_path / "data/wrong")
    (tmp_path / "config.yaml").write_text(CONFIG.replace("obj: part", "obj: right").format(**PLACE))
    return tmp_path


def test_of_a_right_set_nothing_is_found(here, call):
    said = call(checkData)
    assert said.code == 0 and "nothing found" in said.out
    assert "train  good  16" in said.out and "test   mark  3         0           3" in said.out
    assert "python3 trainNet.py obj=right calibration=cross run=cross" in said.out
    assert {path.name for path in (here / "results/check/right").iterdir()} == FILES


def test_too_few_pictures_to_train_on_are_a_finding(here, call):
    for path in (here / "data/right/train/good").glob("*.png"):
        if path.name != "05.png":
            path.unlink()
    said = call(checkData)
    assert said.code == 3 and "folders: " in said.out and "leave none to train on; add images" in said.out


def test_everything_wrong_is_found_at_once(here, call):
    said = call(checkData, "obj=wrong", "save_path=out")
    folder = here / "out/check/wrong"
    assert said.code == 3 and "Traceback" not in said.err
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    found = {finding["sentence"]: finding["files"] for finding in report["findings"]}
    unreadable = found.pop("2 pictures cannot be read")
    assert "train/good/03.png" in unreadable[0] and "test/mark/1.png" in unreadable[1]
    assert found.pop("near copies in train/good and in test: 1 test picture, 0 of them defective")[0].startswith(
        "train/good/06.png ~ test/good/resaved.jpg"
    )
    assert found == {
        "1 mask without a picture": ["ground_truth/mark/gone_mask.png"],
        "the same pixels in train/good and in test: 1 test picture, 0 of them defective": [
            "train/good/05.png = test/good/copied.png"
        ],
    }
    assert "4 findings" in said.out and said.out.strip().splitlines()[0].endswith("24 pictures")
    assert (folder / "report.txt").read_text(encoding="utf-8").strip() in said.out
    with (folder / "pictures.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    assert len(rows) == 24 and "the file is empty" in rows["test/mark/1.png"]["error"]
    assert float(rows["test/mark/0.png"]["mask_share"]) == pytest.approx(36 / 160**2)
    with Image.open(folder / "copies.png") as page:
        assert page.width == 1200


@pytest.mark.parametrize(
    ("second", "sizes", "advice"),
    [
        ((125, 50), "50 x 125", "50 pixels wide and 125 high, and are squeezed to 64 x 64 (height x width); "),
        ((50, 125), "125 x 50 to 50 x 125", "different shapes"),
    ],
)
def test_shapes_that_a_training_would_change_are_no_fault(here, call, second, sizes, advice):
    shutil.rmtree(here / "data")
    for k, (height, width) in enumerate([(125, 50), second]):
        pixels = np.random.default_rng(k).integers(0, 256, (height, width, 3), dtype=np.uint8)
        write_image(here / f"data/right/train/good/{k}.png", pixels)
    said = call(checkData)
    assert said.code == 0 and "nothing found" in said.out and advice in said.out
    assert f"  {sizes}  " in said.out


def test_several_categories_are_checked_one_after_the_other(here, call):
    said = call(checkData, "obj=all")
    assert said.code == 3 and "nothing found" in said.out and "4 findings" in said.out
    assert {path.name for path in (here / "results/check").iterdir()} == {"right", "wrong"}
    assert call(checkData, "obj=[right]").code == 0
    said = call(checkData, "obj=right+wrong", "unified=[right,wrong]")  # as a run's own file says
    assert said.code == 3 and "nothing found" in said.out and "4 findings" in said.out
    said = call(checkData, "obj=[right]", "unified=true")  # as it will be trained
    assert said.code == 0 and "python3 trainNet.py obj=right calibration=cross run=cross" in said.out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["obj=nowhere"], "has no category 'nowhere'"),
        (["obj=[]"], "obj: the list is empty"),
        (["obj=[[part]]"], "obj: ['part'] is not the name of a category"),
        (["data_path=nowhere"], "there is no folder nowhere"),
        (["colour=red"], "colour"),
        (["save_path=config.yaml"], "save_path"),
        (["part_pattern=("], "part_pattern"),
    ],
)
def test_a_mistake_is_one_sentence(here, call, words, expected):
    said = call(checkData, *words)
    assert said.code == 2 and said.last.startswith("error: ") and expected in said.last


def test_copies_of_one_part_are_no_finding_if_part_pattern_says_so(here, call):
    for k in range(4):
        image = Image.open(here / f"data/right/train/good/{k:02}.png")
        image.save(here / f"data/right/train/good/{k:02}_again.jpg", quality=70)
    said = call(checkData)
    assert said.code == 3 and "near copies in train/good: 8 pictures in 4 groups" in said.out
    assert call(checkData, "part_pattern=^[0-9]+").code == 0


@pytest.mark.slow
def test_what_is_strange_to_a_student_that_did_not_see_it_is_an_outlier(here, call, monkeypatch):
    """Two folds, and a part with a large mark among 24 good ones."""
    for module in (cross, run):
        monkeypatch.setattr(module, "FOLDS", 2)
    write_data(here / "data/right", 24)
    image = part(7)
    image[40:120, 40:120] = np.random.default_rng(0).integers(0, 256, (80, 80, 1))
    write_image(here / "data/right/train/good/07.png", image)
    words = ("weights=bundled", "TrainingData.epochs=8", "TrainingData.lr=0.4")
    assert call(trainNet, "calibration=cross", "run=cross", *words).code == 0
    said = call(checkData)
    assert "train/good was scored by the students of results/st/right-cross" in said.out
    assert said.code == 3 and "outliers: 1 of 24 pictures" in said.out and "train/good/07.png" in said.out
    assert (here / "results/check/right/outliers.png").exists()
    write_image(here / "data/right/train/good/07.png", part(7))
    assert "the pictures in train/good have changed since that run" in call(checkData).out
    assert call(trainNet, "calibration=0.2", "run=cross", "overwrite=true", *words).code == 0
    said = call(checkData)  # the folds of the run that was replaced are still there
    assert said.code == 0 and "calibration=cross run=cross" in said.out
