"""predict.py: pictures of any kind, judged as a test judges them."""

import csv
import json
import ntpath
import os
import signal
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import calibrate
import predict
import trainNet
from deploy import judge, watch
from tests.conftest import draw_defect, draw_good, write_image
from tests.deploy.brightness import Brightness, plain
from utils.errors import UserError
from utils.files import locked


@pytest.fixture
def calibrated(workplace, call):
    """A run that decides, and new pictures: 3 good ones, 2 with a square, in two folders."""
    rng = np.random.default_rng(5)
    for k in range(20):
        write_image(workplace.path / f"new/{k:02}.png", draw_good(rng))
    assert call(calibrate, "results/st/part", "--images", "new", "false_reject_rate=0.1").code == 0
    for k in range(3):
        write_image(workplace.path / f"line/a/{k}.png", draw_good(rng))
    for k in range(2):
        write_image(workplace.path / f"line/b/{k}.png", draw_defect(rng)[0])
    return workplace


def rows_of(folder):
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["path"] for row in rows] == [line["path"] for line in lines]
    return rows, lines


RATE = "false_reject_rate=0.1"


def test_a_folder_is_judged_and_pictures_are_drawn_in_their_own_size(calibrated, call):
    write_image(calibrated.path / "line/b/wide.png", np.full((40, 200, 3), 250, np.uint8))
    said = call(predict, "results/st/part", "line", "--out", "out", "--pictures", "all")
    assert said.code == 0, said.err
    rows, lines = rows_of(calibrated.path / "out")
    assert len(rows) == 6 and all(float(row["milliseconds"]) > 0 for row in rows)
    for row, line in zip(rows, lines, strict=True):
        assert row["decision"] == ("reject" if line["regions"] else "accept")
        assert (float(row["p_value"]) <= 0.1) == (row["decision"] == "reject")
        assert float(row["score"]) == line["score"]
        if line["regions"]:
            assert line["regions"][0]["score"] == line["score"]
    wide = lines[-1]
    for what in ("overlays", "maps", "masks"):
        assert cv2.imread(str(calibrated.path / f"out/{what}/b/wide.png.png")).shape == (40, 200, 3)
    for left, top, right, bottom in (region["box"] for region in wide["regions"]):
        assert 0 <= left < right <= 200 and 0 <= top < bottom <= 40


def test_scores_are_those_of_the_test(calibrated, call):
    assert call(trainNet, "phase=test", RATE).code == 0
    with (calibrated.run / "scores.csv").open(newline="", encoding="utf-8") as file:
        tested = {row["path"]: row for row in csv.DictReader(file)}
    assert call(predict, "results/st/part", "data/part/test", "--out", "out").code == 0
    rows, _ = rows_of(calibrated.path / "out")
    assert len(rows) == len(tested) == 3
    for row in rows:
        assert float(row["score"]) == pytest.approx(float(tested[row["path"]]["score"]), rel=1e-4)
        assert row["decision"] == tested[row["path"]]["decision"] and row["p_value"] == tested[row["path"]]["p_value"]


def test_files_that_cannot_be_read_are_reported_and_the_rest_goes_on(calibrated, call):
    (calibrated.path / "line/a/broken.png").write_bytes(b"no picture")
    (calibrated.path / "list.txt").write_text("line/a/0.png\nline/a/broken.png\nline/gone.png\nline/b/1.png\n")
    said = call(predict, "results/st/part", "list.txt", "--out", "out")
    assert said.code == 3 and "2 failed" in said.out
    rows, _ = rows_of(calibrated.path / "out")
    assert [bool(row["error"]) for row in rows] == [False, True, True, False]
    assert "broken.png" in rows[1]["error"] and rows[1]["score"] == rows[1]["decision"] == ""


def test_pictures_that_are_not_drawn_are_counted_and_the_exit_code_says_so(tmp_path, call, monkeypatch):
    monkeypatch.setattr(judge, "open_judge", lambda *words: Brightness())
    monkeypatch.chdir(tmp_path)
    for k in range(2):
        write_image(tmp_path / f"line/{k}.png", plain(200))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/overlays").write_text("no folder")
    said = call(predict, "RUN", "line", "--out", "out")
    assert said.code == 3 and said.out == "2 reject, 2 not drawn: out/predictions.csv\n"
    assert len(rows_of(tmp_path / "out")[0]) == 2


