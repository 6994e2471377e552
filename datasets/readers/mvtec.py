"""A data set in MVTec layout: <data_path>/<obj>/{train/good, test/<defect type>, ground_truth/<defect type>}."""

from pathlib import Path

from datasets.dataset import Sample
from datasets.images import list_images
from utils.config import RunConfig
from utils.errors import UserError


def train_samples(config: RunConfig) -> list[Sample]:
    """The good images to train on. Raises UserError naming the folder when there are none."""
    folder = category(config) / "train" / "good"
    images = list_images(folder)
    if not images:
        raise UserError(f"{folder}: no images to train on (png, jpg, bmp, tif or webp)")
    return [Sample(path, None, "good") for path in images]


def test_samples(config: RunConfig) -> list[Sample]:
    """The images below test/, by defect type; none where there is no such folder.

    Raises UserError for pictures outside the folders of the defect types, two images of one name, a mask without
    image, or masks for only some defective images.
    """
    root = category(config)
    folder = root / "test"
    stray = list_images(folder)
    if stray:
        raise UserError(f"{stray[0]}: test images belong into a folder per defect type, such as {folder / 'good'}")
    types = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    found = {name: _unique(list_images(folder / name)) for name in types}
    masks = _masks(root / "ground_truth", found)
    samples = [Sample(path, masks.get(path), name) for name in types for path in found[name]]
    _check_masks(samples, root / "ground_truth")
    return samples


def category(config: RunConfig) -> Path:
    """The folder of `obj`. Raises UserError listing the ones there are."""
    root = Path(config.data_path)
    folder = root / config.obj
    if folder.is_dir():
        return folder
    if not root.is_dir():
        raise UserError(f"data_path: there is no folder {root}")
    there = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    raise UserError(f"obj: {root} has no category '{config.obj}' (it has: {', '.join(there) or 'none'})")


def _masks(ground_truth: Path, found: dict[str, list[Path]]) -> dict[Path, Path]:
    """Mask of each defective image: <type>/<stem>_mask.png as in MVTec, or <type>/<stem>.png; any image format."""
    masks = {}
    for folder in sorted(p for p in ground_truth.iterdir() if p.is_dir()) if ground_truth.is_dir() else []:
        images = {image.stem: image for image in found.get(folder.name, [])}
        for mask in _unique(list_images(folder), "_mask"):
            stem = mask.stem.removesuffix("_mask")
            if stem not in images:
                raise UserError(f"{mask}: there is no image {folder.name}/{stem} among the test images")
            masks[images[stem]] = mask
    return masks


def _unique(images: list[Path], ending: str = "") -> list[Path]:
    """The same images. Masks and result pictures are told apart by the name, so raises UserError where two share it."""
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
            "lack one; give all of them a mask, or none)"
        )
