"""Files are complete or do not exist, and a failed write is a sentence."""

import csv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from utils.errors import UserError
from utils.files import check_writable, read_json, replacing, write_atomic, write_csv, write_json, write_text


class Killed(Exception):
    """Stands for anything that ends a process during its work."""


def half_written(temporary):
    temporary.write_text("half")
    raise Killed


def test_a_file_is_as_before_when_writing_it_fails(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text("old")
    with pytest.raises(Killed):
        write_atomic(path, half_written)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_file_is_replaced_when_it_is_complete(tmp_path):
    path, seen = tmp_path / "page.png", []
    path.write_text("old")

    def write(temporary):
        temporary.write_text("new")
        seen.append((temporary.suffix, temporary.parent, path.read_text()))

    write_atomic(path, write)
    # The suffix tells savefig the format; a rename is atomic only within one folder.
    assert seen == [(".png", tmp_path, "old")]
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_a_refusal_of_the_disk_names_the_file(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    for path in (tmp_path / "nowhere" / "x.csv", tmp_path / "file" / "x.csv"):
        with pytest.raises(UserError) as error:
            write_text(path, "text")
        assert str(error.value).startswith(f"cannot write {path}: ")


def test_a_folder_is_as_before_when_filling_it_fails(tmp_path):
    folder = tmp_path / "maps"
    with replacing(folder) as fresh:
        (fresh / "a.png").write_text("old")
    with pytest.raises(Killed), replacing(folder) as fresh:
        (fresh / "b.png").write_text("half")
        raise Killed
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == ["maps", "maps/a.png"]


def test_a_folder_is_replaced_as_a_whole_when_it_is_complete(tmp_path):
    folder = tmp_path / "maps"
    for name in ("a.png", "b.png"):
        with replacing(folder) as fresh:
            (fresh / name).write_text(name)
            assert not (folder / name).exists()
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == ["maps", "maps/b.png"]


def test_what_a_killed_process_left_is_not_in_the_new_folder(tmp_path):
    folder = tmp_path / "maps"
    for state in ("tmp", "old"):
        (tmp_path / f".maps.{state}").mkdir()
        (tmp_path / f".maps.{state}" / "left.png").write_text("half")
    with replacing(folder) as fresh:
        (fresh / "a.png").write_text("new")
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == ["maps", "maps/a.png"]


def test_a_folder_that_was_a_link_can_be_replaced_again_and_again(tmp_path):
    folder = tmp_path / "maps"
    (tmp_path / "other").mkdir()
    folder.symlink_to("other")
    for name in ("a.png", "b.png"):
        with replacing(folder) as fresh:
            (fresh / name).write_text(name)
    assert [path.name for path in folder.iterdir()] == ["b.png"] and not folder.is_symlink()


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_is_as_before_when_the_new_one_cannot_take_its_place(tmp_path, monkeypatch, there):
    """As on Windows, while a scanner for viruses reads the new files."""
    folder, rename = tmp_path / "maps", Path.rename
    if there:
        folder.mkdir()
        (folder / "a.png").write_text("old")

    def held(path, target):
        if path.name == ".maps.tmp":
            raise PermissionError(13, "Access is denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", held)
    with pytest.raises(UserError, match=r"cannot write .*maps: Access is denied"), replacing(folder) as fresh:
        (fresh / "b.png").write_text("new")
    left = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))
    assert left == (["maps", "maps/a.png"] if there else [])


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"cannot write .*file.maps: "), replacing(tmp_path / "file" / "maps"):
        pass
    with pytest.raises(UserError, match=r"cannot write into .*file.features: "):
        check_writable(tmp_path / "file" / "features")


def test_a_check_of_a_folder_makes_it_and_leaves_nothing_there(tmp_path):
    check_writable(tmp_path / "results" / "st")
    assert (tmp_path / "results" / "st").is_dir() and not list((tmp_path / "results" / "st").iterdir())


def test_checks_of_one_folder_at_the_same_time_do_not_disturb_each_other(tmp_path):
    """Two benchmarks started together failed: each removed the other's file."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(check_writable, [tmp_path / "results"] * 400))  # raises what a check raised


def test_floats_in_a_csv_file_read_back_exactly(tmp_path):
    value = float(np.float32(0.1) / 3)
    write_csv(tmp_path / "x.csv", ["path", "score"], [("a, b", value)])
    assert (tmp_path / "x.csv").read_text() == f'path,score\n"a, b",{value!r}\n'


def test_names_of_all_scripts_and_bytes_that_are_no_text_survive(tmp_path):
    names = ["缺陷", "дефект", "خلل", "Umlaut ü", "raw \udcff"]
    write_csv(tmp_path / "x.csv", ["path"], [[name] for name in names])
    with (tmp_path / "x.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == names
    write_json(tmp_path / "x.json", names)
    assert read_json(tmp_path / "x.json") == names
    assert "缺陷".encode() in (tmp_path / "x.json").read_bytes()
