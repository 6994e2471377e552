"""The layouts of data sets: a reader is a module that finds the images of a category, and a line in READERS.

It has these functions; docs/data.md shows the folders that each reader expects.

    categories(root) -> the names of the categories in a folder, none if the folder has another layout
    train_samples(config) -> the good images to train on
    test_samples(config) -> the images to test on, none if there are none
    validation_samples(config) -> only if the data set has a validation set of its own: its good images
"""

from importlib import import_module
from pathlib import Path
from types import ModuleType

from datasets.listing import is_folder
from datasets.regions import RoiFiles, home
from datasets.sample import Sample
from utils.config import RunConfig
from utils.errors import UserError

AUTO = "auto"
READERS = {  # name: module, imported when it is needed; `reader: auto` tries them in this order
    "visa": "visa",
    "visa_2cls_fewshot": "visa",
    "visa_2cls_highshot": "visa",
    "realiad": "realiad",
    "realiad_sv": "realiad",
    "kolektor": "kolektor",
    "kolektor2": "kolektor2",
    "dagm": "dagm",
    "btad": "btad",
    "mvtec_ad2": "mvtec_ad2",
    "mvtec_loco": "mvtec_loco",
    "mvtec": "mvtec",
    "mpdd": "mvtec",
    "folder": "folder",
}


def train_samples(config: RunConfig) -> list[Sample]:
    """The good images to train on. Raises UserError for a folder without them, and as the reader and `RoiFiles` do."""
    return [sample for each in _each(config) for sample in _looked_at(each, reader_of(each).train_samples(each))]


def validation_samples(config: RunConfig) -> list[Sample]:
    """The good images of the data set's own validation set; none if it has no such set. Raises as `train_samples`."""
    samples = []
    for each in _each(config):
        read = getattr(reader_of(each), "validation_samples", None)
        samples += _looked_at(each, read(each)) if read else []
    return samples


def test_samples(config: RunConfig) -> list[Sample]:
    """The images to test on, none if there are none.

    Raises UserError for two images of the same name, masks for only some defective images, and as `train_samples`.
    """
    several, samples = _each(config), []
    for each in several:
        found = _looked_at(each, reader_of(each).test_samples(each))
        _check_names(found)
        _check_masks(found)
        samples += [sample._replace(own_name=f"{each.obj}_{sample.stem}") for sample in found] if several[1:] else found
    return samples


def _each(config: RunConfig) -> list[RunConfig]:
    """A configuration for each category: several if one student is for all of them."""
    if not config.unified or config.obj in config.unified:
        return [config]
    return [config.model_copy(update={"obj": name}) for name in config.unified]


def categories(root: Path, reader: str = AUTO) -> list[str]:
    """The names that `obj` may have in a folder, sorted; with `auto`, those of all layouts in it.

    Raises UserError for an unknown reader, and for `folder`, which has no list of categories.
    """
    if reader == "folder":
        raise UserError("obj: the reader 'folder' cannot find the categories itself; name them, such as obj=[a, b]")
    modules = [_module(name) for name in dict.fromkeys(READERS.values())] if reader == AUTO else [_named(reader)]
    return sorted({name for module in modules for name in module.categories(root)} if is_folder(root) else [])


def is_there(config: RunConfig) -> bool:
    """Whether a category of this configuration is in its data set, even if something is wrong with it."""
    root, names = Path(config.data_path), config.unified or [config.obj]
    if reader_of(config) is _module("folder"):  # any folders of any names
        return is_folder(root)
    return any(is_folder(root / name) for name in names) or not {*names}.isdisjoint(categories(root, config.reader))


def reader_of(config: RunConfig) -> ModuleType:
    """The reader that `reader` names; with `auto`, the first that finds the category, or one that says what it lacks.

    Raises UserError for an unknown name.
    """
    if config.reader != AUTO:
        return _named(config.reader)
    if config.folder.good:
        return _module("folder")
    root = Path(config.data_path)
    if not is_folder(root):
        return _module("mvtec")  # it says so
    modules = [_module(name) for name in dict.fromkeys(READERS.values())]
    there = [(module, names) for module in modules if (names := module.categories(root))]
    for module, names in there:
        if config.obj in names:
            return module
    return _module("mvtec") if not there or is_folder(root / config.obj) else there[0][0]


def _named(reader: str) -> ModuleType:
    if reader not in READERS:
        raise UserError(f"reader: there is no reader '{reader}' (there are: {', '.join([AUTO, *READERS])})")
    return _module(READERS[reader])


def _module(name: str) -> ModuleType:
    return import_module(f"datasets.readers.{name}")


def _looked_at(config: RunConfig, samples: list[Sample]) -> list[Sample]:
    """The samples with their masks of what is looked at."""
    roi = RoiFiles(home(config), config.TrainingData.roi)
    return [sample._replace(roi=roi.of(sample.path)) for sample in samples]


def _check_names(samples: list[Sample]) -> None:
    """Raises UserError if two images share a name, because result pictures are named by it."""
    seen: dict[str, Path] = {}
    for sample in samples:
        other = seen.setdefault(sample.name, sample.path)
        if other != sample.path:
            raise UserError(f"{sample.path}: {other} has the same name; rename one of them")


def _check_masks(samples: list[Sample]) -> None:
    defective = [sample for sample in samples if sample.defect_type != "good"]
    without = [sample for sample in defective if sample.mask is None]
    if without and len(without) < len(defective):
        raise UserError(
            f"{without[0].path}: this image has no mask ({len(without)} of {len(defective)} defective images "
            "have none; give a mask to all of them or to none)"
        )
