"""The demo data set: its layout, its sameness from run to run, its masks, and what is refused."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from datasets import demo
from utils.errors import UserError

REPO = Path(__file__).resolve().parents[1]
DEFECTS = [(category, kind) for category, scenes in demo.CATEGORIES.items() for kind in scenes.DEFECTS]
SMALL = {"size": 32, "train": 2, "good": 1, "per_defect": 1}


def contents(root):
    """Path below root -> bytes, of every file there, hidden ones too."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_layout_and_counts(tmp_path):
    demo.render(tmp_path, size=32, train=2, good=1, per_defect=1)
    expected = set()
    for category, scenes in demo.CATEGORIES.items():
        expected |= {f"{category}/train/good/000.png", f"{category}/train/good/001.png"}
        expected |= {f"{category}/test/good/000.png"}
        for kind in scenes.DEFECTS:
            expected |= {f"{category}/test/{kind}/000.png", f"{category}/ground_truth/{kind}/000_mask.png"}
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


@pytest.mark.parametrize("category, kind", DEFECTS)
@pytest.mark.parametrize("size", [32, 96])
def test_mask_on_disk_fits_its_picture(category, kind, size, tmp_path):
    demo.render(tmp_path, [category], size=size, train=0, good=0, per_defect=1)
    image = cv2.imread(str(tmp_path / category / "test" / kind / "000.png"), cv2.IMREAD_UNCHANGED)
    mask = cv2.imread(str(tmp_path / category / "ground_truth" / kind / "000_mask.png"), cv2.IMREAD_UNCHANGED)
    assert image.shape == (size, size, 3) and mask.shape == (size, size)
    assert set(np.unique(mask)) == {0, 255}


@pytest.mark.parametrize("category, kind", DEFECTS)
def test_mask_is_where_the_defect_changed_the_picture(category, kind):
    for index in range(3):
        image, clean, mask = demo.picture(category, "test", kind, index, size=160)
        changed = (image != clean).any(axis=-1)
        assert not changed[~mask].any()
        assert changed[mask].mean() > 0.8
        assert 0 < mask.mean() < 0.12


@pytest.mark.parametrize("category, kind", DEFECTS)
def test_same_scene_at_another_size(category, kind):
    small, _, small_mask = demo.picture(category, "test", kind, 1, size=32)
    large, _, large_mask = demo.picture(category, "test", kind, 1, size=96)
    shrunk = cv2.resize(large, (32, 32), interpolation=cv2.INTER_AREA)
    assert np.abs(cv2.blur(small, (5, 5)).astype(int) - cv2.blur(shrunk, (5, 5))).mean() < 3
    middles = [np.argwhere(mask).mean(axis=0) / len(mask) for mask in (small_mask, large_mask)]
    np.testing.assert_allclose(*middles, atol=0.03)


def test_existing_category_is_refused_and_untouched(tmp_path):
    (tmp_path / "washer").mkdir()
    (tmp_path / "washer" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="washer exists already"):
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
    assert list(tmp_path.iterdir()) == []


def test_root_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "root").write_text("mine")
    with pytest.raises(UserError, match="root"):
        demo.render(tmp_path / "root", **SMALL)


def command(tmp_path, *arguments):
    line = [sys.executable, REPO / "makeDemo.py", *arguments]
    return subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)


def test_command_draws(tmp_path):
    counts = ["--size", "32", "--train", "1", "--good", "0", "--per_defect", "0"]
    result = command(tmp_path, "--categories", "weave", *counts)
    assert result.returncode == 0, result.stderr
    assert set(contents(tmp_path)) == {"demo_data/weave/train/good/000.png"}


@pytest.mark.parametrize(
    "option, value", [("--categories", "bottle"), ("--size", "31"), ("--train", "-1"), ("--seed", "-1")]
)
def test_command_refuses_in_one_sentence(option, value, tmp_path):
    result = command(tmp_path, option, value)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert value in result.stderr
    assert list(tmp_path.iterdir()) == []
