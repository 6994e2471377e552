"""Read, check and complete a configuration: YAML in, pydantic models out.

One key, one name: a field is called what the YAML calls it, so `grep` leads from the file to the code.
"""

import copy
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Generic, Literal, TypeVar, Union, get_args, get_origin

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
from pydantic.fields import FieldInfo

from utils.errors import UserError
from utils.strict_yaml import parse, parse_word
from utils.wording import dotted, sentence

ROOT = Path(__file__).parents[1]
LONGEST_NAME = 255  # bytes, of a file or folder on all common systems
LONGEST_PATH = 3500  # bytes; Linux takes 4,095 with what a run writes below save_path
SIDES = (32, 8192)  # pixels


def _number(value: Any) -> Any:
    """`4e-4` without a dot is text to PyYAML (YAML 1.1); people write it all the same and mean a number."""
    if isinstance(value, str) or type(value) is int:
        try:
            return float(value)
        except ValueError:
            pass
        except OverflowError:  # of hundreds of digits
            return math.inf
    return value


def _height_width(value: Any) -> Any:
    """256 means [256, 256]; a pair is (height, width)."""
    pair = tuple(value) if isinstance(value, list | tuple) else (value, value)
    if len(pair) != 2 or not all(type(side) is int and SIDES[0] <= side <= SIDES[1] for side in pair):
        raise ValueError("must be pixels from {} to {}: a whole number, or a list [height, width]".format(*SIDES))
    return pair


def _printable(value: str) -> str:
    """Text may be or become a path, and stands in messages of one line."""
    if any(ord(character) < 32 or ord(character) == 127 for character in value):
        raise ValueError("must not hold line breaks or other control characters")
    parts = [len(part.encode(errors="surrogateescape")) for part in re.split(r"[/\\]", value)]
    if max(parts) > LONGEST_NAME or sum(parts) + len(parts) > LONGEST_PATH:
        raise ValueError(f"is too long: a name has at most {LONGEST_NAME} characters, a path {LONGEST_PATH:,}")
    return value


def _single_folder(value: str) -> str:
    """`obj` and `run` name a folder of the data set and of the results, so they must not climb out of either."""
    if value in (".", "..") or "/" in value or "\\" in value:
        raise ValueError("must be the name of one folder, not a path")
    if len(value.encode(errors="surrogateescape")) > 100:  # both are in one name, with more around it
        raise ValueError("must be a name of at most 100 characters")
    return value


def _increasing(value: list[int]) -> list[int]:
    if sorted(set(value)) != value:
        raise ValueError("must be increasing, each level once, such as [1, 2, 3]")
    return value


