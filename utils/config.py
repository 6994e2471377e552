"""The keys of a configuration as pydantic models; utils/config_file.py reads the file.

Each field has the name of its YAML key, so `grep` leads from the file to the code.
"""

import math
import os
import re
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationInfo,
    field_validator,
    model_validator,
)

LONGEST_NAME = 255  # bytes, of a file or folder on all common systems
LONGEST_PATH = 3500  # bytes; Linux takes 4,095 with what a run writes below save_path
SIDES = (32, 8192)  # pixels


def _number(value: Any) -> Any:
    """A number from text: PyYAML (YAML 1.1) reads `4e-4` without a dot as text, but it is meant as a number."""
    try:
        return float(value) if isinstance(value, str) or type(value) is int else value
    except ValueError:
        return value
    except OverflowError:  # of hundreds of digits
        return math.inf


def _height_width(value: Any) -> Any:
    """256 means [256, 256]; a pair is (height, width)."""
    pair = tuple(value) if isinstance(value, list | tuple) else (value, value)
    if len(pair) != 2 or not all(type(side) is int and SIDES[0] <= side <= SIDES[1] for side in pair):
        raise ValueError("must be pixels from {} to {}: a whole number, or a list [height, width]".format(*SIDES))
    return pair


def _printable(value: str) -> str:
    """Check text that may be or become a path and appears in messages of one line."""
    if any(ord(character) < 32 or ord(character) == 127 for character in value):
        raise ValueError("must not contain control characters, such as \\n or \\t in double quotes: use single quotes")
    parts = [len(part.encode(errors="surrogateescape")) for part in re.split(r"[/\\]", value)]
    if max(parts) > LONGEST_NAME or sum(parts) + len(parts) > LONGEST_PATH:
        raise ValueError(f"is too long: a name has at most {LONGEST_NAME} characters, a path {LONGEST_PATH:,}")
    return value


def _single_folder(value: str) -> str:
    """Check `obj` and `run`: they name folders in the data set and the results, and must not lead out of these."""
    if value in (".", "..") or "/" in value or "\\" in value:
        raise ValueError("must be the name of one folder, not a path")
    if len(value.encode(errors="surrogateescape")) > 100:  # one name contains both and more
        raise ValueError("must be a name of at most 100 characters")
    return value


def _increasing(value: list[int]) -> list[int]:
    if sorted(set(value)) != value:
        raise ValueError("must be increasing, each level once, such as [1, 2, 3]")
    return value


def _device_name(value: str) -> str:
    """Check the device's name; engine/device.py rejects mps with its own message."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,3})?", value):
        raise ValueError("must be auto, cpu, cuda, or one of several GPUs by its number: cuda:0, cuda:1")
    return value


def _calibration(value: Any) -> Any:
    """Check `calibration`: a ratio, none, cross, or a fold, such as 2/5, the second of five parts."""
    word = re.fullmatch("none|cross|([1-9][0-9]?)/([1-9][0-9]?)", str(value := _number(value)))
    if not (0 < value < 1 if isinstance(value, float) else word and int(word[1] or 0) <= int(word[2] or 0)):
        raise ValueError("must be a number between 0 and 1, none or cross")
    return value


Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0, le=10**9)]
Rate = Annotated[Number, Field(gt=0, le=1000)]
NotNegative = Annotated[Number, Field(ge=0, le=10**6)]
Share = Annotated[Number, Field(ge=0, lt=1)]
Ratio = Annotated[Number, Field(gt=0, lt=1)]


def _names(value: bool | list[str]) -> bool | list[str]:
    """Check `unified`: with a list of categories in `obj`, it has become that list."""
    if value is True:
        raise ValueError("must come with several categories: obj=[a, b], or obj=all")
    return value


Text = Annotated[str, Field(min_length=1), AfterValidator(_printable)]
Folder = Annotated[Text, AfterValidator(_single_folder)]
FilePath = Annotated[Text, AfterValidator(os.path.expanduser)]  # ~ in a file is not for the shell
Paths = Annotated[list[FilePath], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]
Unified = Annotated[bool | list[Folder], AfterValidator(_names)]
Side = Annotated[int, Field(ge=SIDES[0], le=SIDES[1])]
Threads = Annotated[int, Field(gt=0, le=1024)]
Device = Annotated[str, AfterValidator(_device_name)]
Logger = Literal["tensorboard", "mlflow"]
Levels = Annotated[list[Annotated[int, Field(ge=0, le=99)]], Field(min_length=1), AfterValidator(_increasing)]
Widths = Annotated[list[Annotated[int, Field(gt=0, le=8192)]], Field(min_length=1)] | Literal["auto"] | None
Size = Annotated[
    tuple[int, int],
    BeforeValidator(_height_width),
    PlainSerializer(lambda size: size[0] if size[0] == size[1] else list(size)),
]


class Section(BaseModel):
    """A part of the file: unknown keys and wrong types are refused, and nothing is converted silently."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class CommonData(Section):
    """The keys under `TrainingData` that every method has."""

    batch_size: Count
    lr: Rate
    img_size: Size = (256, 256)  # pixels, height and width
    fit: Literal["squeeze", "pad"] = "squeeze"  # resize to exactly img_size, or keep the aspect ratio and pad
    crop_size: Size = (256, 256)  # centre crop after the resize; metrics are at this size
    tile: Size | None = None  # the networks see overlapping tiles of this size; none: the whole crop_size
    overlap: Annotated[Number, Field(ge=0, le=0.75)] = 0.25  # of neighbouring tiles, as a share of their sides
    roi: FilePath | None = None  # a mask of what is looked at, or a folder with one for each image; from the category
    val_ratio: Share = 0.2  # share of train/good held out to choose the model
    sigma: NotNegative = 0.0  # Gaussian blur of the map, in pixels

    @model_validator(mode="before")
    @classmethod
    def crop_defaults_to_the_whole_image(cls, values: Any) -> Any:
        known = isinstance(values, dict) and "img_size" in values
        return {"crop_size": values["img_size"], **values} if known else values

    @model_validator(mode="after")
    def sizes_fit(self):
        for key, outer in (("crop_size", "img_size"), (self.input_key, "crop_size")):
            sizes = getattr(self, key), getattr(self, outer)
            if any(part > side for part, side in zip(*sizes, strict=True)):
                part, side = ("{} x {}".format(*size) for size in sizes)
                raise ValueError(f"{key} {part} is larger than {outer} {side}")
        if self.sigma > max(self.input_size):
            raise ValueError(f"sigma {self.sigma:g} is wider than the image ({self.input_key} {max(self.input_size)})")
        return self

    @property
    def input_size(self) -> tuple[int, int]:
        """The size that the networks see: a tile's, or that of the whole image."""
        return self.tile or self.crop_size

    @property
    def input_key(self) -> str:
        """The key that a user changes to change it."""
        return "tile" if self.tile else "img_size" if self.crop_size == self.img_size else "crop_size"


