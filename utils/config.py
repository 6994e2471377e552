"""Read, check and complete a configuration: YAML in, pydantic models out.

One key, one name: a field is called what the YAML calls it, so `grep` leads from the file to the code.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)

from utils.errors import UserError


def _number(value: Any) -> Any:
    """`4e-4` without a dot is text to PyYAML (YAML 1.1); people write it all the same and mean a number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            pass
    return value


def _height_width(value: Any) -> Any:
    """256 means [256, 256]; a pair is (height, width)."""
    if isinstance(value, int) and not isinstance(value, bool):
        return (value, value)
    return tuple(value) if isinstance(value, list) else value


def _single_folder(value: str) -> str:
    """`obj` names a folder of the data set and of the results, so it must not climb out of either."""
    if value in (".", "..") or "/" in value or "\\" in value:
        raise ValueError("must be the name of one folder inside data_path")
    return value


def _increasing(value: list[int]) -> list[int]:
    if sorted(set(value)) != value:
        raise ValueError("must be increasing, each level once")
    return value


def _device_name(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,3})?", value):
        raise ValueError("must be auto, cpu, cuda, mps, or one of several GPUs by its number: cuda:0, cuda:1")
    return value


Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0)]
Rate = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Share = Annotated[Number, Field(ge=0, lt=1)]
Text = Annotated[str, Field(min_length=1)]
Side = Annotated[int, Field(ge=32, le=8192)]
Device = Annotated[str, AfterValidator(_device_name)]
Levels = Annotated[list[int], Field(min_length=1), AfterValidator(_increasing)]
Size = Annotated[
    tuple[Side, Side],
    BeforeValidator(_height_width),
    PlainSerializer(lambda size: size[0] if size[0] == size[1] else list(size)),
]


class Section(BaseModel):
    """A part of the file: unknown keys and wrong types are refused, nothing is silently converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


AnySection = TypeVar("AnySection", bound=Section)


class CommonData(Section):
    """The keys under `TrainingData` that every method has."""

    batch_size: Count
    lr: Rate
    img_size: Size = (256, 256)  # pixels, height and width; the aspect ratio is not kept
    crop_size: Size = (256, 256)  # centre crop after the resize; metrics are at this size
    val_ratio: Share = 0.2  # share of train/good held out to choose the model
    sigma: NotNegative = 0.0  # Gaussian blur of the map, in pixels

    @model_validator(mode="before")
    @classmethod
    def crop_defaults_to_the_whole_image(cls, values: Any) -> Any:
        if isinstance(values, dict) and "img_size" in values:
            return {"crop_size": values["img_size"], **values}
        return values

    @model_validator(mode="after")
    def crop_fits(self):
        if any(crop > side for crop, side in zip(self.crop_size, self.img_size, strict=True)):
            raise ValueError(f"crop_size {self.crop_size} is larger than img_size {self.img_size}")
        return self


class TrainingData(CommonData):
    """The keys of a method that counts epochs; a method's `Options` adds its own."""

    epochs: Count
    norm: bool = True  # compare unit-length feature vectors


Options = TypeVar("Options", bound=CommonData)


class RunConfig(Section, Generic[Options]):
    """One run: which data, which method, which teacher, on what."""

    data_path: Text
    distillType: Text
    backbone: Text
    obj: Annotated[Text, AfterValidator(_single_folder)]
    phase: Literal["train", "test"] = "train"
    save_path: Text = "results"
    weights: Text = "imagenet"  # imagenet | bundled | random | auto | path of a .safetensors or .pth file
    device: Device = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    run: Annotated[Text, AfterValidator(_single_folder)] | None = None  # a name, for several runs of one category
    overwrite: bool = False  # replace a finished run that has other settings
    resume: bool = True  # continue an interrupted training of the same configuration
    threads: Count | Literal["auto"] = "auto"  # of this process on a CPU; auto leaves cores to what else is running
    compile: bool = False  # torch.compile for the networks
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"  # image-reading processes
    cache_mb: Annotated[int, Field(ge=0)] = 4096  # memory for decoded images and teacher features
    TrainingData: Options = Field(default={}, validate_default=True)


class Config(RunConfig[Options], Generic[Options]):
    """A run whose teacher is a backbone cut into levels."""

    out_indice: Levels = [1, 2, 3]


TEXT_KEYS = {"data_path", "backbone", "obj", "save_path", "weights", "penalty_path", "images"}

# These say where and how fast; a run may go on with others than it began with.
WITHOUT_EFFECT = {"phase", "run", "overwrite", "resume", "data_path", "save_path"}
WITHOUT_EFFECT |= {"device", "threads", "compile", "workers", "cache_mb"}


