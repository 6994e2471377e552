"""The flange of the demo category `washer`, and its defects."""

from math import cos, pi, sin

import numpy as np
import pytest

from datasets.demo.draw import grid
from datasets.demo.washer import BOLT, BOLT_CIRCLE, BOLTS, BORE, DEFECTS, KEY, RIM, lay, outline, photograph, place

N = 256


@pytest.fixture(scope="module")
def part():
    return lay(N, np.random.default_rng(1))


@pytest.mark.parametrize(
    ("x", "y", "distance"),
    [
        (0, 0, -BORE),
        (-0.13, 0, 0.01),  # beside the bore
        (0.13, 0, -0.02),  # in the keyway, 0.02 before its end
        (BOLT_CIRCLE, 0, -BOLT),
        (BOLT_CIRCLE * cos(pi / 3), BOLT_CIRCLE * sin(pi / 3), -BOLT),
        (0, 0.35, RIM - 0.35),
        (0, -0.4, RIM - 0.4),
    ],
)
def test_the_distance_from_the_edge_of_the_steel(x, y, distance):
    x, y = np.float32([[x]]), np.float32([[y]])
    assert outline(x, y, np.hypot(x, y)).item() == pytest.approx(distance, abs=1e-6)


def test_the_steel_is_a_ring_without_its_holes(part):
    holes = BOLTS * pi * BOLT**2 + 2 * KEY[0] * (KEY[1] - BORE)
    assert part.metal.mean() == pytest.approx(pi * (RIM**2 - BORE**2) - holes, rel=0.06)  # a part's size differs by 2 %


def test_a_picture_shows_bright_steel_on_a_dark_mat(part):
    picture = photograph(part)
    assert picture.shape == (3, N, N) and picture.min() >= 0
    assert picture[:, part.metal == 1].mean() > 1.5 * picture[:, part.metal == 0].mean()


def test_places_of_defects_are_on_the_steel(part):
    random = np.random.default_rng(2)
    for _ in range(200):
        column, row = (place(part, random, 0.235, 0.35) * N).astype(int)
        assert part.metal[row, column] == 1


@pytest.mark.parametrize("name", DEFECTS)
@pytest.mark.parametrize("seed", range(3))
def test_a_defect_is_on_the_steel_alone_and_grows_with_its_severity(part, name, seed):
    before, changes = photograph(part), []
    for severity in (0.1, 1.0):
        flawed, alpha = DEFECTS[name](part, np.random.default_rng(seed), severity)
        assert alpha.max() > 0.3 and alpha.min() >= 0 and alpha[part.metal == 0].max() == 0
        changes.append(np.abs(photograph(flawed) - before).sum())
    assert 0 < changes[0] < 0.7 * changes[1]
    assert np.array_equal(photograph(part), before)  # a defect is on a copy


def test_a_part_turns_and_moves_with_the_random_numbers():
    a, b = (lay(64, np.random.default_rng(seed)) for seed in (0, 1))
    assert a.turn != b.turn and not np.array_equal(a.centre, b.centre)
    x, y = grid(64)
    for part in (a, b):
        middle = [(part.metal * axis).sum() / part.metal.sum() for axis in (x, y)]
        np.testing.assert_allclose(middle, part.centre, atol=0.005)
