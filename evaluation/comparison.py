"""How sure a difference between methods is: intervals over test images, and a paired test over categories."""

import zlib
from collections.abc import Mapping
from itertools import combinations
from typing import NamedTuple

import numpy as np

from evaluation.resampling import ScoredImages

DRAWS = 1000
COVERED = 0.95  # share of the drawn test sets within an interval
ALPHA = 0.05
Values = Mapping[str, Mapping[int, float]]  # a metric by category and seed
LEAST = 6  # pairs: with fewer, no two-sided Wilcoxon test reaches ALPHA (1/2^4 is the lowest p of five)


def drawn_metrics(images: ScoredImages, category: str = "", draws: int = DRAWS) -> dict[str, np.ndarray]:
    """Each metric [draws] on test sets of as many good and as many defective images, drawn with replacement.

    A stratified bootstrap (Efron and Tibshirani 1993). The same images of a `category` are drawn for every run and
    method.
    """
    kinds = images.types == "good", images.types != "good"
    if not all(chosen.any() for chosen in kinds):
        return {}
    times, name = np.zeros((draws, len(images.types)), np.float32), zlib.crc32(category.encode(errors="replace"))
    for kind, chosen in enumerate(kinds):
        size = int(chosen.sum())
        shares = np.full(size, 1 / size)
        times[:, chosen] = np.random.default_rng((kind, size, name)).multinomial(size, shares, draws)
    return images.metrics(times)


def interval(values: np.ndarray) -> tuple[float, float]:
    """The middle `COVERED` of the values [D], or of those that are there."""
    low, high = np.nanquantile(values, [(1 - COVERED) / 2, (1 + COVERED) / 2])
    return float(low), float(high)


class Paired(NamedTuple):
    """Two methods on the same categories: on how many the first is better or worse, and by how much on average.

    `p` is that of the two-sided Wilcoxon signed-rank test; None if there are too few categories that differ.
    """

    first: str
    second: str
    pairs: int
    better: int
    worse: int
    difference: float
    p: float | None

    def sentence(self, metric: str) -> str:
        """What was found, of a pair with `p`; `metric` is the name of what was compared, a fraction."""
        how = "higher" if self.difference > 0 else "lower"
        found = (
            f"{self.first} against {self.second}, {self.pairs} {'category' if self.pairs == 1 else 'categories'}: "
            f"{metric} is {100 * abs(self.difference):.1f} points {how} on average (better on {self.better}, worse on "
            f"{self.worse})"
        )
        chance = f"{found}. Wilcoxon p = {self.p:.2g}"
        if self.p < ALPHA:
            return f"{chance}: if both were equally good, such a clear difference would be rare."
        return f"{chance}: this difference may be chance."


def against_the_best(values: Mapping[str, Values], metric: str) -> list[str]:
    """A sentence for each method that the best one can be tested against, and one for all others; see `Paired`."""
    pairs = all_pairs(values)
    best = [pair for pair in pairs if pair.first == pairs[0].first]
    tested = [pair for pair in best if pair.p is not None]
    said = [pair.sentence(metric) for pair in tested]
    if left := [pair.second for pair in best if pair.p is None]:
        said.append(
            f"Not tested: {best[0].first} (highest {metric}) against {', '.join(left)}. A test needs at least {LEAST} "
            "categories that differ."
        )
    return said


def paired(first: str, second: str, values: Mapping[str, Values]) -> Paired:
    """Compare two of the methods on the categories, and in each on the seeds, that both have.

    Categories, not runs, are the pairs: the seeds of one category are not independent (Demsar, JMLR 2006).
    """
    from scipy.stats import wilcoxon  # slow to import

    differences = np.array([*_differences(values[first], values[second]).values()])
    moved = differences[differences != 0]
    p = float(wilcoxon(moved).pvalue) if len(moved) >= LEAST else None
    better, worse = int((moved > 0).sum()), int((moved < 0).sum())
    return Paired(first, second, len(differences), better, worse, float(differences.mean()), p)


def _differences(first: Values, second: Values) -> dict[str, float]:
    found = {}
    for category in first:
        if seeds := first[category].keys() & second.get(category, {}).keys():
            found[category] = float(np.mean([first[category][seed] - second[category][seed] for seed in seeds]))
    return found


def all_pairs(values: Mapping[str, Values]) -> list[Paired]:
    """`paired` for every two methods that share a run, the one with the higher mean over all of them first."""
    mean = {name: np.mean([np.mean([*seeds.values()]) for seeds in each.values()]) for name, each in values.items()}
    order = sorted(values, key=lambda name: -mean[name])
    return [paired(*pair, values) for pair in combinations(order, 2) if _differences(*(values[name] for name in pair))]