def read_config(source: str | Path | Mapping, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """The raw mapping of a YAML file (or a dict) with `key=value` overrides applied.

    Raises UserError for a missing or malformed file and for an override that is no `key=value`.
    """
    raw = dict(source) if isinstance(source, Mapping) else _read_yaml(Path(source))
    _rename_alias(raw)
    for key, section in raw.items():
        if isinstance(section, Mapping):
            raw[key] = dict(section)
    for word in overrides:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise UserError(f"'{word}' is no override: write key=value, such as TrainingData.epochs=10")
        try:
            value = yaml.safe_load(text)
            # A category may be called 01, which YAML takes for a number.
            is_text = key.strip().rpartition(".")[2] in TEXT_KEYS and isinstance(value, int | float)
            _assign(raw, key.strip(), text if is_text else value)
        except yaml.YAMLError:
            raise UserError(f"override '{word}': the value is not valid YAML") from None
    return raw


def check_config(
    raw: Mapping[str, Any], model: type[AnySection], name: str = "config", overrides: Iterable[str] = ()
) -> AnySection:
    """The mapping as a checked, complete `model`, such as Config[STPMTrainer.Options].

    Raises UserError naming the first wrong key, where it stands (file `name` or `overrides`), and, for an
    unknown one, the nearest right one.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        typed = {word.partition("=")[0].rpartition(".")[2] for word in overrides}
        where = "command line" if typed & {str(part) for part in first["loc"]} else name
        raise UserError(f"{where}: {_sentence(first, _known_keys(model))}") from None


def result_settings(config: RunConfig) -> dict[str, Any]:
    """What decides a training's result, by dotted key."""
    values = config.model_dump(mode="json", exclude=WITHOUT_EFFECT)
    section = values.pop("TrainingData")
    return values | {f"TrainingData.{key}": value for key, value in section.items()}


def joined(backbone: str | list[str]) -> str:
    """For the screen: resnet18 + efficientnet_b0."""
    return backbone if isinstance(backbone, str) else " + ".join(backbone)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"config file {path} cannot be read: {_reason(error)}") from None
    except yaml.YAMLError as error:
        where = f" (line {error.problem_mark.line + 1})" if getattr(error, "problem_mark", None) else ""
        problem = getattr(error, "problem", None) or "not readable"
        raise UserError(f"config file {path} is not valid YAML{where}: {problem}") from None
    if not isinstance(content, dict):
        raise UserError(f"config file {path} holds no keys; see configs/ for complete examples")
    return content


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or "it is not UTF-8 text"


def _rename_alias(raw: dict[str, Any]) -> None:
    if "training_data" in raw:
        if "TrainingData" in raw:
            raise UserError("config: 'training_data' is another name of 'TrainingData'; give one of them")
        raw["TrainingData"] = raw.pop("training_data")


def _assign(raw: dict[str, Any], key: str, value: Any) -> None:
    head, dot, rest = key.partition(".")
    head = "TrainingData" if head == "training_data" else head
    if not dot:
        raw[head] = value
    elif isinstance(raw.setdefault(head, {}), dict):
        _assign(raw[head], rest, value)
    else:
        raise UserError(f"override '{key}': '{head}' has no keys below it")


def _known_keys(model: type[Section]) -> list[str]:
    sections = {key: field.annotation for key, field in model.model_fields.items() if key == "TrainingData"}
    return [*model.model_fields, *(f"{key}.{name}" for key in sections for name in sections[key].model_fields)]


def _nearest(key: str, known: list[str]) -> str:
    """The known key a typo most likely meant; one in the wrong section is found by its last word."""
    last = key.rpartition(".")[2].lower()
    words = {name.rpartition(".")[2].lower(): name for name in known}
    close = difflib.get_close_matches(last, words, n=1)
    return f" Did you mean '{words[close[0]]}'?" if close else f" Known keys: {', '.join(known)}."


def _sentence(error: dict[str, Any], known: list[str]) -> str:
    """One pydantic error as a sentence about one key."""
    # Positions inside a list or a union's branch names say nothing to the user; known keys do.
    path = [str(part) for part in error["loc"]]
    key = next((".".join(path[:n]) for n in range(len(path), 0, -1) if ".".join(path[:n]) in known), ".".join(path))
    if error["type"] == "extra_forbidden" and len(path) == 1 and path[0] in known:
        return f"key '{path[0]}' must stand below 'TrainingData:', indented and without the prefix"
    if error["type"] == "extra_forbidden":
        return f"unknown key '{'.'.join(path)}'.{_nearest('.'.join(path), known)}"
    if error["type"] == "missing":
        return f"key '{'.'.join(path)}' is missing"
    if isinstance(error["input"], dict):
        return f"'{key}': {error['msg'].removeprefix('Value error, ')}"
    scalar = error["type"] == "string_type" and isinstance(error["input"], int | float)
    quotes = "; write it in quotes" if scalar else ""
    return f"'{key}': {error['msg'].removeprefix('Value error, ')} (got {error['input']!r}{quotes})"
