"""Files that arrive in a folder: each is judged once, when it is complete."""

import os
import signal
import threading
import time

import cv2
import pytest

from deploy import watch as module
from deploy.watch import Arrivals, Signature, until_interrupted, watch
from tests.conftest import write_image
from tests.deploy.brightness import Brightness, plain
from utils.errors import UserError


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(module, "EVERY", 0.02)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "line").mkdir()
    return tmp_path / "line"


def png(value=200):
    return cv2.imencode(".png", plain(value))[1].tobytes()


def names(paths):
    return [path.name for path in paths]


def test_a_file_is_complete_when_two_looks_find_the_same(folder):
    arrivals, path = Arrivals([folder]), folder / "a.png"
    path.write_bytes(png()[:40])
    assert arrivals.look() == []
    path.write_bytes(png())
    assert arrivals.look() == [] and names(arrivals.look()) == ["a.png"] and arrivals.look() == []


def test_images_in_subfolders_come_in_the_order_of_their_time(folder):
    for k, name in enumerate(["b/c/2.png", "1.PNG", "b/0.jpg"]):
        write_image(folder / name, plain(9))
        os.utime(folder / name, (k, k))
    for name in (".hidden.png", ".tmp/3.png", "notes.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(png())
    (folder / "loop").symlink_to(folder)
    arrivals = Arrivals([folder])
    arrivals.look()
    assert names(arrivals.look()) == ["2.png", "1.PNG", "0.jpg"]


def test_a_file_that_cannot_be_read_is_tried_again_and_reported_once(folder):
    arrivals, path = Arrivals([folder]), folder / "a.png"
    path.write_bytes(b"no image")
    arrivals.look()
    answers = []
    for _ in range(10):
        answers += [arrivals.settled(path, False) for path in arrivals.look()]
    assert answers == [False] * (module.TRIES - 1) + [True]
    path.write_bytes(png())
    arrivals.look()
    assert arrivals.look() == [path]  # its content is new


def test_a_file_that_vanishes_before_it_is_read_is_no_error(folder):
    arrivals, path = Arrivals([folder]), folder / "a.png"
    path.write_bytes(png())
    arrivals.look()
    assert arrivals.look() == [path]
    path.unlink()
    assert not arrivals.settled(path, False)
    assert arrivals.look() == [] and not arrivals.finished and not arrivals.tries


def test_what_was_read_counts_only_if_the_file_is_still_the_same(folder):
    arrivals, path = Arrivals([folder]), folder / "a.png"
    path.write_bytes(png()[:40])
    arrivals.look()
    assert arrivals.look() == [path]
    path.write_bytes(png())
    assert not arrivals.settled(path, True)
    assert arrivals.look() == [] and arrivals.look() == [path] and arrivals.settled(path, True)
    path.unlink()  # archived
    assert arrivals.settled(path, True)


def test_files_that_come_back_unchanged_are_not_new_and_written_again_they_are(folder):
    arrivals, path = Arrivals([folder]), folder / "a.png"
    path.write_bytes(png())
    arrivals.look()
    assert arrivals.look() == [path]
    folder.rename(folder.with_name("away"))  # a lost connection
    assert arrivals.look() == []
    folder.with_name("away").rename(folder)
    assert arrivals.look() == arrivals.look() == []
    path.write_bytes(png(3) + b" ")
    arrivals.look()
    assert arrivals.look() == [path]


def test_memory_does_not_grow_with_files_that_are_gone(folder, monkeypatch):
    monkeypatch.setattr(module, "REMEMBERED", 5)
    arrivals = Arrivals([folder])
    for k in range(30):
        path = folder / f"{k}.png"
        path.write_bytes(png())
        arrivals.look()
        assert arrivals.look() == [path]
        path.unlink()
    arrivals.look()
    assert len(arrivals.finished) == 5 and not arrivals.seen and not arrivals.tries


def test_what_is_done_and_what_is_written_here_is_left_out(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    (folder / "earlier").mkdir()
    (folder / "earlier/predictions.csv").write_text("")
    for name in ("a.png", "b.png", "judged/overlays/a.png.png", "earlier/maps/a.png.png"):
        write_image(folder / name, plain(9))
    done = {str(folder / "a.png"): Signature.of((folder / "a.png").stat())}
    arrivals = Arrivals([folder.relative_to(folder.parent)], done, folder / "judged")
    arrivals.look()
    assert names(arrivals.look()) == ["b.png"]


def test_a_file_that_was_written_again_before_the_start_is_new(folder):
    for name in ("a.png", "b.png"):
        write_image(folder / name, plain(9))
    done = {str(folder / name): Signature.of((folder / name).stat()) for name in ("a.png", "b.png")}
    (folder / "b.png").write_bytes(png() + b" ")
    arrivals = Arrivals([folder], done)
    arrivals.look()
    assert names(arrivals.look()) == ["b.png"]


def test_a_folder_that_cannot_be_read_at_the_start_is_not_forgotten(folder, monkeypatch):
    monkeypatch.setattr(module, "REMEMBERED", 1)
    done = {}
    for name in ("a.png", "b.png", "c.png"):
        write_image(folder / name, plain(9))
        done[str(folder / name)] = Signature.of((folder / name).stat())
    folder.rename(folder.with_name("away"))
    arrivals = Arrivals([folder], done)
    assert arrivals.look() == arrivals.look() == []
    folder.with_name("away").rename(folder)
    assert arrivals.look() == arrivals.look() == []
    (folder / "a.png").write_bytes(png() + b" ")
    arrivals.look()
    assert names(arrivals.look()) == ["a.png"]


def test_what_is_done_and_gone_counts_only_if_it_comes_back_unchanged(folder):
    """A camera that always writes the same name, and an archive that empties the folder."""
    latest = folder / "latest.png"
    latest.write_bytes(png())
    done = {str(latest): Signature.of(latest.stat())}
    latest.unlink()
    arrivals = Arrivals([folder], done)
    arrivals.look()
    latest.write_bytes(png(3) + b" ")
    arrivals.look()
    assert arrivals.look() == [latest]


def test_a_folder_that_cannot_be_read_is_named_once(folder, monkeypatch, capsys):
    (folder / "locked").mkdir()
    (folder / "a.png").write_bytes(png())

    def scandir(path, scandir=os.scandir):
        if str(path).endswith("locked"):  # pytest, when it tidies up, gives file descriptors
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scandir)
    arrivals = Arrivals([folder])
    arrivals.look()
    assert names(arrivals.look()) == ["a.png"]
    assert capsys.readouterr().err.count("locked: the folder cannot be read: Permission denied") == 1


def test_files_written_slowly_and_in_halves_are_judged_once_and_whole(folder):
    """A thread writes every third file in two halves, with a pause in which it looks complete."""
    stop = threading.Event()

    def line():
        for k in range(9):
            path, content = folder / f"{k % 2}" / f"{k}.png", png(25 * k)
            path.parent.mkdir(exist_ok=True)
            with path.open("wb") as file:
                if k % 3 == 0:
                    file.write(content[: len(content) // 2])
                    file.flush()
                    time.sleep(0.06)
                    file.write(content[len(content) // 2 :])
                else:
                    file.write(content)
        (folder / "broken.png").write_bytes(b"no image")
        time.sleep(0.6)
        stop.set()

    judge = Brightness()
    thread = threading.Thread(target=line)
    thread.start()
    found = list(watch(judge, Arrivals([folder]), stop.is_set))
    thread.join()
    errors = [path.name for path, result in found if isinstance(result, UserError)]
    scores = {int(path.stem): result.score for path, result in found if not isinstance(result, UserError)}
    assert errors == ["broken.png"] and len(found) == 10
    assert scores == pytest.approx({k: 25 * k / 255 for k in range(9)}, abs=1e-6)
    assert max(judge.batches) <= judge.batch_size


def test_no_further_batch_begins_after_the_end(folder):
    for k in range(10):
        write_image(folder / f"{k}.png", plain(k))
    judge, found = Brightness(4), []
    for one in watch(judge, Arrivals([folder]), lambda: bool(found)):
        found.append(one)
    assert len(found) == 4 and judge.batches == [4]


@pytest.fixture
def usual_interrupt():
    """pytest's workers may have a handler of their own."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_first_interrupt_asks_and_the_second_ends(usual_interrupt):
    with pytest.raises(KeyboardInterrupt), until_interrupted() as stopped:
        assert not stopped()
        signal.raise_signal(signal.SIGINT)
        assert stopped()
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_sigterm_asks_too():
    with until_interrupted() as stopped:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopped()
