"""OpenSimplex noise (2014): values of the generator that RD++'s public code draws its patches with.

The tolerance is needed because this code sums over the lattice, and that code distinguishes cases.
"""

from itertools import product

import numpy as np
import pytest

from models import simplex
from models.simplex import fractal, noise3, permutation

POINTS = np.array([(0.5, 0.25, 0.125), (1.3, -2.7, 0.9), (10.1, 20.2, 30.3)]).T


@pytest.fixture(scope="module")
def scattered():
    return np.random.default_rng(0).uniform(-300, 300, (3, 20000))


@pytest.mark.parametrize(
    "seed, first", [(1, [33, 221, 255, 106, 55, 126, 129, 158]), (42, [48, 76, 40, 154, 62, 22, 64, 58])]
)
def test_permutation_reference_values(seed, first):
    perm = permutation(seed)
    assert perm[:8].tolist() == first
    assert sorted(perm) == list(range(256))
    np.testing.assert_array_equal(permutation(np.int64(seed)), perm)


@pytest.mark.parametrize(
    "seed, values", [(1, (0.2095209, -0.3369258, 0.4408016)), (42, (-0.5457845, 0.1854187, -0.1891918))]
)
def test_noise_reference_values(seed, values):
    np.testing.assert_allclose(noise3(permutation(seed), *POINTS), values, atol=1e-4)


@pytest.mark.parametrize(
    "seed, values, total",
    [(1, (0.1696926, 0.4741069, 0.4449703), 126.6588), (42, (-0.4825438, -0.5903179, -0.4846257), -117.5173)],
)
def test_fractal_reference_values(seed, values, total):
    field = fractal(permutation(seed), (3, 10, 10))
    assert field.dtype == np.float32 and field.shape == (3, 10, 10)
    np.testing.assert_allclose(field[(0, 1, 2), (1, 3, 9), (2, 4, 9)], values, atol=1e-4)
    assert field.sum(dtype=np.float64) == pytest.approx(total, abs=5e-3)


def test_one_octave_has_the_known_range_and_spread(scattered):
    values = noise3(permutation(1), *scattered)
    assert values.std() == pytest.approx(0.314, abs=0.01)
    assert 0.75 < values.max() < 0.93 and -0.93 < values.min() < -0.75


def test_fields_of_many_seeds_have_the_known_range_and_spread():
    """0.415 over 300 seeds; every field is one smooth patch, so 40 seeds give only about that."""
    fields = np.stack([fractal(permutation(seed), (3, 31, 31)) for seed in range(1, 41)])
    assert fields.std() == pytest.approx(0.415, abs=0.03)
    assert 0.9 < fields.max() < 1.5 and -1.5 < fields.min() < -0.9
    assert np.corrcoef(fields[:, 0].ravel(), fields[:, 1].ravel())[0, 1] == pytest.approx(0.98, abs=0.02)
    assert np.corrcoef(fields[:, 0].ravel(), fields[:, 2].ravel())[0, 1] == pytest.approx(0.94, abs=0.02)


def test_the_skipped_lattice_points_add_nothing(scattered, monkeypatch):
    perm = permutation(42)
    values = noise3(perm, *scattered)
    monkeypatch.setattr(simplex, "OFFSETS", list(product(range(-2, 4), repeat=3)))
    np.testing.assert_array_equal(noise3(perm, *scattered), values)


def test_every_lattice_point_that_is_summed_is_needed(scattered, monkeypatch):
    perm = permutation(42)
    values, offsets = noise3(perm, *scattered), simplex.OFFSETS
    for left_out in offsets:
        monkeypatch.setattr(simplex, "OFFSETS", [offset for offset in offsets if offset != left_out])
        assert not np.array_equal(noise3(perm, *scattered), values)


def test_coordinates_are_broadcast():
    perm, (x, y, z) = permutation(1), POINTS
    grid = noise3(perm, x, y[:, None], z[:, None, None])
    assert grid.shape == (3, 3, 3)
    for i, j, k in product(range(3), repeat=3):
        assert grid[k, j, i] == noise3(perm, x[i], y[j], z[k])


def test_octaves_persistence_and_frequency():
    perm = permutation(1)
    x, y = np.arange(6) / 10, np.arange(5)[:, None] / 10
    expected = sum(0.5**o * noise3(perm, x * 2**o, y * 2**o, 0) for o in range(3))
    field = fractal(perm, (1, 5, 6), octaves=3, persistence=0.5, frequency=10)
    np.testing.assert_allclose(field[0], expected, atol=1e-6)


def test_a_larger_field_continues_a_smaller_one():
    """Patches of every size come from the same corner of one field."""
    perm = permutation(1)
    np.testing.assert_array_equal(fractal(perm, (3, 20, 25))[:, :10, :12], fractal(perm, (3, 10, 12)))