def test_patterns_files_and_folders_name_each_picture_once(calibrated):
    paths = predict.images_of(["line/a", "line/a/0.png", "line/*/1.png"])
    assert list(map(str, paths)) == ["line/a/0.png", "line/a/1.png", "line/a/2.png", "line/b/1.png"]


def test_a_list_may_have_folders_and_blanks(calibrated):
    (calibrated.path / "list.txt").write_text("  line/b/1.png \n\nline/a\t\nline/gone.png\n")
    names = ["line/b/1.png", *(f"line/a/{k}.png" for k in range(3)), "line/gone.png"]
    assert list(map(str, predict.images_of(["list.txt"]))) == names


def test_a_folder_that_looks_like_a_pattern_or_a_key_is_found(calibrated, call):
    for name in ("br[1]/c/a.png", "br1/c/b.png", "a=b/c.png"):
        write_image(calibrated.path / name, draw_good(np.random.default_rng(1)))
    for word in ("br[1]/*/*.png", str(calibrated.path / "br[1]/**/a.png")):
        paths = predict.images_of([word])
        # As ever, [1] is the letter 1 where that finds something.
        assert [path.name for path in paths] == ["b.png" if word.endswith("*.png") else "a.png"]
    said = call(predict, "results/st/part", "a=b/*.png", "--out", "out")
    assert said.code == 0, said.err
    assert [row["path"] for row in rows_of(calibrated.path / "out")[0]] == ["a=b/c.png"]


def test_what_earlier_predictions_drew_is_not_judged(calibrated, call):
    for name in ("a/masks/0.png", "a/masks/maps/1.png"):  # pictures of parts
        write_image(calibrated.path / "line" / name, draw_good(np.random.default_rng(1)))
    everything = ["results/st/part", "line", "--pictures", "all", "--maps", "tiff", "--out"]
    for out, drawn in (("line/one", 0), ("line", 1), ("two", 2)):
        said = call(predict, *everything, out)
        assert said.code == 0, said.err
        rows, _ = rows_of(calibrated.path / out)
        assert len(rows) == 7 and len({row["path"] for row in rows}) == 7
        assert said.err.count("left out 4 folder(s) that earlier predictions drew: maps, masks, ") == drawn, said.err
    said = call(predict, "results/st/part", "two", "--out", "three")
    assert said.code == 2 and "two: left out 4 folder(s)" in said.err and "there are no images" in said.last
    assert list(map(str, predict.images_of(["line/one/masks/a"]))) == [
        f"line/one/masks/a/{name}.png.png" for name in ("0", "1", "2", "masks/0", "masks/maps/1")
    ]


def test_pictures_on_two_drives_are_a_sentence(monkeypatch):
    monkeypatch.setattr(predict.os.path, "commonpath", ntpath.commonpath)
    assert predict.folder_of_all(["C:\\line\\a", "C:\\line\\b"]) == "C:\\line"
    with pytest.raises(UserError, match="IMAGES: they are on several drives"):
        predict.folder_of_all(["C:\\line\\a", "D:\\line\\b"])


def test_pictures_of_paths_with_two_dots_stay_in_their_folders(calibrated, call, monkeypatch):
    good = draw_good(np.random.default_rng(1))
    (calibrated.path / "sub/loc").mkdir(parents=True)
    (calibrated.path / "sub/link").symlink_to(calibrated.path / "line/a")
    for name in ("a b/0.png", "sub/loc/0.png"):
        write_image(calibrated.path / name, good)
    monkeypatch.chdir(calibrated.path / "sub")
    before = set(calibrated.path.rglob("*"))
    words = ["../a b", "loc", "link", "../sub/loc/0.png", "--out", "out", "--pictures", "all", "--maps", "npy"]
    said = call(predict, "../results/st/part", *words)
    assert said.code == 0, said.err
    new = {path.relative_to(calibrated.path) for path in set(calibrated.path.rglob("*")) - before if path.is_file()}
    names = ["a b/0.png", "sub/loc/0.png", *(f"sub/link/{k}.png" for k in range(3))]
    drawn = {f"{what}/{name}.png" for name in names for what in ("overlays", "maps", "masks")}
    files = drawn | {f"raw_maps/{name}.npy" for name in names} | {"predictions.csv", "predictions.jsonl"}
    assert set(map(str, new)) == {f"sub/out/{name}" for name in files}


