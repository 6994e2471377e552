"""The demo data set: its layout, the same in every run, its masks, and what is refused."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from datasets import demo
from tests.conftest import REPO, assert_one_sentence, run_script
from utils.config import CommonData, RunConfig
from utils.errors import UserError

DEFECTS = [(category, name) for category, scenes in demo.CATEGORIES.items() for name in scenes.DEFECTS]
SMALL = {"size": 32, "train": 2, "good": 1, "per_defect": 1}


def contents(root):
    """Path below root -> bytes, for every file except the lock."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file() and p.name != ".lock"}


def config_of(data_path="demo_data", obj="washer"):
    data = CommonData(batch_size=1, lr=0.1)
    return RunConfig[CommonData](data_path=data_path, obj=obj, distillType="st", backbone="resnet18", TrainingData=data)


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """The categories drawn so far; ensure_demo draws small sets into the new current folder, slowly."""
    monkeypatch.chdir(tmp_path)
    draw, so_far = demo._draw, []

    def draw_small(root, categories, **numbers):
        so_far.extend(categories)
        time.sleep(0.3)
        draw(root, categories, **SMALL, seed=0)

    monkeypatch.setattr(demo, "_draw", draw_small)
    return so_far


def test_layout_and_counts(tmp_path):
    demo.render(tmp_path, size=32, train=2, good=1, per_defect=1)
    expected = set()
    for category, scenes in demo.CATEGORIES.items():
        expected |= {f"{category}/train/good/000.png", f"{category}/train/good/001.png"}
        expected |= {f"{category}/test/good/000.png"}
        for defect_type in scenes.DEFECTS:
            expected |= {
                f"{category}/test/{defect_type}/000.png",
                f"{category}/ground_truth/{defect_type}/000_mask.png",
            }
    assert set(contents(tmp_path)) == expected


def test_same_bytes_again_and_more_pictures_keep_the_first(tmp_path):
    demo.render(tmp_path / "a", **SMALL)
    demo.render(tmp_path / "b", size=32, train=3, good=2, per_defect=2)
    first, second = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert len(set(first.values())) == len(first) < len(second)
    assert first == {name: second[name] for name in first}


def test_another_seed_draws_other_pictures():
    pictures = [demo.picture("washer", "test", "good", 0, size=32, seed=seed)[0] for seed in (0, 1)]
    assert not np.array_equal(*pictures)


@pytest.mark.parametrize("category, defect_type", DEFECTS)
@pytest.mark.parametrize("size", [32, 96])
def test_mask_on_disk_fits_its_picture(category, defect_type, size, tmp_path):
    demo.render(tmp_path, [category], size=size, train=0, good=0, per_defect=1)
    image = cv2.imread(str(tmp_path / category / "test" / defect_type / "000.png"), cv2.IMREAD_UNCHANGED)
    mask = cv2.imread(str(tmp_path / category / "ground_truth" / defect_type / "000_mask.png"), cv2.IMREAD_UNCHANGED)
    assert image.shape == (size, size, 3) and mask.shape == (size, size)
    assert set(np.unique(mask)) == {0, 255}


@pytest.mark.parametrize("category, defect_type", DEFECTS)
def test_mask_is_where_the_defect_changed_the_picture(category, defect_type):
    for index in range(3):
        image, clean, mask = demo.picture(category, "test", defect_type, index, size=160)
        changed = (image != clean).any(axis=-1)
        assert not changed[~mask].any()
        assert changed[mask].mean() > 0.8
        assert 0 < mask.mean() < 0.12


@pytest.mark.parametrize("category, defect_type", DEFECTS)
def test_same_scene_at_another_size(category, defect_type):
    small, _, small_mask = demo.picture(category, "test", defect_type, 1, size=32)
    large, _, large_mask = demo.picture(category, "test", defect_type, 1, size=96)
    shrunk = cv2.resize(large, (32, 32), interpolation=cv2.INTER_AREA)
    assert np.abs(cv2.blur(small, (5, 5)).astype(int) - cv2.blur(shrunk, (5, 5))).mean() < 3
    middles = [np.argwhere(mask).mean(axis=0) / len(mask) for mask in (small_mask, large_mask)]
    np.testing.assert_allclose(*middles, atol=0.03)


# ---- the first use of the toolkit ------------------------------------------------------------------------------


