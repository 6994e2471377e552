"""Which pictures show the same part."""

import re
from collections.abc import Sequence
from pathlib import Path

from utils.errors import UserError


def parts_of(paths: Sequence[Path], pattern: str | None) -> list[str]:
    """The part that each file shows: what its name matches of the regular expression `pattern`, or of its first group.

    Without a pattern each file is a part of its own. Raises UserError for a wrong expression, and naming a file that
    does not match.
    """
    if pattern is None:
        return [str(path) for path in paths]
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(f"part_pattern: {pattern!r} is not a regular expression: {error}") from None
    found = []
    for path in paths:
        match = expression.search(path.name)
        part = match and match[1 if expression.groups else 0]
        if not part:
            raise UserError(f"part_pattern: {pattern!r} finds nothing in the name of {path}")
        found.append(part)
    return found
