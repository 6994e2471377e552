import shutil

import pytest

from utils import console
from utils.console import log_to, note, remember, say
from utils.errors import UserError
from utils.progress import progress


@pytest.fixture(autouse=True)
def nothing_said_before():
    console._before_the_log.clear()


def entries(path):
    """The lines of a log without their times."""
    return [line[21:] for line in path.read_text(encoding="utf-8").splitlines()]


def test_only_the_first_of_several_processes_speaks(monkeypatch, capfd, tmp_path):
    monkeypatch.setenv("RANK", "1")
    with log_to(tmp_path / "train.log"):
        note("a")
        say("b")
        list(progress(range(3), "pages", keep=True))
    out, err = capfd.readouterr()
    assert out == err == "" and not list(tmp_path.iterdir())


def test_the_log_keeps_what_was_said_before_and_inside_but_not_after(tmp_path, capfd):
    path = tmp_path / "train.log"
    note("before")
    with log_to(path):
        note("inside")
        say("a result\nof two lines")
        remember("silent")
    note("after")
    assert entries(path) == ["note: before", "note: inside", "a result", "", "silent"]
    assert "of two lines\n" in path.read_text()
    with log_to(path):
        pass
    assert entries(path)[5:] == ["note: after"]
    out, err = capfd.readouterr()
    assert out == "a result\nof two lines\n" and err == "note: before\nnote: inside\nnote: after\n"


@pytest.mark.parametrize(
    ("error", "last"),
    [
        (UserError("the loss is nan"), "error: the loss is nan"),
        (KeyboardInterrupt(), "ended by KeyboardInterrupt"),
        (RuntimeError("odd"), "ended by RuntimeError: odd"),
    ],
)
def test_the_log_says_how_it_ended(error, last, tmp_path):
    with pytest.raises(type(error)), log_to(tmp_path / "train.log"):
        note("epoch 3")
        raise error
    assert entries(tmp_path / "train.log") == ["note: epoch 3", last]


def test_a_refused_run_leaves_the_log_of_the_one_before(tmp_path):
    note("said while it was built")
    with pytest.raises(UserError), log_to(tmp_path / "train.log"):
        raise UserError("the checkpoint is damaged")
    assert not list(tmp_path.iterdir())


def test_logs_inside_each_other_are_kept_apart(tmp_path):
    with log_to(tmp_path / "a"):
        with log_to(tmp_path / "b"):
            note("b")
        note("a")
    assert entries(tmp_path / "a") == ["note: a"] and entries(tmp_path / "b") == ["note: b"]


def test_a_log_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*file/train.log"), log_to(tmp_path / "file/train.log"):
        note("x")


def test_a_folder_removed_meanwhile_is_made_again(tmp_path):
    with log_to(tmp_path / "run/train.log"):
        note("a")
        shutil.rmtree(tmp_path / "run")
        note("b")
    assert entries(tmp_path / "run/train.log") == ["note: b"]


def test_names_that_are_not_valid_text_can_be_logged(tmp_path):
    with log_to(tmp_path / "train.log"):
        note("caf\udce9.png")
    assert (tmp_path / "train.log").read_bytes().endswith(b"note: caf\xe9.png\n")
