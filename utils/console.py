"""What a run says while it works: sentences and progress bars, once however many processes there are."""

import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

from utils.ranks import is_main

Item = TypeVar("Item")


def note(sentence: str) -> None:
    if is_main():
        tqdm.write(f"note: {sentence}", file=sys.stderr)


def progress(items: Iterable[Item], what: str, total: int | None = None, keep: bool = False) -> tqdm:
    """A bar around `items`; on a log file it writes a line every half minute instead of every step."""
    quiet = 0.1 if sys.stderr.isatty() else 30
    return tqdm(items, what, total, leave=keep, disable=not is_main(), mininterval=quiet, dynamic_ncols=True)
