"""Which pictures and masks a data set has, and what is wrong with its folders.

Folders in MVTec layout are read to the end, where a reader stops at the first fault; others as their reader does.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from datasets.doctor.findings import Finding, counted, names
from datasets.listing import Contents, contents, is_folder
from datasets.readers import mvtec, reader_of
from datasets.regions import home
from utils.config import RunConfig
from utils.errors import UserError


class Picture(NamedTuple):
    """An image file and the mask that belongs to it."""

    path: Path
    split: str  # train, validation (of the data set's own) or test
    defect_type: str  # "good", or the defect type
    mask: Path | None = None  # a file, or a folder of masks that are united


class Listing(NamedTuple):
    """All pictures of a category, those that train first, and what is wrong with its folders."""

    root: Path
    pictures: list[Picture]
    findings: list[Finding]


def listing(config: RunConfig) -> Listing:
    """Raises UserError if there is no such category, or nothing in it can be read.

    Of other layouts than MVTec's, what their reader refuses is one finding.
    """
    reader, folder = reader_of(config), Path(config.data_path, config.obj)
    if reader is mvtec:
        if not is_folder(folder):
            mvtec.category(config)  # raises, and names the categories that there are
        return _Mvtec(folder, config.TrainingData.roi).listing()
    samples, findings = {}, []
    for split in ("train", "validation", "test"):
        read = getattr(reader, f"{split}_samples", lambda _: [])
        try:
            samples[split] = read(config)
        except UserError as error:
            advice = f"correct this and check again: the {split} pictures were not checked"
            findings.append(Finding("folders", str(error), advice))
    if not samples.get("train") and not samples.get("test"):
        raise UserError(findings[0].sentence)
    pictures = [
        Picture(each.path, split, each.defect_type, each.mask) for split, found in samples.items() for each in found
    ]
    return Listing(home(config), pictures, [*findings, *without_masks(pictures, home(config))])


def without_masks(pictures: Sequence[Picture], root: Path) -> list[Finding]:
    """Defective pictures without a mask, where others have one."""
    defective = [each for each in pictures if each.defect_type != "good"]
    without = [each.path for each in defective if each.mask is None]
    if not without or len(without) == len(defective):
        return []
    return [
        Finding(
            "masks",
            f"{len(without)} of {counted(len(defective), 'defective picture')} have no mask",
            "draw the missing masks, or remove all masks and judge by the image metrics only",
            names(without, root),
        )
    ]


class _Mvtec:
    """A category in MVTec layout, read as `datasets.readers.mvtec` does, but to the end."""

    def __init__(self, root: Path, roi: str | None):
        self.root, self.roi, self.findings = root, roi, []

    def listing(self) -> Listing:
        top = self._by_name(self.root, ["train", "test", "ground_truth"])
        self._unused(top)
        train, test = (contents(top.get(name, self.root / name)) for name in ("train", "test"))
        good = self._by_name(top.get("train", self.root / "train"), ["good"]).get("good")
        images = self._images(good) if good else []
        if not images:
            self._add(
                "there are no pictures in train/good",
                "put pictures of good parts there, or say which folder has them, such as folder.good=ok",
            )
        others = [path for path in train.folders if path.name.lower() != "good"]
        self._left_out("in train/, but not in train/good, ", [*others, *train.images, *train.others])
        if test.images:
            self._add(
                f"{counted(len(test.images), 'picture')} directly in test/",
                "move each into the folder of its defect type, or into test/good",
                test.images,
            )
        self._left_out("in test/ ", [*test.others, *test.broken])
        types: dict[str, list[Path]] = {}
        for folder in test.folders:
            types.setdefault(self._type(folder), []).extend(self._images(folder))
        if any(types.values()) and not types.get("good"):
            self._add(
                f"there are no pictures in test/good, so all in test/ count as defective ({', '.join(sorted(types))})",
                "put good pictures there that are not in train/good; a folder of good pictures must be named good",
            )
        masks = self._masks(top.get("ground_truth", self.root / "ground_truth"), types)
        pictures = [Picture(path, "train", "good") for path in images]
        pictures += [Picture(path, "test", name, masks.get(path)) for name, found in types.items() for path in found]
        return Listing(self.root, pictures, [*self.findings, *without_masks(pictures, self.root)])

    def _add(self, sentence: str, advice: str, paths: Sequence[Path] = (), kind: str = "folders") -> None:
        self.findings.append(Finding(kind, sentence, advice, names(paths, self.root)))

    def _unused(self, top: dict[str, Path]) -> None:
        """Folders beside train, test and ground_truth, such as one with a misspelt name."""
        roi = self.root / self.roi if self.roi else None
        others = [path for path in contents(self.root).folders if path not in top.values()]
        others = [path for path in others if roi is None or path not in (roi, *roi.parents)]
        if others:
            self._add(
                f"the pictures in {counted(len(others), 'folder')} beside train, test and ground_truth are not used",
                "rename a folder whose name is misspelt, give TrainingData.roi if it has masks for that, or move it",
                others,
            )

    def _by_name(self, folder: Path, wanted: list[str]) -> dict[str, Path]:
        """The subfolders with these names, also in capitals, which is a fault."""
        found = {path.name.lower(): path for path in contents(folder).folders if path.name.lower() in wanted}
        for name, path in found.items():
            if path.name != name:
                self._add("a folder has capitals in its name", f"rename it to '{name}'", [path])
        return found

    def _type(self, folder: Path) -> str:
        """The defect type that a folder in test/ or ground_truth/ is named after."""
        if folder.name != "good" and folder.name.lower() == "good":
            self._add("a folder has capitals in its name", "rename it to 'good'", [folder])
            return "good"
        return folder.name

    def _images(self, folder: Path) -> list[Path]:
        """The image files of a folder; everything else in it is a fault."""
        found = contents(folder)
        self._left_out(f"in {folder.relative_to(self.root)} ", [*found.others, *found.folders])
        self._broken(found)
        twice = [[path for path in found.images if path.stem == stem] for stem in _repeated(found.images)]
        if twice:
            self._add(
                f"pictures with the same name in {folder.relative_to(self.root)}",
                "rename one of each: masks and results are matched by the name without its ending",
                [path for pair in twice for path in pair],
            )
        return found.images

    def _broken(self, found: Contents) -> None:
        if found.broken:
            self._add("links that lead to nothing", "delete them, or bring their files back", found.broken)

    def _left_out(self, where: str, paths: Sequence[Path]) -> None:
        if paths:
            what = "file or folder is" if len(paths) == 1 else "files or folders are"
            self._add(f"{where}{len(paths)} {what} left out", "delete what does not belong there, move the rest", paths)

    def _masks(self, folder: Path, types: dict[str, list[Path]]) -> dict[Path, Path]:
        """The mask of each picture that has one."""
        masks, found = {}, contents(folder)
        stray, twice = list(found.images), []
        self._left_out("in ground_truth/ ", found.others)
        for below in found.folders:
            inside = contents(below)
            self._broken(inside)
            self._left_out(f"in {below.relative_to(self.root)} ", [*inside.others, *inside.folders])
            images = {path.stem: path for path in types.get(self._type(below), [])}
            for mask in inside.images:
                image = images.get(mask.stem.removesuffix("_mask"))
                if image is None:
                    stray.append(mask)
                elif masks.setdefault(image, mask) != mask:
                    twice.append(mask)
        if stray:
            self._add(
                f"{counted(len(stray), 'mask')} without a picture",
                "rename the mask after its picture (<name>_mask.png or <name>.png), bring the picture back, or delete "
                "the mask",
                stray,
                "masks",
            )
        if twice:
            self._add(f"a second mask of {counted(len(twice), 'picture')}", "delete one of the two", twice, "masks")
        return masks


def _repeated(images: Sequence[Path]) -> Iterator[str]:
    """Names without endings that more than one file has."""
    return (stem for stem, count in Counter(path.stem for path in images).items() if count > 1)
