"""Names on pictures, in any script and of any length."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from matplotlib import get_data_path

from evaluation import fonts
from evaluation.fonts import STANDARD, Font, Fonts, printable, shortened

FILES = Path(get_data_path()) / "fonts/ttf"  # part of matplotlib


def font_for(text):
    return Fonts([text]).best(text)


def entry(name, file, style="normal", weight=400):
    return SimpleNamespace(name=name, fname=str(FILES / file), style=style, weight=weight)


def only(monkeypatch, *entries):
    """Let this machine have only these fonts."""
    monkeypatch.setattr(fonts, "fontManager", SimpleNamespace(ttflist=list(entries)))


@pytest.mark.parametrize("name", ["hole / 003", "Größe", "дефект", "خلل", "ελάττωμα", "raw \udcff", "two\nlines", ""])
def test_the_standard_font_is_taken_where_it_has_all_letters(name):
    assert font_for(name) == STANDARD


def test_another_font_of_the_machine_is_taken_for_letters_that_the_standard_one_lacks(monkeypatch):
    roman, maths = entry("cmr10", "cmr10.ttf"), entry("STIXGeneral", "STIXGeneral.ttf")
    assert ord("𝒜") not in STANDARD.letters()
    only(monkeypatch, roman, maths)
    assert font_for("curve 𝒜").family == "STIXGeneral"
    assert font_for("plain") == STANDARD
    only(monkeypatch, roman)
    assert font_for("curve 𝒜") == STANDARD


def test_each_of_many_names_has_the_font_that_suits_it(monkeypatch):
    """A font without Russian letters, needed for one name, is not used for a Russian one."""
    only(monkeypatch, entry("STIXGeneral", "STIXGeneral.ttf"))
    names = ["curve 𝒜", "дефект خلل", "hole"]
    assert [Fonts(names).best(name).family for name in names] == ["STIXGeneral", "DejaVu Sans", "DejaVu Sans"]


def test_fonts_that_cannot_be_opened_are_passed_over(monkeypatch, tmp_path):
    (tmp_path / "no.ttf").write_bytes(b"no font")
    gone, damaged = SimpleNamespace(**vars(entry("Gone", "x.ttf"))), entry("Damaged", "cmr10.ttf")
    damaged.fname = str(tmp_path / "no.ttf")
    only(monkeypatch, gone, damaged, entry("STIXGeneral", "STIXGeneral.ttf"))
    assert font_for("curve 𝒜").family == "STIXGeneral"


def test_upright_letters_of_ordinary_weight_come_first_and_boxes_not_at_all(monkeypatch):
    only(
        monkeypatch,
        entry("Bold", "STIXGeneralBol.ttf", weight=700),
        entry("Black", "STIXGeneralBol.ttf", weight="black"),
        entry("Italic", "STIXGeneralItalic.ttf", style="italic"),
        entry("Last Resort High-Efficiency", "cmr10.ttf"),
        entry("Plain", "STIXGeneral.ttf"),
    )
    assert [font.family for font in fonts.installed()] == ["Plain", "Black", "Bold", "Italic"]


def test_letters_that_no_font_has_are_drawn_as_boxes(monkeypatch):
    only(monkeypatch)
    font = font_for("缺陷")
    assert font == STANDARD and font.at(12).getmask("缺陷").getbbox() is not None


def test_the_last_resort_of_matplotlib_is_among_the_fonts_that_are_left_out():
    families = [font.family for font in fonts.installed()]
    assert "DejaVu Sans" in families and not any(family.startswith("Last Resort") for family in families)


@pytest.mark.parametrize(
    ("name", "drawn"),
    [("a\nb", "a?b"), ("raw \udcff\udc80", "raw ??"), ("tab\t", "tab?"), ("خلل ١", "خلل ١"), ("a/b $x$", "a/b $x$")],
)
def test_what_cannot_be_drawn_becomes_a_question_mark(name, drawn):
    assert printable(name) == drawn
    STANDARD.at(12).getlength(printable(name))


def test_a_long_name_keeps_its_beginning_and_its_end():
    font = STANDARD.at(13)
    name = "hole / " + "very_long_name_" * 20 + "0037"
    short = shortened(name, 300, font)
    assert font.getlength(short) <= 300 < font.getlength(short[:-4] + "xxx" + short[-4:])
    head, tail = short.split("…")
    assert name.startswith(head) and name.endswith(tail) and abs(len(head) - len(tail)) <= 1


def test_a_name_that_fits_is_not_shortened():
    font = STANDARD.at(13)
    assert shortened("hole / 003", 300, font) == "hole / 003"
    assert shortened("hole / 003", font.getlength("hole / 003"), font) == "hole / 003"


def test_a_font_within_a_collection_of_fonts_is_addressed_by_its_index():
    assert Font(STANDARD.family, STANDARD.file, 0).at(12).getname()[0] == "DejaVu Sans"
    with pytest.raises(OSError):
        Font(STANDARD.family, STANDARD.file, 1).at(12)
