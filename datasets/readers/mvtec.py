"""A data set in MVTec layout: <data_path>/<obj>/{train/good, test/<defect type>, ground_truth/<defect type>}.

Hidden folders, such as .ipynb_checkpoints, are ignored. Folder names are in lower case, as written here.
"""

from pathlib import Path

from datasets.dataset import Sample
from datasets.listing import contents, is_folder, list_images, printable, say_left_out
from datasets.regions import RoiFiles
from utils.config import RunConfig
from utils.errors import UserError


def train_samples(config: RunConfig) -> list[Sample]:
    """The good images to train on. Raises UserError naming the folder if there are none, and as `RoiFiles`.

    Notes name everything else in train/.
    """
    root = category(config)
    train, roi = root / "train", RoiFiles(root, config.TrainingData.roi)
    found = contents(train)
    _check_case(found.folders, ["good"])
    images = list_images(train / "good")
    if not images:
        raise UserError(f"{train / 'good'}: no images to train on (png, jpg, bmp, tif or webp)")
    others = [path for path in found.folders if path.name != "good"]
    say_left_out(train, "folder(s), because only images in train/good are used to train", others)
    say_left_out(train, "image(s), because only images in train/good are used to train", found.images)
    return [Sample(path, None, "good", roi.of(path)) for path in images]


def test_samples(config: RunConfig) -> list[Sample]:
    """The images in test/, by defect type; none if there is no such folder.

    Raises UserError for images outside the folders of the defect types, two images with the same name, a mask
    without image, masks for only some defective images, or a folder whose name cannot be used; and as `RoiFiles`.
    """
    root = category(config)
    roi = RoiFiles(root, config.TrainingData.roi)
    stray, folders, *_ = contents(root / "test")
    if stray:
        raise UserError(
            f"{stray[0]}: test images must be in a folder per defect type, such as {root / 'test' / 'good'}"
        )
    _check_types(folders)
    found = {folder.name: _unique(list_images(folder)) for folder in folders}
    masks = _masks(root / "ground_truth", found)
    samples = [Sample(path, masks.get(path), name, roi.of(path)) for name, images in found.items() for path in images]
    _check_masks(samples, root / "ground_truth")
    return samples


def category(config: RunConfig) -> Path:
    """The folder of `obj`. Raises UserError listing the existing categories."""
    root = Path(config.data_path)
    if not is_folder(root):
        raise UserError(f"data_path: there is no folder {root}")
    if is_folder(root / config.obj):
        _check_case(contents(root / config.obj).folders, ["train", "test", "ground_truth"])
        return root / config.obj
    there = ", ".join(folder.name for folder in contents(root).folders) or "none"
    raise UserError(f"obj: {root} has no category '{config.obj}' (it has: {there})")


def _check_case(folders: list[Path], names: list[str]) -> None:
    """Raises UserError for names such as test/Good, which would be read as something else."""
    for folder in folders:
        if folder.name not in names and folder.name.lower() in names:
            raise UserError(f"{folder}: rename this folder to '{folder.name.lower()}', in lower case")


def _check_types(folders: list[Path]) -> None:
    """Raises UserError for a folder name that cannot be a defect type, because a report could not contain it."""
    _check_case(folders, ["good"])
    for folder in folders:
        try:
            folder.name.encode()
        except UnicodeEncodeError:
            name = printable(folder)
            raise UserError(f"{name}: the name of a defect type must be valid UTF-8; rename this folder") from None


def _masks(ground_truth: Path, found: dict[str, list[Path]]) -> dict[Path, Path]:
    """Mask of each defective image: <type>/<stem>_mask.png as in MVTec, or <type>/<stem>.png; any image format."""
    masks = {}
    stray, folders, *_ = contents(ground_truth)
    _check_types(folders)
    say_left_out(ground_truth, "mask(s) that are not in the folder of a defect type", stray)
    for folder in folders:
        images = {image.stem: image for image in found.get(folder.name, [])}
        for mask in _unique(list_images(folder), "_mask"):
            stem = mask.stem.removesuffix("_mask")
            if stem not in images:
                raise UserError(f"{mask}: there is no image {folder.name}/{stem} among the test images")
            masks[images[stem]] = mask
    return masks


def _unique(images: list[Path], ending: str = "") -> list[Path]:
    """Returns `images`. Raises UserError if two share a name, because masks and result pictures are matched by it."""
    seen: dict[str, Path] = {}
    for image in images:
        other = seen.setdefault(image.stem.removesuffix(ending), image)
        if other != image:
            raise UserError(f"{image}: {other.name} has the same name; rename one of them")
    return images


def _check_masks(samples: list[Sample], folder: Path) -> None:
    defective = [s for s in samples if s.defect_type != "good"]
    without = [s for s in defective if s.mask is None]
    if without and len(without) < len(defective):
        raise UserError(
            f"{without[0].path}: no mask in {folder} ({len(without)} of {len(defective)} defective images "
            "have none; give a mask to all of them or to none)"
        )