def test_a_first_run_draws_the_category_it_asks_for(drawn, tmp_path):
    demo.ensure_demo(config_of())
    assert drawn == ["washer"] and (tmp_path / "demo_data/washer/train/good/000.png").exists()
    demo.ensure_demo(config_of())
    assert drawn == ["washer"]


@pytest.mark.parametrize(("data_path", "obj"), [("my_data", "washer"), ("demo_data", "bottle")])
def test_nothing_is_drawn_for_other_data(drawn, tmp_path, data_path, obj):
    demo.ensure_demo(config_of(data_path, obj))
    assert drawn == [] and list(tmp_path.iterdir()) == []


def test_of_two_first_runs_at_once_one_draws_and_the_other_waits_and_says_so(drawn, tmp_path, capsys):
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(demo.ensure_demo, config_of()) for _ in range(2)]:
            done.result()
    assert drawn == ["washer"]
    assert sorted(path.name for path in (tmp_path / "demo_data").iterdir()) == [".lock", "washer"]
    assert "waiting for it" in capsys.readouterr().err


def test_what_a_killed_process_left_is_cleared(drawn, tmp_path):
    left = tmp_path / "demo_data/.drawing-x1y2/washer/train/good"
    left.mkdir(parents=True)
    (left / "000.png").write_bytes(b"half")
    demo.ensure_demo(config_of())
    assert sorted(path.name for path in (tmp_path / "demo_data").iterdir()) == [".lock", "washer"]


def test_a_drawing_that_another_process_is_at_is_left_alone(drawn, tmp_path):
    with ThreadPoolExecutor(1) as pool:
        drawing = pool.submit(demo.ensure_demo, config_of())
        while not drawn:
            time.sleep(0.01)
        with pytest.raises(UserError, match="washer already exists"):
            demo.render("demo_data", ["washer"], **SMALL)
        drawing.result()
    assert contents(tmp_path / "demo_data/washer")


def test_a_folder_without_write_permission_is_a_sentence(drawn, tmp_path, monkeypatch):
    """The refusal is simulated, because root may write everywhere."""
    (tmp_path / "demo_data").mkdir()
    opened = os.open

    def guarded(path, *how, **also):
        if str(path).endswith(".lock"):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *how, **also)

    monkeypatch.setattr(os, "open", guarded)
    with pytest.raises(UserError, match="cannot write .*demo_data.*: Permission denied"):
        demo.ensure_demo(config_of())


def test_a_demo_that_is_there_is_used_where_nothing_can_be_written(drawn, tmp_path, monkeypatch):
    (tmp_path / "demo_data/washer").mkdir(parents=True)
    monkeypatch.setattr(demo, "FileLock", lambda path: pytest.fail("nothing is to be written"))
    demo.ensure_demo(config_of())
    assert drawn == []


# ---- what is refused -------------------------------------------------------------------------------------------


def test_existing_category_is_refused_and_untouched(tmp_path):
    (tmp_path / "washer").mkdir()
    (tmp_path / "washer" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="washer already exists"):
        demo.render(tmp_path, **SMALL)
    assert contents(tmp_path) == {"washer/mine.txt": b"mine"}


def test_failure_midway_leaves_nothing(tmp_path, monkeypatch):
    save, saved = demo.save, []

    def fill_the_disk(path, image):
        saved.append(path)
        if len(saved) > 4:
            raise OSError(28, "No space left on device", str(path))
        save(path, image)

    monkeypatch.setattr(demo, "save", fill_the_disk)
    with pytest.raises(UserError, match="No space left"):
        demo.render(tmp_path, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_root_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "root").write_text("mine")
    with pytest.raises(UserError, match="root"):
        demo.render(tmp_path / "root", **SMALL)


def test_command_draws(tmp_path):
    counts = ["--size", 32, "--train", 1, "--good", 0, "--per_defect", 0]
    result = run_script(REPO / "makeDemo.py", "--categories", "weave", *counts, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert set(contents(tmp_path)) == {"demo_data/weave/train/good/000.png"}


@pytest.mark.parametrize(
    ("option", "value"),
    [("--categories", "bottle"), ("--size", 31), ("--size", 1_000_000), ("--train", -1), ("--seed", -1)],
)
def test_command_refuses_in_one_sentence(option, value, tmp_path):
    result = run_script(REPO / "makeDemo.py", option, value, cwd=tmp_path)
    assert_one_sentence(result, value)
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
