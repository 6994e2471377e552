"""Pictures that a data set has twice: the same pixels, or the same photograph (or part) in a slightly other form."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.doctor.facts import Facts
from datasets.doctor.findings import Finding, counted, names

ALIKE = 0.92  # correlation of two pictures' patterns from which they are near copies; measured in docs/check_data.md
FEWEST = 10  # pictures: with fewer it is not known what they have in common
COMMON = 8  # directions in which the pictures of a set differ most, which are not compared ...
STRONG = 0.02  # ... if each makes this share of all differences ...
SPREAD = 0.2  # ... and this share of the pictures make it
BLOCK = 512  # pictures that are compared with all others at once: 10 MB for 5,000 pictures
FARTHEST = 3.0  # mean deviations; one strong frequency must not decide
FAINT = 0.2  # of the root mean square deviation: fainter frequencies count less, they may be noise only


class Pair(NamedTuple):
    """Two readable pictures of a data set by their places, the earlier one first."""

    first: int
    second: int
    likeness: float  # correlation of their patterns; 1 for the same pixels
    exact: bool  # the same pixels


def exact_pairs(facts: Sequence[Facts]) -> list[Pair]:
    """Each picture together with the first one that has the same pixels."""
    first: dict[bytes, int] = {}
    pairs = []
    for place, each in enumerate(facts):
        if each.error is None and first.setdefault(each.digest, place) != place:
            pairs.append(Pair(first[each.digest], place, 1.0, True))
    return pairs


def near_pairs(facts: Sequence[Facts]) -> list[Pair]:
    """All pairs of pictures with different pixels whose patterns are alike, most alike first.

    Pictures of good parts look alike, and a usual perceptual hash finds most of them equal. So each frequency is
    compared with its median over the pictures, in units of its mean deviation, and the directions in which many of
    them differ (lighting, position) are left out: what remains is a picture's own.
    """
    readable = [place for place, each in enumerate(facts) if each.error is None]
    places = sorted({facts[place].digest: place for place in reversed(readable)}.values())  # the first of exact copies
    if len(places) < FEWEST:
        return []
    own = own_patterns(np.stack([facts[place].pattern for place in places]))
    pairs = []
    for start in range(0, len(own), BLOCK):
        likeness = own[start : start + BLOCK] @ own.T
        rows, columns = np.nonzero(np.triu(likeness >= ALIKE, start + 1))
        found = zip((rows + start).tolist(), columns.tolist(), likeness[rows, columns].tolist(), strict=True)
        pairs += [Pair(*sorted((places[i], places[j])), value, False) for i, j, value in found]
    return sorted(pairs, key=lambda pair: -pair.likeness)


def own_patterns(patterns: np.ndarray) -> np.ndarray:
    """Patterns [N,F] -> what each has of its own, of length 1 [N,F] float32; 0 where there is nothing."""
    away = patterns - np.median(patterns, axis=0)
    usual = np.abs(away).mean(axis=0)
    usual = np.hypot(usual, FAINT * np.sqrt(np.mean(usual**2)))
    away = np.clip(away / np.where(usual > 0, usual, 1), -FARTHEST, FARTHEST)
    away -= away @ _common(away)
    length = np.linalg.norm(away, axis=1, keepdims=True)
    return (away / np.where(length > 1e-3, length, np.inf)).astype(np.float32)


def _common(away: np.ndarray) -> np.ndarray:
    """The projection [F,F] onto the directions in which many of the rows [N,F] differ.

    The strongest principal directions, but only those that more rows make than a few copies of one picture would.
    """
    energies, directions = np.linalg.eigh(away.T @ away)
    directions, energies = directions[:, -COMMON:], energies[-COMMON:]
    shares = (away @ directions) ** 2 / np.maximum(energies, 1e-12)  # of each row in each direction
    rows = 1 / np.maximum((shares**2).sum(axis=0), 1e-12)  # that make it, in effect
    many = (rows >= len(away) * SPREAD) & (energies >= max(STRONG, 4 / len(away)) * (away**2).sum())
    return directions[:, many] @ directions[:, many].T


def groups(pairs: Sequence[Pair]) -> list[list[int]]:
    """Places of pictures that pairs connect, largest group first."""
    group_of: dict[int, list[int]] = {}
    for pair in pairs:
        one, other = (group_of.get(place, [place]) for place in pair[:2])
        if one is not other:
            one = one + other
            group_of |= dict.fromkeys(one, one)
    found = {id(group): sorted(group) for group in group_of.values()}
    return sorted(found.values(), key=lambda group: (-len(group), group))


def telling(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs without those of two pictures that were both named before: ten pictures of a part are 45 pairs."""
    named: set[int] = set()
    kept = []
    for pair in pairs:
        if not named.issuperset(pair[:2]):
            kept.append(pair)
            named.update(pair[:2])
    return kept


