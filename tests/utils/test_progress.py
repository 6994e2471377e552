import sys

from utils import progress as module
from utils.progress import progress


def test_progress_in_a_file_is_lines_now_and_then(monkeypatch, capfd):
    monkeypatch.setattr(module, "EVERY", 0)
    assert list(progress(iter("abc"), "pages", 3)) == ["a", "b", "c"]
    err = capfd.readouterr().err
    assert "\r" not in err
    assert [line.partition(",")[0] for line in err.splitlines()] == [f"pages: {n} of 3" for n in (1, 2, 3, 3)]


def test_progress_that_is_soon_over_says_nothing_in_a_file_unless_it_is_to_stay(capfd):
    list(progress(range(3), "pages"))
    assert capfd.readouterr().err == ""
    with progress(None, "training", 4, keep=True) as bar:
        bar.update(3)
        bar.set_postfix(loss="0.5", refresh=False)
        bar.update()
    assert capfd.readouterr().err == "training: 4 of 4, 00:00, loss 0.5\n"


def test_progress_on_a_screen_is_a_bar(monkeypatch, capfd):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    list(progress(range(3), "pages", keep=True))
    err = capfd.readouterr().err
    assert "\r" in err and "3/3" in err