class TrainingData(CommonData):
    """The keys of a method that counts epochs; a method's `Options` adds its own."""

    epochs: Count
    norm: bool = True  # compare unit-length feature vectors
    standardise: bool = False  # the teacher's channels to mean 0 and std 1 over the training images
    border: Annotated[int, Field(ge=0, le=100)] = 0  # outermost positions of a level; the nearest inner one counts


AnySection = TypeVar("AnySection", bound=Section)
AnyOptions = TypeVar("AnyOptions", bound=CommonData)


class FolderData(Section):
    """Where `reader: folder` finds images: folders or patterns, from the category's folder or data_path."""

    good: Paths = []
    test_good: Paths = []  # good images for the test only
    bad: Paths = []
    masks: Paths = []


class RunConfig(Section, Generic[AnyOptions]):
    """One run: which data, which method, which teacher, on what."""

    data_path: FilePath
    reader: Text = "auto"  # the layout of the data set: a key of datasets.readers.READERS; auto recognises it
    folder: FolderData = FolderData()
    distillType: Text
    backbone: Text
    obj: Folder
    unified: Unified = False  # one student for several categories; in a checked configuration, their names
    phase: Literal["train", "test"] = "train"
    save_path: FilePath = "results"
    weights: Text = "imagenet"  # imagenet | bundled | random | auto | path of a .safetensors or .pth file
    device: Device = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    # Share of train/good that only serves to choose the threshold; cross uses all of it, with a student for each fold.
    calibration: Annotated[float | str, BeforeValidator(_calibration)] = "none"
    part_pattern: Text | None = None  # regular expression: files with the same match in their names show one part
    false_reject_rate: Ratio = 0.01  # of good parts, at most, on average over calibration sets
    review_rate: Ratio | None = None  # of good parts that are rejected or reviewed; above false_reject_rate
    protocol: Literal["honest", "paper"] = "honest"  # paper: also report the epoch that is best on the test images
    run: Folder | None = None  # a name, for several runs of one category
    overwrite: bool = False  # replace a finished run that has other settings
    resume: bool = True  # continue an interrupted training of the same configuration
    threads: Threads | Literal["auto"] = "auto"  # of this process on a CPU; auto leaves busy cores to other processes
    compile: bool = False  # torch.compile for the networks
    workers: Annotated[int, Field(ge=0, le=256)] | Literal["auto"] = "auto"  # image-reading processes
    cache_mb: Annotated[int, Field(ge=0, le=10**9)] = 4096  # memory for decoded images and teacher features
    logger: Literal["none"] | Logger | list[Logger] = "none"  # they get what the CSV files have, too
    TrainingData: AnyOptions = Field(default={}, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def several_categories_are_one_run(cls, values: Any) -> Any:
        """`obj: [a, b]` with `unified: true` becomes `obj: a+b` with `unified: [a, b]`."""
        names = values.get("obj") if isinstance(values, dict) else None
        if not isinstance(names, list) or not names or values.get("unified") is not True:
            return values
        name = "+".join(map(str, names))
        name = name if len(name) <= 60 else f"{names[0]}+{len(names) - 1}_more"
        return values | {"obj": name, "unified": list(dict.fromkeys(map(str, names)))}

    @field_validator("part_pattern", "protocol")
    @classmethod
    def is_about_one_category(cls, value: str | None, known: ValidationInfo) -> str | None:
        if value not in (None, "honest") and known.data.get("unified"):
            raise ValueError("cannot be used with unified: it is about the images of a single category")
        return value


class Config(RunConfig[AnyOptions], Generic[AnyOptions]):
    """A run whose teacher is a backbone cut into levels."""

    out_indice: Levels = [1, 2, 3]


# They may change when a run is resumed, because they only decide where and how fast it is; readers' finds are hashed.
WITHOUT_EFFECT = {"phase", "run", "overwrite", "resume", "data_path", "save_path", "false_reject_rate"}
WITHOUT_EFFECT |= {"reader", "folder", "review_rate", "device", "threads", "compile", "workers", "cache_mb", "logger"}


def result_settings(config: RunConfig) -> dict[str, Any]:
    """All values that affect the result of a training, by dotted key."""
    values = config.model_dump(mode="json", exclude=WITHOUT_EFFECT)
    section = values.pop("TrainingData")
    for key in ("unified", "protocol"):
        if values[key] in (False, "honest"):
            values.pop(key)  # students that were trained before there was this key are the same
    section.pop("roi")  # a path; what it hides is in the hash of the images
    return values | {f"TrainingData.{key}": value for key, value in section.items()}