def across(pair: Pair, facts: Sequence[Facts]) -> bool:
    """Whether one picture trains (or validates) and the other tests."""
    return (facts[pair.first].picture.split == "test") != (facts[pair.second].picture.split == "test")


def contradict(pair: Pair, facts: Sequence[Facts]) -> bool:
    """Whether one picture is called good and the other defective."""
    return len({facts[place].picture.defect_type == "good" for place in pair[:2]}) == 2


def findings(facts: Sequence[Facts], pairs: Sequence[Pair], root: Path) -> list[Finding]:
    """The worst first: copies in train and test, contradictory labels, copies in train, copies in test."""

    def chosen(exact: bool, condition: Callable[[Pair], bool]) -> list[Pair]:
        return [pair for pair in pairs if pair.exact == exact and condition(pair)]

    def inside(test: bool) -> Callable[[Pair], bool]:
        return lambda pair: not across(pair, facts) and (facts[pair.first].picture.split == "test") == test

    found = []

    def add(some: Sequence[Pair], sentence: str, advice: str) -> None:
        if some:
            found.append(Finding("copies", sentence, advice, [shown(pair, facts, root) for pair in telling(some)]))

    for exact, what in ((True, "the same pixels"), (False, "near copies")):
        some = chosen(exact, lambda pair: across(pair, facts))
        seen = {pair.second for pair in some}
        bad = sum(facts[place].picture.defect_type != "good" for place in seen)
        add(
            some,
            f"{what} in train/good and in test: {counted(len(seen), 'test picture')}, {bad} of them defective",
            "keep all pictures of a part in train or all in test: the student has seen these, so metrics are too high"
            + (", and it has learned that these defects are good" if bad else ""),
        )
    some = [pair for pair in pairs if not across(pair, facts) and contradict(pair, facts)]
    add(
        some,
        f"copies with different labels in test: {counted(len(some), 'pair')} of a good and a defective picture",
        "look at them: one of the labels may be wrong, or the defect is very small",
    )
    some = chosen(True, inside(test=False))
    add(some, f"the same pixels twice in train/good: {counted(len(some), 'picture')}", "delete the copies")
    some = chosen(False, inside(test=False))
    sets = groups(some)
    add(
        some,
        f"near copies in train/good: {sum(map(len, sets))} pictures in {counted(len(sets), 'group')}",
        "if a part has several pictures, say so with part_pattern (docs/on_the_line.md): held-out and calibration "
        "pictures must not show parts that train",
    )
    for exact, what, advice in (
        (True, "the same pixels twice", "delete the copies: they count twice"),
        (
            False,
            "near copies",
            "the test has fewer parts than pictures, so its metrics are less certain than they look",
        ),
    ):
        some = [pair for pair in chosen(exact, inside(test=True)) if not contradict(pair, facts)]
        add(some, f"{what} in test with one label: {counted(len(some), 'pair')}", advice)
    return found


def shown(pair: Pair, facts: Sequence[Facts], root: Path) -> str:
    first, second = names([facts[place].picture.path for place in pair[:2]], root)
    return f"{first} = {second}" if pair.exact else f"{first} ~ {second} ({pair.likeness:.2f})"
