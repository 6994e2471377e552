"""What is wrong with single files: unreadable ones, masks that do not fit, kinds that only some folders have."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from datasets.doctor.facts import Facts
from datasets.doctor.findings import Finding, counted, names


def findings(facts: Sequence[Facts], root: Path) -> list[Finding]:
    return [*_unreadable(facts), *_masks(facts, root), *_kinds(facts, root)]


def _unreadable(facts: Sequence[Facts]) -> list[Finding]:
    found = []
    for what, errors in (
        ("picture", [each.error for each in facts if each.error]),
        ("mask", [each.mask_error for each in facts if each.mask_error]),
    ):
        if errors:
            sentence = f"{counted(len(errors), what)} cannot be read"
            found.append(Finding("unreadable", sentence, "save them again from their source, or delete them", errors))
    return found


def _masks(facts: Sequence[Facts], root: Path) -> list[Finding]:
    found = []

    def add(wrong: Callable[[Facts], bool], sentence: str, advice: str) -> None:
        paths = [each.picture.mask for each in facts if each.mask_share is not None and wrong(each)]
        if paths:
            found.append(Finding("masks", f"{counted(len(paths), 'mask')} {sentence}", advice, names(paths, root)))

    add(
        lambda each: each.error is None and each.mask_shape != each.shape,
        "of another size than the picture",
        "save each mask in its picture's size",
    )
    add(
        lambda each: each.picture.defect_type != "good" and not each.mask_share,
        "without a marked pixel, of a defective picture",
        "mark the defect, or move the picture to test/good",
    )
    add(
        lambda each: each.picture.defect_type == "good" and each.mask_share,
        "with marked pixels, of a picture in test/good",
        "move the picture to the folder of its defect type, or delete the mask",
    )
    shares = [each.mask_share for each in facts if each.mask_share and each.picture.defect_type != "good"]
    if shares and median(shares) > 0.5:  # a single defect may be large
        add(
            lambda each: each.picture.defect_type != "good" and each.mask_share > 0.5,
            "with more than half of the picture marked",
            "in a mask, black means good: if black is the defect here, invert the masks",
        )
    return found


def _kinds(facts: Sequence[Facts], root: Path) -> list[Finding]:
    """Channels and depths of test pictures that no training picture has."""
    train = Counter(each.kind for each in facts if each.error is None and each.picture.split == "train")
    others = [each for each in facts if each.error is None and each.picture.split == "test" and each.kind not in train]
    if not others or not train:
        return []
    return [
        Finding(
            "kinds",
            f"{counted(len(others), 'test picture')} of a kind that train/good does not have "
            f"({'; '.join(sorted({each.kind for each in others}))}; train/good has {'; '.join(sorted(train))})",
            "take all pictures with the same camera and settings, and save them in the same way",
            names([each.picture.path for each in others], root),
        )
    ]
