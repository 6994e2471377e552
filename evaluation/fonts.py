"""Names on pictures: fonts that have their letters, and names too long for their place."""

import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

from matplotlib.font_manager import findfont, fontManager
from matplotlib.ft2font import FT2Font
from PIL import ImageFont

LAST_RESORT = "Last Resort"  # matplotlib's font of boxes that stand for letters it does not have


class Font(NamedTuple):
    """A font of this machine: the name of its family, which matplotlib asks for, and its file, which Pillow does."""

    family: str
    file: str
    index: int = 0  # of the font in a file that holds several

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
    """The fonts of this machine that some texts need: the standard one, and others for letters that it lacks."""

    def __init__(self, texts: Iterable[str]):
        wanted = {ord(letter) for text in texts for letter in printable(text)}
        self.found = [(STANDARD, wanted & STANDARD.letters())]
        missing = wanted - STANDARD.letters()
        for font in installed() if missing else ():
            with suppress(OSError, RuntimeError):  # a file that has gone, or a kind of font that cannot be drawn here
                own = wanted & font.letters()
                if own & missing and font.at(12).getlength("a"):
                    self.found.append((font, own))
                    missing -= own
            if not missing:
                break

    def best(self, text: str) -> Font:
        """The one that has the most letters of one of the texts; a letter that none has is drawn as a box."""
        wanted = {ord(letter) for letter in printable(text)}
        return max(self.found, key=lambda pair: len(wanted & pair[1]))[0]


def installed() -> Iterable[Font]:
    """Upright fonts of ordinary weight come first."""
    entries = [entry for entry in fontManager.ttflist if not entry.name.startswith(LAST_RESORT)]
    entries.sort(key=lambda entry: (entry.style != "normal", abs(_weight(entry.weight) - 400), entry.name))
    return (Font(entry.name, entry.fname, getattr(entry, "index", 0)) for entry in entries)


def _weight(weight: int | str) -> int:
    """Some files name theirs: those of another weight than the ordinary one."""
    return weight if isinstance(weight, int) else 700


def shortened(text: str, width: float, font: ImageFont.FreeTypeFont) -> str:
    """`text`, or its beginning and its end, so that it is at most `width` pixels long."""
    text = printable(text)
    kept, short = len(text), text
    while kept > 2 and font.getlength(short) > width:
        kept -= 1
        short = f"{text[: (kept + 1) // 2]}…{text[-(kept // 2) :]}"
    return short