def _device_name(value: str) -> str:
    """One that engine/device.py answers; mps with a sentence of its own."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,3})?", value):
        raise ValueError("must be auto, cpu, cuda, or one of several GPUs by its number: cuda:0, cuda:1")
    return value


Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0, le=10**9)]
Rate = Annotated[Number, Field(gt=0, le=1000)]
NotNegative = Annotated[Number, Field(ge=0, le=10**6)]
Share = Annotated[Number, Field(ge=0, lt=1)]
Text = Annotated[str, Field(min_length=1), AfterValidator(_printable)]
Folder = Annotated[Text, AfterValidator(_single_folder)]
Side = Annotated[int, Field(ge=SIDES[0], le=SIDES[1])]
Threads = Annotated[int, Field(gt=0, le=1024)]
Device = Annotated[str, AfterValidator(_device_name)]
Levels = Annotated[list[Annotated[int, Field(ge=0, le=99)]], Field(min_length=1), AfterValidator(_increasing)]
Size = Annotated[
    tuple[int, int],
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
    def sizes_fit(self):
        if any(crop > side for crop, side in zip(self.crop_size, self.img_size, strict=True)):
            crop, side = ("{} x {}".format(*size) for size in (self.crop_size, self.img_size))
            raise ValueError(f"crop_size {crop} is larger than img_size {side}")
        if self.sigma > max(self.crop_size):
            raise ValueError(f"sigma {self.sigma:g} is a blur wider than the image (crop_size {max(self.crop_size)})")
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
    obj: Folder
    phase: Literal["train", "test"] = "train"
    save_path: Text = "results"
    weights: Text = "imagenet"  # imagenet | bundled | random | auto | path of a .safetensors or .pth file
    device: Device = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    run: Folder | None = None  # a name, for several runs of one category
    overwrite: bool = False  # replace a finished run that has other settings
    resume: bool = True  # continue an interrupted training of the same configuration
    threads: Threads | Literal["auto"] = "auto"  # of this process on a CPU; auto leaves cores to what else is running
    compile: bool = False  # torch.compile for the networks
    workers: Annotated[int, Field(ge=0, le=256)] | Literal["auto"] = "auto"  # image-reading processes
    cache_mb: Annotated[int, Field(ge=0, le=10**9)] = 4096  # memory for decoded images and teacher features
    TrainingData: Options = Field(default={}, validate_default=True)


class Config(RunConfig[Options], Generic[Options]):
    """A run whose teacher is a backbone cut into levels."""

    out_indice: Levels = [1, 2, 3]


# These say where and how fast; a run may go on with others than it began with.
WITHOUT_EFFECT = {"phase", "run", "overwrite", "resume", "data_path", "save_path"}
WITHOUT_EFFECT |= {"device", "threads", "compile", "workers", "cache_mb"}


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
        raw["TrainingData"].pop("crop_size")  # what was the whole image stays the whole image
    return raw


def check_config(
    raw: Mapping[str, Any], model: type[AnySection], name: str = "config", overrides: Iterable[str] = ()
) -> AnySection:
    """The mapping as a checked, complete `model`, such as Config[STPMTrainer.Options].

    Raises UserError naming the first wrong key, where it stands (file `name` or `overrides`), and, for an
    unknown one, the nearest right one.
    """
    raw, words = copy.deepcopy(dict(raw)), dict(map(_split, overrides))
    for key, text in words.items():  # only the model knows which keys are text
        value = _verbatim(model, key, text)
        if value is not None:
            _assign(raw, key, value)
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        errors = error.errors()
        where = "command line" if _is_about(errors[0], words, _sections(model)) else name
        raise UserError(f"{where}: {sentence(errors, _known_keys(model))}") from None


def place(source: str | Path | Mapping, overrides: Iterable[str] = (), key: str | None = None) -> str:
    """What to blame in a message: the command line if `key` is among the overrides, else the file."""
    if key is not None and key in {_split(word)[0] for word in overrides}:
        return "command line"
    return "config" if isinstance(source, Mapping) else str(source)


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
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or no possible name
        raise UserError(f"config file {path} cannot be read: {_reason(error)}{_elsewhere(path)}") from None
    try:
        content = parse(text)
    except ValueError as error:
        raise UserError(f"config file {path} is not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"config file {path} holds no keys; see configs/ for complete examples")
    return content


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or "it is not UTF-8 text"


def _elsewhere(path: Path) -> str:
    """Whoever stands in another folder meant a file of the toolkit's."""
    there = ROOT / path
    return f"; did you mean {there}?" if there != path and not path.exists() and there.is_file() else ""


def _rename_alias(raw: dict[str, Any], where: str) -> None:
    if "training_data" in raw:
        if "TrainingData" in raw:
            raise UserError(f"{where}: 'training_data' is another name of 'TrainingData'; give one of them")
        raw["TrainingData"] = raw.pop("training_data")


def _split(word: str) -> tuple[str, str]:
    """An override's dotted key and the text behind the equals sign."""
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
        raise UserError(f"command line: '{head}' has no keys below it, so there is no '{key}'")


def _verbatim(model: type[Section], key: str, text: str) -> str | None:
    """The override of a key that is text, as it was typed: a folder may be called 01, null, *x or "run #3".

    None for other keys, and for a list where the key may be one. Quotes around the whole are YAML's.
    """
    section, _, last = key.rpartition(".")
    field = _sections(model).get(section, {}).get(last)
    value = parse_word(text)
    types = _types(field.annotation) if field else set()
    if str not in types or (list in types and isinstance(value, list)):
        return None
    return value if isinstance(value, str) and text.lstrip()[:1] in ("'", '"') else text


def _types(annotation: Any) -> set[Any]:
    """str, list and their like that a field may be."""
    origin = get_origin(annotation)
    if origin in (Union, UnionType, Annotated):
        return set().union(*map(_types, get_args(annotation)))
    return {origin or annotation}


def _is_about(error: Mapping[str, Any], keys: Iterable[str], sections: Iterable[str]) -> bool:
    """Whether one of the overridden `keys` is at fault, or is named in a fault of a whole section."""
    at, words = dotted(error), set(re.findall(r"\w+", error["msg"]))
    if at in sections and error["type"] == "value_error":
        return any(key.rpartition(".")[0] == at and key.rpartition(".")[2] in words for key in keys)
    return any(f"{at}.".startswith(f"{key}.") or key.startswith(f"{at}.") for key in keys)


def _is_uncropped(section: Any) -> bool:
    """Whether a file's section gives one size as img_size and crop_size."""
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
