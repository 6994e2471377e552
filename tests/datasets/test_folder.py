"""A folder of any images, as training material without labels."""

import numpy as np
import pytest

from datasets.folder import FolderImages
from tests.conftest import draw_good, write_image
from utils.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """Three images, the second of them in a subfolder."""
    for seed, name in enumerate(("a.png", "b/x.png", "c.png")):
        write_image(tmp_path / name, draw_good(np.random.default_rng(seed), 40))
    return tmp_path


def test_images_come_in_the_order_of_their_paths_and_start_over(folder):
    images = FolderImages("images", str(folder), (32, 48), (16, 24))
    assert [path.relative_to(folder).as_posix() for path in images.paths] == ["a.png", "b/x.png", "c.png"]
    assert images[1].shape == (16, 24, 3) and images[1].dtype == np.uint8
    np.testing.assert_array_equal(images[4], images[1])
    assert not np.array_equal(images[0], images[1])


def test_hidden_folders_are_no_part_of_it(folder):
    before = FolderImages("images", str(folder), (32, 32)).fingerprint()
    write_image(folder / ".ipynb_checkpoints/a-checkpoint.png", draw_good(np.random.default_rng(0), 40))
    assert FolderImages("images", str(folder), (32, 32)).fingerprint() == before
    write_image(folder / "d.png", draw_good(np.random.default_rng(0), 40))
    assert FolderImages("images", str(folder), (32, 32)).fingerprint() != before


def test_a_damaged_file_is_replaced_by_the_next_and_named_once(folder, capsys):
    (folder / "c.png").write_bytes(b"")
    images = FolderImages("images", str(folder), (32, 32))
    for _ in range(2):
        np.testing.assert_array_equal(images[2], images[0])
    assert capsys.readouterr().err.count("c.png") == 1


def test_a_folder_of_damaged_files_is_an_error(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(UserError, match="a.png: cannot be read as an image"):
        FolderImages("images", str(tmp_path), (32, 32))[0]


def test_sixteen_bit_images_become_eight_bits(tmp_path):
    write_image(tmp_path / "deep.png", np.full((8, 8), 51400, np.uint16))
    assert (FolderImages("images", str(tmp_path), (32, 32))[0] == 200).all()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("empty", "images: there are no images"),
        ("nowhere", "images: there is no folder"),
        ("x" * 300, "cannot be read"),
    ],
)
def test_an_unusable_folder_is_named(tmp_path, name, words):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=words):
        FolderImages("images", str(tmp_path / name), (32, 32))


def test_the_home_of_nobody_is_named():
    with pytest.raises(UserError, match="images: ~nobody_of_this_name/x: "):
        FolderImages("images", "~nobody_of_this_name/x", (32, 32))
