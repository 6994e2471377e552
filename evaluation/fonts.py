"""Names on pictures: fonts that have all letters, and shortening of long names."""

import unicodedata
import warnings
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, fontManager
from matplotlib.ft2font import FT2Font
from PIL import ImageFont

LAST_RESORT = "Last Resort"  # matplotlib's font of boxes for missing letters


class Font(NamedTuple):
    """An installed font: the name of its family, for matplotlib, and its file, for Pillow."""

    family: str
    file: str
    index: int = 0  # of the font in a file with several fonts

    def at(self, size: float) -> ImageFont.FreeTypeFont:
        """`size` in pixels."""
        return ImageFont.truetype(self.file, size, self.index)

    def letters(self) -> set[int]:
        return set(FT2Font(self.file).get_charmap())


# It comes with matplotlib: Latin, Greek, Cyrillic, Arabic and some more.
STANDARD = Font("DejaVu Sans", findfont("DejaVu Sans"))


def printable(text: str) -> str:
    """A name as it can be drawn: line breaks and bytes that are not UTF-8 become question marks."""
    return "".join("?" if unicodedata.category(letter) in ("Cc", "Cs") else letter for letter in text)


class Fonts:
    """The installed fonts that some texts need: the standard font, and others for letters that it does not have."""

    def __init__(self, texts: Iterable[str]):
        wanted = {ord(letter) for text in texts for letter in printable(text)}
        self.found = [(STANDARD, wanted & STANDARD.letters())]
        missing = wanted - STANDARD.letters()
        for font in installed() if missing else ():
            with suppress(OSError, RuntimeError):  # a deleted file, or a font format that cannot be drawn
                own = wanted & font.letters()
                if own & missing and font.at(12).getlength("a"):
                    self.found.append((font, own))
                    missing -= own
            if not missing:
                break

    def best(self, text: str) -> Font:
        """The font with the most letters of `text`, which is one of the texts; missing letters are drawn as boxes."""
        wanted = {ord(letter) for letter in printable(text)}
        return max(self.found, key=lambda pair: len(wanted & pair[1]))[0]


def installed() -> Iterable[Font]:
    """All installed fonts, upright ones of normal weight first."""
    entries = [entry for entry in fontManager.ttflist if not entry.name.startswith(LAST_RESORT)]
    entries.sort(key=lambda entry: (entry.style != "normal", abs(_weight(entry.weight) - 400), entry.name))
    return (Font(entry.name, entry.fname, getattr(entry, "index", 0)) for entry in entries)


def _weight(weight: int | str) -> int:
    """Weight as a number; some files give a word instead, if their weight is not the normal one."""
    return weight if isinstance(weight, int) else 700


def shortened(text: str, width: float, font: ImageFont.FreeTypeFont) -> str:
    """`text`, or only its beginning and end, so that it is at most `width` pixels long."""
    text = printable(text)
    kept, short = len(text), text
    while kept > 2 and font.getlength(short) > width:
        kept -= 1
        short = f"{text[: (kept + 1) // 2]}…{text[-(kept // 2) :]}"
    return short


def save(figure: Figure, path: Path, dpi: int) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # no installed font has it: a box is drawn
        figure.savefig(path, dpi=dpi)
