"""What a data set's doctor says."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datasets.listing import printable

LISTED = 10  # files that a text names; the tables have all of them


class Finding(NamedTuple):
    """One fault of a data set: what is wrong in one sentence, what to do in another, and which files it is about."""

    kind: str  # unreadable, folders, masks, kinds, copies, shortcuts or outliers: headings of docs/check_data.md
    sentence: str
    advice: str
    files: Sequence[str] = ()

    def lines(self) -> list[str]:
        """For the screen."""
        more = len(self.files) - LISTED
        return [
            f"{self.kind}: {self.sentence}",
            *(f"    {name}" for name in self.files[:LISTED]),
            *([f"    and {more} more"] if more > 0 else []),
            f"  -> {self.advice}",
        ]

    def as_dict(self) -> dict[str, Any]:
        return self._asdict() | {"files": list(self.files)}


def names(paths: Iterable[Path], root: Path) -> list[str]:
    """Paths below the category as text; others, such as those of a folder of masks elsewhere, as they are."""
    return [printable(path.relative_to(root) if path.is_relative_to(root) else path) for path in paths]


def counted(number: int, what: str) -> str:
    """1 picture, 2 pictures."""
    return f"{number} {what}{'' if number == 1 else 's'}"
