"""Formula pictures that are drawn once and kept."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pretraining import memory
from pretraining.formula import FormulaImages, store
from pretraining.formula.store import rendered
from utils.errors import UserError


@pytest.mark.slow
def test_drawn_pictures_are_the_streams(tmp_path):
    images = FormulaImages(32, 5, 4)
    pictures = rendered(images, 300, tmp_path / "p.npy")  # more than one process draws
    assert pictures.shape == (300, 32, 32, 3)
    for index in (0, 255, 256, 299):
        assert np.array_equal(pictures[index], images[index])
    assert not np.load(tmp_path / "p.npy", mmap_mode="r").flags.writeable


def test_two_processes_want_the_same_pictures(tmp_path, monkeypatch):
    """The second one waits; otherwise it would empty the file that the first one is filling."""
    images, drawn = FormulaImages(32, 5), []
    draw = store._render
    monkeypatch.setattr(store, "_render", lambda *given: drawn.append(time.sleep(0.2)) or draw(*given))
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda _: rendered(images, 3, tmp_path / "p.npy"), range(2))
    assert len(drawn) == 1 and np.array_equal(one, other)


def test_a_full_disk_is_said_before_drawing(tmp_path):
    with pytest.raises(UserError, match="p.npy: needs [0-9.,]+ GB, [0-9.]+ GB are free there"):
        rendered(FormulaImages(32, 5), 2**45, tmp_path / "p.npy")
    assert not (tmp_path / "p.npy").exists()


def test_drawing_pictures_too_large_for_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "total_memory", lambda device: 16 * 10**9)
    with pytest.raises(UserError, match="drawing pictures of 32768 px .* lower img_size"):
        rendered(FormulaImages(32768, 5), 1, tmp_path / "p.npy")
    assert not (tmp_path / "p.npy").exists()