@pytest.mark.parametrize(("kind", "read"), [("npy", np.load), ("tiff", lambda path: np.asarray(Image.open(path)))])
def test_raw_maps_have_the_size_and_the_score_of_every_picture(calibrated, call, kind, read):
    write_image(calibrated.path / "line/b/wide.png", np.full((40, 200, 3), 250, np.uint8))
    said = call(predict, "results/st/part", "line", "--out", "out", "--maps", kind)
    assert said.code == 0, said.err
    rows, _ = rows_of(calibrated.path / "out")
    assert len(rows) == len([*(calibrated.path / "out/raw_maps").rglob("*.*")]) == 6
    for row in rows:
        values = read(calibrated.path / f"out/raw_maps/{row['path'].removeprefix('line/')}.{kind}")
        assert values.dtype == np.float32 and values.shape == ((40, 200) if "wide" in row["path"] else (64, 64))
        assert values.max() == pytest.approx(float(row["score"]), rel=0.2)


@pytest.fixture
def watched(calibrated, call, monkeypatch):
    """watched(meanwhile): what predict.py --watch said. A thread runs `meanwhile(wait_for)` and then interrupts it.

    `wait_for(lines, failed)` returns when so many files have a line, `failed` of them because of an error. `up` leads
    from the current folder to the workplace.
    """
    monkeypatch.setattr(watch, "EVERY", 0.02)
    table = calibrated.path / "out/predictions.jsonl"

    def wait_for(lines, failed=0):
        end = time.monotonic() + 30
        while time.monotonic() < end:
            text = table.read_text() if table.exists() else ""
            if (text.count("\n"), text.count('"error": "')) == (lines, failed):
                return
            time.sleep(0.02)

    def watched(meanwhile, up=""):
        def interrupt():
            meanwhile(wait_for)
            time.sleep(0.2)  # for what should not come
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        said = call(predict, f"{up}results/st/part", f"{up}line", "--out", f"{up}out", "--watch", "--pictures", "all")
        thread.join()
        return said

    return watched


def test_watching_judges_what_is_there_and_what_arrives(calibrated, watched):
    def line(wait_for):
        wait_for(5)
        picture = (calibrated.path / "line/b/0.png").read_bytes()
        with (calibrated.path / "line/slow.png").open("wb") as file:
            for half in (picture[:1000], picture[1000:]):
                file.write(half)
                file.flush()
                time.sleep(0.05)
        wait_for(6)

    said = watched(line)
    assert said.code == 0 and said.out.endswith(": out/predictions.csv\n") and "0 pictures are finished" in said.err
    rows, lines = rows_of(calibrated.path / "out")
    there = [f"line/{name}.png" for name in ("a/0", "a/1", "a/2", "b/0", "b/1")]
    assert sorted(row["path"] for row in rows[:5]) == there
    before = next(line for line in lines if line["path"] == "line/b/0.png")
    assert lines[5]["path"] == "line/slow.png" and lines[5]["score"] == pytest.approx(before["score"], rel=1e-4)
    assert (calibrated.path / "out/overlays/slow.png.png").exists()


def test_watching_goes_on_after_a_restart(calibrated, watched):
    """Finished files are not judged again, failed ones are, and a line that a crash cut off is no obstacle."""
    (calibrated.path / "line/broken.png").write_bytes(b"no picture")
    said = watched(lambda wait_for: wait_for(6, failed=1))
    assert said.code == 3 and "1 failed" in said.out
    before, _ = rows_of(calibrated.path / "out")
    assert [row["path"] for row in before if row["error"]] == ["line/broken.png"]
    with (calibrated.path / "out/predictions.jsonl").open("a") as file:
        file.write('{"path": "line/b/1.p')
    write_image(calibrated.path / "line/broken.png", draw_good(np.random.default_rng(1)))
    said = watched(lambda wait_for: wait_for(6))
    assert said.code == 0 and "5 pictures are finished" in said.err
    after, _ = rows_of(calibrated.path / "out")
    assert [row for row in before if not row["error"]] == after[:5]
    assert after[5]["path"] == "line/broken.png" and after[5]["score"]


