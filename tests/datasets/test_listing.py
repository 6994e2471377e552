"""Which files count, and which notes there are about others."""

import errno
import os
from pathlib import Path

import pytest

from datasets.listing import SUFFIXES, contents, is_folder, list_given_images, list_images, list_images_below
from utils.errors import UserError


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def names(paths):
    return [path.name for path in paths]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_case_of_a_suffix_does_not_matter(tmp_path, suffix):
    touch(tmp_path, f"a{suffix}", f"b{suffix.upper()}")
    assert names(list_images(tmp_path)) == [f"a{suffix}", f"b{suffix.upper()}"]


def test_files_that_are_not_pictures_are_left_out_and_said(tmp_path, capsys):
    touch(tmp_path, "b.png", "a.PNG", "notes.txt", "c.gif", ".DS_Store", "Thumbs.db", ".hidden.png")
    assert names(list_images(tmp_path)) == ["a.PNG", "b.png"]
    said = capsys.readouterr().err
    assert "left out 2 file(s)" in said and "c.gif, notes.txt" in said


def test_pictures_in_subfolders_are_left_out_and_said(tmp_path, capsys):
    touch(tmp_path, "a.png", "monday/b.png", "tuesday/c.png", ".ipynb_checkpoints/a-checkpoint.png")
    assert names(list_images(tmp_path)) == ["a.png"]
    said = capsys.readouterr().err
    assert "left out 2 subfolder(s)" in said and "monday, tuesday" in said and "ipynb" not in said


def test_broken_links_are_left_out_and_said(tmp_path, capsys):
    touch(tmp_path, "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    (tmp_path / "c.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "d.png").symlink_to(tmp_path / "d.png")
    assert names(list_images(tmp_path)) == ["a.png", "b.png"]
    assert f"{tmp_path}: left out 2 broken link(s): c.png, d.png" in capsys.readouterr().err


def test_many_left_out_files_are_counted_and_five_named(tmp_path, capsys):
    touch(tmp_path, *(f"{k}.txt" for k in range(9)))
    list_images(tmp_path)
    assert "left out 9" in (said := capsys.readouterr().err) and "4.txt, ..." in said and "5.txt" not in said


def test_nothing_is_said_where_nothing_is_left_out(tmp_path, capsys):
    touch(tmp_path, "a.png", "desktop.ini")
    list_images(tmp_path)
    assert list_images(tmp_path / "nowhere") == []
    assert capsys.readouterr().err == ""


def test_folders_are_told_from_files_and_hidden_ones_left_out(tmp_path):
    touch(tmp_path, "b/x.png", "a/x.png", ".git/x.png", "c.png", "d.txt")
    found = contents(tmp_path)
    assert (names(found.folders), names(found.images), names(found.others)) == (["a", "b"], ["c.png"], ["d.txt"])


def test_images_below_a_folder_come_in_the_order_of_their_paths_and_links_back_end(tmp_path):
    touch(tmp_path, "b/z.png", "b/deep/y.jpg", "a.png", "c.png", ".cache/w.png", "b/.hidden.png")
    (tmp_path / "b/back").symlink_to(tmp_path)
    below = [path.relative_to(tmp_path).as_posix() for path in list_images_below(tmp_path)]
    assert below == ["a.png", "b/deep/y.jpg", "b/z.png", "c.png"]


def test_what_is_not_read_below_a_folder_is_said(tmp_path, capsys):
    """A prediction went on without a word, so a picture was taken for judged."""
    touch(tmp_path / "in", "a.png", "deep/b.heic")
    (tmp_path / "in/today").symlink_to(tmp_path / "in/deep")
    (tmp_path / "in/gone.png").symlink_to("nowhere.png")
    assert names(list_given_images(tmp_path / "in")) == ["a.png"]
    said = capsys.readouterr().err
    assert "left out 1 link(s) to folders (give the folders themselves): today" in said
    assert "left out 1 broken link(s): gone.png" in said and "webp: b.heic" in said


def test_what_earlier_predictions_drew_is_no_image_of_a_folder(tmp_path, capsys):
    touch(
        tmp_path, "a.png", "maps/b.png", "out/maps/a.png.png", "out/masks/a.png.png", "out/predictions.csv", "out/c.png"
    )
    below = [path.relative_to(tmp_path).as_posix() for path in list_images_below(tmp_path)]
    assert below == ["a.png", "maps/b.png", "out/c.png"]
    assert "out: left out 2 folder(s) that earlier predictions drew: maps, masks" in capsys.readouterr().err
    assert len(list_images_below(tmp_path / "out/maps")) == 1


def test_a_folder_without_permission_is_named(tmp_path, monkeypatch):
    """The refusal is simulated, because root may read everything."""
    (tmp_path / "shut").mkdir()
    listdir = os.listdir

    def guarded(folder):
        if Path(folder).name == "shut":
            raise PermissionError(13, "Permission denied", str(folder))
        return listdir(folder)

    monkeypatch.setattr(os, "listdir", guarded)
    for look in (list_images, list_images_below):
        with pytest.raises(UserError, match="shut: the folder cannot be read: Permission denied"):
            look(tmp_path / "shut")
    with pytest.raises(UserError, match="shut"):
        list_images_below(tmp_path)


def test_a_file_behind_a_closed_folder_is_named(tmp_path, monkeypatch):
    touch(tmp_path, "a.png")
    stat = Path.stat

    def guarded(path, **how):
        if path.name == "a.png":
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **how)

    monkeypatch.setattr(Path, "stat", guarded)
    with pytest.raises(UserError, match="a.png: cannot be read: Permission denied"):
        list_images(tmp_path)


def test_a_path_that_is_too_long_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match=r"xxx: cannot be read: \S"):
        is_folder(tmp_path / ("x" * 300))


def test_a_path_with_nul_leads_nowhere(tmp_path):
    assert not is_folder(tmp_path / "a\0b")


def test_a_pattern_is_no_folder_on_windows_either(monkeypatch):
    """There `*` is in no name, and to look for it is an error of Windows: 123, ERROR_INVALID_NAME."""

    def stat(path, **how):
        error = OSError(errno.EINVAL, "The filename, directory name, or volume label syntax is incorrect", str(path))
        error.winerror = 123
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", stat)
        assert not is_folder(Path("a/*.png"))
