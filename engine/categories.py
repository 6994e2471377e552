"""The categories of a data set, and the runs that a configuration with several of them asks for."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import readers
from datasets.demo import CATEGORIES, DEFAULT_ROOT
from datasets.readers.layout import no_category
from utils.config_file import read_config
from utils.errors import UserError


def categories(data_path: Path, wanted: str | Sequence[str], reader: str = readers.AUTO) -> list[str]:
    """The wanted categories, each once; `all` are those that the reader finds, or those of the demo data.

    Raises UserError if there are none.
    """
    if wanted not in ("all", ["all"]):
        return list(dict.fromkeys(wanted))
    if data_path == Path(DEFAULT_ROOT):  # its runs draw what is missing
        return list(CATEGORIES)
    data_path = Path(os.path.expanduser(data_path))
    found = readers.categories(data_path, reader)
    if not found and (data_path / "train").exists():
        raise no_category(str(data_path), "all", ["train"])
    if not found:
        raise UserError(f"data_path: there is no data set in {data_path}; docs/data.md shows the layouts")
    return found


def several(raw: dict[str, Any]) -> list[str] | None:
    """The categories of a configuration as read, if its `obj` is a list or `all`; None if it is a single one.

    Raises UserError for an empty list, or one of other things than names, and as `categories`.
    """
    obj = raw.get("obj")
    if obj != "all" and not isinstance(obj, list):
        return None
    if not obj:
        raise UserError("obj: the list is empty; give one category or more")
    if wrong := [name for name in obj if isinstance(name, list | dict)]:
        raise UserError(f"obj: {wrong[0]} is not the name of a category; write a list of names, such as [screw, nut]")
    return categories(Path(str(raw.get("data_path"))), obj, str(raw.get("reader", readers.AUTO)))


def runs_of(
    source: str | Mapping[str, Any], overrides: Sequence[str]
) -> dict[str | None, tuple[str | Mapping[str, Any], list[str]]]:
    """What `build_trainer` takes for each run that a configuration asks for, by category.

    The key is None if there is one run: of one category, or with `unified` of several. Raises as `several`.
    """
    raw = read_config(source, overrides)
    names = several(raw)
    if names is None:
        return {None: (source, [*overrides])}
    if raw.get("unified"):  # a word `obj=[a,b]` would be read as the name of one folder
        return {None: (raw | {"obj": names}, [word for word in overrides if word.partition("=")[0].strip() != "obj"])}
    return {name: (source, [*overrides, f"obj={name}"]) for name in names}