def test_a_folder_is_watched_once_by_whatever_names(calibrated):
    there = str(calibrated.path / "line")
    assert predict.folders_of(["line/a", "line", there, "line/a/"], Path("out")) == [Path("line/a"), Path(there)]
    arrivals = watch.Arrivals([Path("line/a"), Path(there)])
    arrivals.look()
    assert len(arrivals.look()) == 5


def test_pictures_drawn_of_another_folder_are_not_replaced(calibrated, call, watched):
    (calibrated.path / "line/broken.png").write_bytes(b"no picture")
    watched(lambda wait_for: wait_for(6, failed=1))
    before = rows_of(calibrated.path / "out")
    for other in ("line/b", "."):
        said = call(predict, "results/st/part", other, "--out", "out", "--watch")
        assert said.code == 2 and f"out has pictures of {calibrated.path / 'line'}, and those of" in said.last
    assert rows_of(calibrated.path / "out") == before


def test_a_file_written_again_between_is_judged_again_also_from_another_folder(calibrated, watched, monkeypatch):
    watched(lambda wait_for: wait_for(5))
    write_image(calibrated.path / "line/b/0.png", draw_good(np.random.default_rng(1)))
    (calibrated.path / "elsewhere").mkdir()
    monkeypatch.chdir(calibrated.path / "elsewhere")
    before = calibrated.kept() | {str(path): None for path in calibrated.path.rglob("*")}
    said = watched(lambda wait_for: wait_for(6), up="../")
    assert said.code == 0 and "5 pictures are finished" in said.err
    rows, lines = rows_of(calibrated.path / "out")
    assert len(rows) == 6 and rows[5]["path"] == "../line/b/0.png" and "file" not in rows[5]
    assert lines[5]["file"]["path"] == str(calibrated.path / "line/b/0.png")
    assert calibrated.kept() | {str(path): None for path in calibrated.path.rglob("*")} == before


def test_only_one_process_watches_into_a_folder(calibrated, call):
    (calibrated.path / "out").mkdir()
    with locked(calibrated.path / "out/predictions"):
        said = call(predict, "results/st/part", "line", "--out", "out", "--watch")
    assert said.code == 2 and f"process {os.getpid()} is working there" in said.last


def test_a_run_without_calibration_scores_and_says_how_to_decide(workplace, call):
    said = call(predict, "results/st/part", "data/part/test", "--out", "out")
    assert said.code == 0 and "calibrate.py results/st/part --images FOLDER" in said.err
    rows, _ = rows_of(workplace.path / "out")
    assert all(row["score"] and not row["decision"] for row in rows)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nowhere", "data/part/test"], "there is no finished run"),
        (["exported", "data/part/test"], "exported is an exported model: give it with --model exported"),
        (["results/st/part", "nowhere"], "no images"),
        (["results/st/part", "data/part/test", "--out", "results"], "already has predictions"),
        (["results/st/part", "data/part/test", "obj=other"], "obj"),
        (["results/st/part", "data/part/test", "--out", "config.yaml"], "--out: cannot write into config.yaml"),
        (["results/st/part", "bad.txt"], "bad.txt cannot be read as a list of paths"),
        (["results/st/part", "data", "bad.txt", "--watch"], "with --watch, give folders; there is no folder bad.txt"),
        (["results/st/part", "data", "--watch", "--out", "data"], "--out: data is watched"),
        (["results/st/part", "data", "--watch", "--out", "results"], "results/predictions.jsonl"),
        (["results/st/part", "data", "--maps", "png"], "--maps"),
    ],
)
def test_a_mistake_is_one_sentence(workplace, call, words, expected):
    (workplace.path / "results/predictions.csv").write_text("")
    (workplace.path / "exported").mkdir()
    (workplace.path / "exported/model.xml").write_text("")
    (workplace.path / "bad.txt").write_bytes(b"\xff\xfe\x00")
    said = call(predict, *words)
    assert said.code == 2 and said.last.startswith("error: ") and expected in said.last
