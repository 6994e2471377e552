"""Scores that know nothing of defects: how well file size, picture size, brightness or contrast tell good from bad."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import mannwhitneyu

from datasets.doctor.facts import Facts
from datasets.doctor.findings import Finding
from evaluation.metrics import detection

LIMIT = 0.8  # image AUROC from which a score without sense is a finding
CHANCE = 0.001  # probability, over all comparisons together, of a finding in a set without shortcuts

SCORES = {
    "file size": lambda each: each.file_size,
    "width": lambda each: each.shape[1],
    "height": lambda each: each.shape[0],
    "brightness": lambda each: each.brightness,
    "contrast": lambda each: each.contrast,
}
# With masks: what the defects do not cause themselves.
OUTSIDE = {
    "brightness outside the masks": lambda each: each.outside[0],
    "contrast outside the masks": lambda each: each.outside[1],
}
CAUSED = ("brightness", "contrast")  # a large defect changes them


class Shortcut(NamedTuple):
    """How well one score tells two groups of pictures apart."""

    score: str  # of SCORES or OUTSIDE
    direction: str  # higher, lower or unusual: what the second group is
    one: str  # train/good, test/good
    other: str  # test/good, defective, or test/<defect type>
    auroc: float
    p_value: float  # probability of such a difference by chance (Mann-Whitney)

    @property
    def words(self) -> str:
        return f"{self.score} ({self.direction} in {self.other} than in {self.one})"


def shortcuts(facts: Sequence[Facts]) -> list[Shortcut]:
    """Of each score the best direction: test/good against defective ones, each type, and train/good; best first.

    Unusual is far from the median of train/good, to both sides, as a detector that trains on good pictures may find.
    """
    readable = [each for each in facts if each.error is None]
    group = {"train/good": [each for each in readable if each.picture.split == "train"]}
    for each in readable:
        if each.picture.split == "test":
            group.setdefault(f"test/{each.picture.defect_type}", []).append(each)
    good = group.get("test/good", [])
    pairs = {("train/good", "test/good"): (group["train/good"], good)}
    types = {name: found for name, found in group.items() if name not in ("train/good", "test/good")}
    scores = SCORES | (OUTSIDE if any(each.mask_share for each in readable) else {})
    pairs["test/good", "defective"] = good, [each for found in types.values() for each in found]
    if len(types) > 1:
        pairs |= {("test/good", name): (good, found) for name, found in types.items()}
    found = [
        shortcut
        for (one, other), (ones, others) in pairs.items()
        if ones and others
        for name, score in scores.items()
        if name not in OUTSIDE or "train/good" != one
        for shortcut in _best(name, score, one, other, ones, others, group["train/good"])
    ]
    return sorted(found, key=lambda each: -each.auroc)


def _best(
    name: str,
    score: Callable[[Facts], float],
    one: str,
    other: str,
    ones: Sequence[Facts],
    others: Sequence[Facts],
    train: Sequence[Facts],
) -> Iterator[Shortcut]:
    """The best direction of a score; none if it is the same for all pictures."""
    values = np.array([score(each) for each in [*ones, *others]], float)
    if values.min() == values.max():
        return
    middle = np.median([score(each) for each in train or ones])
    labels = np.arange(len(values)) >= len(ones)
    ways = {"higher": values, "lower": -values, "more unusual": np.abs(values - middle)}
    if one == "train/good":
        del ways["more unusual"]  # the median is its own
    auroc, way = max((detection(scores, labels)["image_auroc"], way) for way, scores in ways.items())
    p_value = mannwhitneyu(ways[way][labels], ways[way][~labels], alternative="greater").pvalue
    yield Shortcut(name, way, one, other, auroc, float(p_value))


def best_shortcut(found: Sequence[Shortcut]) -> Shortcut | None:
    """The best score of all defective pictures: a method must be clearly better."""
    return next((each for each in found if each.other == "defective"), None)


def findings(found: Sequence[Shortcut]) -> list[Finding]:
    """Those that are as good as LIMIT, and not by chance."""
    tests = 3 * len(found)  # directions
    wrong = [each for each in found if each.auroc >= LIMIT and each.p_value * tests <= CHANCE]
    if any(each.score in OUTSIDE for each in found):
        wrong = [each for each in wrong if each.score not in CAUSED or each.one == "train/good"]
    bad = [each for each in wrong if each.other != "test/good"]
    strange = [each for each in wrong if each.other == "test/good"]
    result = []
    if bad:
        result.append(
            Finding(
                "shortcuts",
                f"a score that ignores defects (file size, brightness ...) has an image AUROC of {bad[0].auroc:.2f}: "
                f"{bad[0].words}",
                "if the defects do not cause this themselves, take good and defective pictures with the same camera, "
                "light and settings; until then an image AUROC that is not clearly higher shows nothing",
                [f"{each.auroc:.2f} {each.words}" for each in bad],
            )
        )
    if strange:
        result.append(
            Finding(
                "shortcuts",
                f"good pictures in train and good pictures in test differ (AUROC {strange[0].auroc:.2f}): "
                f"{strange[0].words}",
                "take them in the same way, and divide them at random between train and test: a detector treats any "
                "difference as a defect",
                [f"{each.auroc:.2f} {each.words}" for each in strange],
            )
        )
    return result
