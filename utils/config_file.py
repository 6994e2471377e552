"""Read and check a configuration: from YAML and `key=value` arguments to the models of utils/config.py."""

import copy
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from utils.command import ROOT
from utils.config import AnySection, Section
from utils.errors import UserError
from utils.strict_yaml import parse, parse_word
from utils.wording import dotted, sentence

NULLS = ("null", "Null", "NULL", "~")  # YAML's


def read_config(source: str | Path | Mapping, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """The raw mapping of a YAML file (or a dict) with `key=value` overrides applied.

    Raises UserError for a missing or malformed file and for an override that is not of the form key=value.
    """
    raw = copy.deepcopy(dict(source)) if isinstance(source, Mapping) else _read_yaml(Path(source))
    _rename_alias(raw, place(source))
    words, whole = dict(map(_split, overrides)), _is_uncropped(raw.get("TrainingData"))
    for key, text in words.items():
        _assign(raw, key, parse_word(text))
    if whole and "TrainingData.img_size" in words and "TrainingData.crop_size" not in words:
        raw["TrainingData"].pop("crop_size")  # no crop stays no crop
    return raw


def check_config(
    raw: Mapping[str, Any],
    model: type[AnySection],
    name: str = "config",
    overrides: Iterable[str] = (),
    methods: Mapping[str, type[Section]] = MappingProxyType({}),
) -> AnySection:
    """The mapping as a checked, complete `model`, such as Config[STPMTrainer.Options].

    Raises UserError naming the first wrong key, where it was given (file `name` or `overrides`), and, for an
    unknown key, those of `methods` that have it, or the most similar known one.
    """
    raw, words = copy.deepcopy(dict(raw)), dict(map(_split, overrides))
    for key, text in words.items():  # only the model knows which keys are text
        value = _verbatim(model, key, text)
        if value is not None:
            _assign(raw, key, value)
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        errors = sorted(error.errors(), key=lambda each: each["type"] == "missing")  # misspelt rather than missing
        where = "command line" if _is_about(errors[0], words, _sections(model)) else name
        having = [method for method, other in methods.items() if dotted(errors[0]) in _known_keys(other)]
        raise UserError(f"{where}: {sentence(errors, _known_keys(model), having)}") from None


def place(source: str | Path | Mapping, overrides: Iterable[str] = (), key: str | None = None) -> str:
    """Where `key` was given, for a message: the command line if it is among the overrides, else the file."""
    if key is not None and key in {_split(word)[0] for word in overrides}:
        return "command line"
    return "config" if isinstance(source, Mapping) else str(source)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or no possible name
        raise UserError(f"config file {path} cannot be read: {_reason(error)}{_elsewhere(path)}") from None
    try:
        content = parse(text)
    except ValueError as error:
        hint = "; \\ has a special meaning in double quotes: use single quotes" if "escape" in str(error) else ""
        raise UserError(f"config file {path} is not valid YAML: {error}{hint}") from None
    if not isinstance(content, dict):
        raise UserError(f"config file {path} has no keys; see configs/ for complete examples")
    return content


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or "it is not UTF-8 text"


def _elsewhere(path: Path) -> str:
    """A hint for users in another folder: the toolkit's file of this name, if it has one."""
    there = ROOT / path
    return f"; did you mean {there}?" if there != path and not path.exists() and there.is_file() else ""


def _rename_alias(raw: dict[str, Any], where: str) -> None:
    if "training_data" in raw:
        if "TrainingData" in raw:
            raise UserError(f"{where}: 'training_data' is another name for 'TrainingData'; give only one of them")
        raw["TrainingData"] = raw.pop("training_data")


def _split(word: str) -> tuple[str, str]:
    """An override's dotted key and the text after the equals sign."""
    key, equals, text = word.partition("=")
    head, dot, rest = key.strip().partition(".")
    if not equals or not head:
        raise UserError(f"command line: '{word}' is not of the form key=value, such as TrainingData.epochs=10")
    return ("TrainingData" if head == "training_data" else head) + dot + rest, text


def _assign(raw: dict[str, Any], key: str, value: Any) -> None:
    head, dot, rest = key.partition(".")
    if not dot:
        raw[head] = value
    elif isinstance(raw.setdefault(head, {}), dict):
        _assign(raw[head], rest, value)
    else:
        raise UserError(f"command line: '{head}' has no keys of its own, so there is no '{key}'")


def _verbatim(model: type[Section], key: str, text: str) -> str | None:
    """The override of a key that is text, as it was typed: a folder may be called 01, *x or "run #3".

    None for other keys, for a list if the key may be a list, and for null if the key may be left out. Quotes around the
    whole text are read as YAML's.
    """
    section, _, last = key.rpartition(".")
    field = _sections(model).get(section, {}).get(last)
    value = parse_word(text)
    types = _types(field.annotation) if field else set()
    if str not in types or (list in types and isinstance(value, list)) or (NoneType in types and text in NULLS):
        return None
    return value if isinstance(value, str) and text.lstrip()[:1] in ("'", '"') else text


def _types(annotation: Any) -> set[Any]:
    """The types that a field may have, such as str and list."""
    origin = get_origin(annotation)
    if origin in (Union, UnionType, Annotated):
        return set().union(*map(_types, get_args(annotation)))
    return {origin or annotation}


def _is_about(error: Mapping[str, Any], keys: Iterable[str], sections: Iterable[str]) -> bool:
    """Whether the error is about one of the overridden `keys`, or about a section and mentions one of them."""
    at, words = dotted(error), set(re.findall(r"\w+", error["msg"]))
    if at in sections and error["type"] == "value_error":
        return any(key.rpartition(".")[0] == at and key.rpartition(".")[2] in words for key in keys)
    return any(f"{at}.".startswith(f"{key}.") or key.startswith(f"{at}.") for key in keys)


def _is_uncropped(section: Any) -> bool:
    """Whether a file's section gives the same size as img_size and crop_size."""
    if not isinstance(section, dict) or not {"img_size", "crop_size"} <= section.keys():
        return False
    img, crop = (
        [size, size] if isinstance(size, int) else size for size in (section["img_size"], section["crop_size"])
    )
    return img == crop


def _sections(model: type[Section]) -> dict[str, dict[str, FieldInfo]]:
    """The fields of the file itself, "", and of its sections, by name."""
    sections = {key: field.annotation for key, field in model.model_fields.items()}
    below = {key: kind.model_fields for key, kind in sections.items() if isinstance(kind, type(Section))}
    return {"": model.model_fields} | below


def _known_keys(model: type[Section]) -> list[str]:
    return [f"{section}.{key}".lstrip(".") for section, fields in _sections(model).items() for key in fields]
