"""What readers share: folders that are named by split and defect type, as MVTec AD introduced them, and their masks."""

import os
import shlex
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from datasets.demo import CATEGORIES, DEFAULT_ROOT
from datasets.images import read_mask
from datasets.listing import contents, is_folder, list_images, printable, say_left_out
from datasets.sample import Sample
from utils.config import RunConfig
from utils.console import note
from utils.cores import allowed_cores
from utils.errors import UserError

Masks = dict[Path, Path]  # of images


def data_root(config: RunConfig) -> Path:
    """Raises UserError if `data_path` is no folder."""
    root = Path(config.data_path)
    if not is_folder(root):
        if root == Path(DEFAULT_ROOT):  # a known category would have been drawn
            raise no_category(config.data_path, config.obj, [])
        raise UserError(f"data_path: there is no folder {config.data_path}")
    return root


def check_category(config: RunConfig, there: Sequence[str]) -> None:
    """Raises UserError listing the existing categories if `obj` is none of them."""
    if config.obj not in there:
        raise no_category(config.data_path, config.obj, there)


def no_category(data_path: str, obj: str, there: Sequence[str]) -> UserError:
    if Path(data_path) == Path(DEFAULT_ROOT):
        there = sorted({*there, *CATEGORIES})
    if "train" in there:  # one folder too deep
        category = Path(os.path.abspath(data_path))
        words = shlex.join([f"data_path={category.parent}", f"obj={category.name}"])
        advice = f"this is a category itself: write {words}"
    else:
        advice = f"it has: {', '.join(there) or 'none'}"
    return UserError(f"obj: {data_path} has no category '{obj}' ({advice})")


def category_folder(config: RunConfig) -> Path:
    """The folder of `obj` in `data_path`. Raises UserError listing the folders that there are."""
    root = data_root(config)
    if not is_folder(root / config.obj):
        check_category(config, [folder.name for folder in contents(root).folders])
    return root / config.obj


def folders_with(root: Path, *parts: str) -> list[str]:
    """The names of the folders in `root` that have one of these files or folders."""
    # os.path.exists: a folder beside them that cannot be accessed does no harm.
    return [folder.name for folder in contents(root).folders if any(os.path.exists(folder / part) for part in parts)]


def good_images(split: Path, good: str = "good") -> list[Sample]:
    """The images of <split>/<good>, such as train/good. Raises UserError naming the folder if there are none.

    Notes name everything else in the split.
    """
    found = contents(split)
    check_case(found.folders, [good])
    images = list_images(split / good)
    if not images:
        advice = "put good ones there, or say which folder has them, such as folder.good=ok"
        if lying := found.images or contents(split.parent).images:
            advice = f"{len(lying)} images lie directly in {lying[0].parent}: move the good ones there"
        raise UserError(f"{split / good}: no images to train on (png, jpg, bmp, tif or webp); {advice}")
    only = f"because only images in {split.name}/{good} are used to train"
    say_left_out(split, f"folder(s), {only}", [path for path in found.folders if path.name != good])
    say_left_out(split, f"image(s), {only}", found.images)
    return [Sample(path, None, "good") for path in images]


def mask_files(ground_truth: Path, found: dict[str, list[Path]]) -> Masks:
    """The mask of each image: <type>/<stem>_mask.png or <type>/<stem>.png in `ground_truth`, in any image format."""
    masks = {}
    stray, folders, *_ = contents(ground_truth)
    check_types(folders)
    say_left_out(ground_truth, "mask(s) that are not in the folder of a defect type", stray)
    for folder in folders:
        images = {image.stem: image for image in found.get(folder.name, [])}
        for mask in unique(list_images(folder), "_mask"):
            stem = mask.stem.removesuffix("_mask")
            if stem not in images:
                named = "a mask has the name of its image, or that and _mask"
                raise UserError(f"{mask}: there is no image {folder.name}/{stem} among the test images ({named})")
            masks[images[stem]] = mask
    return masks


def typed_images(
    split: Path,
    ground_truth: Path,
    good: str = "good",
    masks_of: Callable[[Path, dict[str, list[Path]]], Masks] = mask_files,
) -> list[Sample]:
    """The images of <split>/<defect type>, of which `good` has the good ones; none if there is no such folder.

    Raises UserError for images outside the folders of the defect types, two images with the same name, a mask
    without image, or a folder whose name cannot be used.
    """
    stray, folders, *_ = contents(split)
    if stray:
        raise UserError(f"{stray[0]}: test images must be in a folder per defect type, such as {split / good}")
    folders = [folder for folder in folders if folder != ground_truth]
    check_types(folders, good)
    found = {folder.name: unique(list_images(folder)) for folder in folders}
    masks = masks_of(ground_truth, found)
    return [
        Sample(path, masks.get(path), "good" if name == good else name)
        for name, images in found.items()
        for path in images
    ]


def check_case(folders: list[Path], names: list[str]) -> None:
    """Raises UserError for names such as test/Good, which would be read as something else."""
    for folder in folders:
        if folder.name not in names and folder.name.lower() in names:
            raise UserError(f"{folder}: rename this folder to '{folder.name.lower()}', in lower case")


def check_types(folders: list[Path], good: str = "good") -> None:
    """Raises UserError for a folder name that cannot be a defect type, because a report could not contain it."""
    check_case(folders, [good])
    for folder in folders:
        try:
            folder.name.encode()
        except UnicodeEncodeError:
            name = printable(folder)
            raise UserError(f"{name}: the name of a defect type must be valid UTF-8; rename this folder") from None


def unique(images: list[Path], ending: str = "") -> list[Path]:
    """Returns `images`. Raises UserError if two share a name, because masks and result pictures are matched by it."""
    seen: dict[str, Path] = {}
    for image in images:
        other = seen.setdefault(image.stem.removesuffix(ending), image)
        if other != image:
            raise UserError(f"{image}: {other.name} has the same name; rename one of them")
    return images


def marked(masks: Sequence[Path]) -> list[bool]:
    """Whether each mask marks a defect, for data sets in which good images have empty masks. Raises as `read_mask`."""
    with ThreadPoolExecutor(allowed_cores()) as pool:
        return list(pool.map(lambda path: bool(read_mask(path).any()), masks))


def only_good(samples: Sequence[Sample], place: Path) -> list[Sample]:
    """The good images of a training split, without masks; a note counts the others.

    Raises UserError if there are none; `place` is the folder or file that they come from.
    """
    good = [sample._replace(mask=None) for sample in samples if sample.defect_type == "good"]
    if not good:
        raise UserError(f"{place}: no good images to train on")
    if len(good) < len(samples):
        note(f"{place}: left out {len(samples) - len(good)} defective images, because only good ones are used to train")
    return good


def existing(path: Path, source: Path) -> Path:
    """Returns `path`. Raises UserError if there is no such file, which `source` names."""
    if not path.is_file():
        raise UserError(f"{source}: it names {path}, but there is no such file")
    return path
