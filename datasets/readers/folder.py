"""Any folders: the section `folder` of the configuration says where good and defective images and masks are.

Paths are folders, with all images in and below them, or patterns such as "2024-*/ok/*.png". They begin in
<data_path>/<obj> if there is such a folder, or else in <data_path>. The defect type of a defective image is the name of
the folder that it is in.
"""

import glob
import os
from collections import Counter, defaultdict
from pathlib import Path

from datasets.listing import SUFFIXES, is_folder, list_images_below
from datasets.parts import parts_of
from datasets.readers.layout import data_root
from datasets.regions import home
from datasets.sample import Sample
from utils.config import RunConfig
from utils.errors import UserError

TESTED = 5  # every fifth good part is for the test, if there are defective images but no good ones for the test


def categories(root: Path) -> list[str]:
    return []  # the layout is unknown


def train_samples(config: RunConfig) -> list[Sample]:
    """Raises UserError for a path where nothing is."""
    train, _ = _good(config)
    return [Sample(path, None, "good") for path in train]


def test_samples(config: RunConfig) -> list[Sample]:
    """Raises UserError for a path where nothing is, a mask without image, and a defective image in a folder `good`."""
    bad, masks = _bad(config), _masks(config)
    for path in bad:
        if path.parent.name == "good":
            raise UserError(f"folder.bad: {path} is in a folder named 'good'; rename the folder")
    samples = [Sample(path, None, "good") for path in _good(config)[1]]
    samples += [Sample(path, masks.pop(path, None), path.parent.name) for path in bad]
    return _named(samples, home(config))


def _good(config: RunConfig) -> tuple[list[Path], list[Path]]:
    """To train on, and to test on. An image that is also among others is no image to train on."""
    data_root(config)
    if not config.folder.good:
        raise UserError("folder.good: say which folder has the good images, such as folder.good=ok")
    bad, test = _bad(config), _found(config, "test_good")
    good = _without(_found(config, "good"), [*bad, *test, *_found(config, "masks")])
    if bad and not test:
        parts = parts_of(good, config.part_pattern)
        tested = set(list(dict.fromkeys(parts))[TESTED - 1 :: TESTED])
        test = [path for path, part in zip(good, parts, strict=True) if part in tested]
        good = [path for path, part in zip(good, parts, strict=True) if part not in tested]
    if not good:
        raise UserError(f"folder.good: no images to train on in {', '.join(config.folder.good)}")
    return good, test


def _bad(config: RunConfig) -> list[Path]:
    return _without(_found(config, "bad"), _found(config, "masks"))


def _without(paths: list[Path], others: list[Path]) -> list[Path]:
    """The files that are not among the others, however both are spelled."""
    known = set(map(os.path.realpath, others))
    return [path for path in paths if os.path.realpath(path) not in known]


def _found(config: RunConfig, key: str) -> list[Path]:
    """The images at the paths of a key, sorted."""
    images: set[Path] = set()
    root = home(config)
    for text in getattr(config.folder, key):
        pattern = text if Path(text).is_absolute() else f"{glob.escape(str(root))}/{text}"
        places = [root / text] if is_folder(root / text) else map(Path, glob.glob(pattern, recursive=True))
        places = list(places)
        if not places:
            raise UserError(f"folder.{key}: there is nothing at {root / text}")
        for place in places:
            if is_folder(place):
                images.update(list_images_below(place))
            elif place.suffix.lower() in SUFFIXES:
                images.add(place)
    return sorted(images)


def _masks(config: RunConfig) -> dict[Path, Path]:
    """The mask of each defective image: <name>.png or <name>_mask.png, in a folder of the same name or else in any."""
    by_place, by_stem = defaultdict(list), defaultdict(list)
    for path in _bad(config):
        by_place[_place(path)].append(path)
        by_stem[_stem(path)].append(path)
    masks: dict[Path, Path] = {}
    # Those in a folder of the same name first.
    for mask in sorted(_found(config, "masks"), key=lambda mask: not by_place[_place(mask)]):
        having = by_place[_place(mask)] or [path for path in by_stem[_stem(mask)] if path not in masks]
        if len(having) != 1 or having[0] in masks:
            if len(having) == 1:
                raise UserError(f"folder.masks: {mask} is a second mask of {having[0]}")
            what = "more than one" if having else "no"
            raise UserError(f"folder.masks: there is {what} defective image {_stem(mask)} for {mask}")
        masks[having[0]] = mask
    return masks


def _stem(path: Path) -> str:
    return path.stem.removesuffix("_mask")


def _place(path: Path) -> tuple[str, str]:
    return path.parent.name, _stem(path)


def _named(samples: list[Sample], root: Path) -> list[Sample]:
    """The samples; those that would have the same name as others are named after all of their path."""
    counts = Counter(sample.name for sample in samples)
    twice = {sample.path for sample in samples if counts[sample.name] > 1}
    return [sample._replace(own_name=_long(sample.path, root) if sample.path in twice else None) for sample in samples]


def _long(path: Path, root: Path) -> str:
    inside = path.relative_to(root) if root in path.parents else path
    return "_".join(part for part in inside.with_suffix("").parts if part != path.anchor)
