"""What is written of predictions, with a judge of brightness in place of networks."""

import json
import os

import pytest
from PIL import Image

from deploy import results as module
from deploy.results import LINES, TABLE, Results
from deploy.watch import Signature
from tests.conftest import write_image
from tests.deploy.brightness import Brightness, plain
from utils.errors import UserError


def written(folder, paths, **options):
    """The results of a judge that judges the files."""
    results = Results(folder / "out", **options)
    results.write(judge := Brightness(), judge.stream(paths), os.path.commonpath([path.parent for path in paths]))
    return results


@pytest.mark.parametrize("letters", ["x" * 250, "é" * 125])
def test_a_file_name_of_254_bytes_gets_shorter_pictures_of_its_own(tmp_path, letters):
    paths = [tmp_path / f"{letters[:-1]}{k}.png" for k in "ab"]
    for path in paths:
        write_image(path, plain(200))
    folder = written(tmp_path, paths, pictures="all", raw_maps="tiff").folder
    for what, suffix in (("overlays", ".png"), ("maps", ".png"), ("masks", ".png"), ("raw_maps", ".tiff")):
        names = [path.name for path in (folder / what).iterdir()]
        assert len(names) == 2 and all(name.startswith(letters[:50]) and name.endswith(suffix) for name in names)
    lines = [json.loads(line) for line in (folder / LINES).read_text(encoding="utf-8").splitlines()]
    assert [(line["path"], line["decision"]) for line in lines] == [(str(path), "reject") for path in paths]


def test_a_name_that_is_just_short_enough_is_kept(tmp_path):
    path = tmp_path / f"{'x' * 246}.png"
    write_image(path, plain(200))
    folder = written(tmp_path, [path], pictures="all", raw_maps="tiff").folder
    assert (folder / f"raw_maps/{path.name}.tiff").exists() and (folder / f"overlays/{path.name}.png").exists()


@pytest.mark.parametrize("name", [TABLE, LINES])
def test_two_processes_do_not_write_into_one_folder(tmp_path, name):
    """Another one may have begun since the command line was checked, while the networks were loaded."""
    write_image(tmp_path / "a.png", plain(200))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("of another process\n")
    with pytest.raises(UserError, match="--out: .*out already has predictions"):
        written(tmp_path, [tmp_path / "a.png"])
    assert (tmp_path / "out" / name).read_text() == "of another process\n"


def test_a_file_that_was_read_later_has_not_failed(tmp_path):
    """As with --watch, where a program that writes slowly leaves half a picture for a while."""
    paths, judge, results = [tmp_path / f"{k}.png" for k in range(3)], Brightness(), Results(tmp_path / "out")

    def found():
        for path in paths:
            path.write_bytes(b"half")
            yield from judge.stream([path, path])
        for path in paths[:2]:
            write_image(path, plain(0))
            yield from judge.stream([path])

    assert results.write(judge, found(), str(tmp_path)) == {"accept": 2, "failed": 1}
    for path in paths[2:]:
        write_image(path, plain(0))
    assert "failed" not in Results(tmp_path / "again").write(judge, judge.stream(paths), str(tmp_path))


def test_what_is_left_out_of_files_is_said_once_at_the_end(tmp_path, capsys):
    pages = [Image.fromarray(plain(value)) for value in (0, 255)]
    for name in ("a.tif", "b.webp", "c.tif"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:], lossless=True)
    write_image(tmp_path / "d.png", plain(0))
    written(tmp_path, [tmp_path / name for name in ("d.png", "a.tif", "b.webp", "c.tif")])
    sentence = "only the first of its pages or frames is read; the same for 2 other file(s)"
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert notes == [f"note: {tmp_path / 'a.tif'}: {sentence}"]


@pytest.mark.parametrize("error", [MemoryError(), UserError("cannot write a.png"), OSError(28, "the disk is full")])
@pytest.mark.parametrize("part", ["write_pictures", "raw_map"])
def test_a_picture_that_cannot_be_drawn_keeps_its_decision(part, error, tmp_path, monkeypatch, capsys):
    def fails(*words):
        raise error

    monkeypatch.setattr(module, part, fails)
    paths, judge = [tmp_path / f"{k}.png" for k in range(3)], Brightness()
    for path in paths:
        write_image(path, plain(200))
    results = Results(tmp_path / "out", "all", "npy")
    assert results.write(judge, judge.stream(paths), str(tmp_path)) == {"reject": 3, "not drawn": 3}
    lines = (results.folder / LINES).read_text().splitlines()
    assert [json.loads(line)["decision"] for line in lines] == ["reject"] * 3
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    why = "there is too little memory" if isinstance(error, MemoryError) else str(error)
    assert said.startswith(f"note: {paths[0]} is judged, but not drawn: {why}")


def test_what_was_drawn_of_an_earlier_file_of_the_same_name_is_removed(tmp_path):
    """As with --watch, where a camera may always write the same name."""
    path, judge, results = tmp_path / "a.png", Brightness(), Results(tmp_path / "out", "rejected", "npy")
    for value, mode, raw_maps, left in ((200, "x", "npy", 4), (0, "a", "tiff", 1), (None, "a", None, 0)):
        path.write_bytes(b"no picture") if value is None else write_image(path, plain(value))
        results = results._replace(raw_maps=raw_maps)
        results.write(judge, judge.stream([path]), str(tmp_path), None, mode, {path: Signature.of(path.stat())})
        assert len([*results.folder.rglob("a.png.*")]) == left


def test_the_first_failed_files_are_named_and_the_others_counted(tmp_path, capsys):
    paths = [tmp_path / f"{k}.png" for k in range(7)]
    for path in paths:
        path.write_bytes(b"no picture")
    written(tmp_path, paths)
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert [f"{path}: cannot be read as an image" in line for path, line in zip(paths, notes[:5], strict=False)] == [
        True
    ] * 5
    assert notes[5:] == [f"note: 2 more files failed; {tmp_path / 'out/predictions.csv'} says why"]


def test_a_line_says_which_file_was_judged_and_only_such_lines_are_continued(tmp_path, monkeypatch):
    write_image(tmp_path / "cam/a.png", plain(200))
    monkeypatch.chdir(tmp_path)
    path, judge, results = (tmp_path / "cam/a.png").relative_to(tmp_path), Brightness(), Results(tmp_path / "out")
    signature = Signature.of(path.stat())
    results.write(judge, judge.stream([path]), str(tmp_path), files={path: signature})
    monkeypatch.chdir("/")
    assert results.finished(str(tmp_path)) == {str(tmp_path / path): signature}
    with pytest.raises(UserError, match="has predictions of ; give another folder"):  # of another model
        results._replace(model="/results/rd/part").finished(str(tmp_path))
    with pytest.raises(UserError, match="as it was earlier .* give another folder"):  # also before it was written
        results._replace(fingerprint="of another calibration").finished(str(tmp_path))
    assert {file.name for file in (tmp_path / "out").iterdir()} == {TABLE, LINES}  # nothing is left of what was refused
    monkeypatch.chdir(tmp_path)
    results = results._replace(folder=tmp_path / "without")
    results.write(judge, judge.stream([path]), str(tmp_path))
    refused = pytest.raises(UserError, match="has predictions made without --watch, or by an earlier version; give")
    with refused:
        results.finished(str(tmp_path))
    line = json.loads((results.folder / LINES).read_text()) | {"file": {"path": "a.png", "size": 1, "changed": 1}}
    (results.folder / LINES).write_text(json.dumps(line) + "\n")
    with refused:
        results.finished(str(tmp_path))
