"""The cloth of the demo category `weave`, and its defects."""

import numpy as np
import pytest

from datasets.demo.weave import DEFECTS, YARNS, lay, loose, missing, photograph, profile, round_line, stretch, thick

N = 384


@pytest.fixture(scope="module")
def cloth():
    return lay(N, np.random.default_rng(1))


def changed(before, after):
    """Where a map of the cloth is another one."""
    return np.abs(after - before) > 1e-6


def test_a_round_yarn_has_its_height_in_its_middle():
    across = np.float32([0, 0.3, 0.5, 0.6])
    assert profile(across, np.float32(1)).tolist() == pytest.approx([0.42, 0.42 * 0.8, -0.7, -0.7])
    assert profile(across, np.float32(0)).tolist() == pytest.approx([0.42 * 0, -0.7, -0.7, -0.7])


def test_yarns_are_counted_across_the_picture(cloth):
    for yarns in (cloth.warp[:, -1] - cloth.warp[:, 0], cloth.weft[-1] - cloth.weft[0]):
        assert yarns.mean() == pytest.approx(YARNS, rel=0.04)


def test_warp_and_weft_are_on_top_in_turns(cloth):
    """The warp is bluish and the weft reddish, seen at the middles of the crossings."""
    red, _, blue = photograph(cloth)
    middles = (np.abs(cloth.warp % 1 - 0.5) < 0.1) & (np.abs(cloth.weft % 1 - 0.5) < 0.1)
    warp_on_top = (np.floor(cloth.warp) + np.floor(cloth.weft)) % 2 == 0
    assert middles.sum() > YARNS**2
    assert np.array_equal((blue > red)[middles], warp_on_top[middles])


@pytest.mark.parametrize("name", DEFECTS)
@pytest.mark.parametrize("seed", range(4))
def test_a_defect_changes_the_cloth_where_it_is_and_grows_with_its_severity(cloth, name, seed):
    before, changes = photograph(cloth), []
    for severity in (0.1, 1.0):
        flawed, alpha = DEFECTS[name](cloth, np.random.default_rng(seed), severity)
        change = np.abs(photograph(flawed) - before).max(axis=0)
        assert alpha.max() > 0.3 and alpha.min() >= 0
        assert change[alpha == 0].sum() < 0.04 * change.sum()  # heights are slightly blurred
        changes.append(change.sum())
    assert 0 < changes[0] < 0.7 * changes[1]
    assert np.array_equal(photograph(cloth), before)  # a defect is on a copy


@pytest.mark.parametrize("seed", range(4))
def test_a_missing_yarn_is_a_single_one(cloth, seed):
    flawed, alpha = missing(cloth, np.random.default_rng(seed), 1.0)
    widths = [(cloth.warp_width, flawed.warp_width, cloth.warp), (cloth.weft_width, flawed.weft_width, cloth.weft)]
    ((before, after, place),) = [width for width in widths if changed(*width[:2]).any()]
    assert after[alpha == 1].max() < 1e-6 and not changed(before, after)[alpha == 0].any()
    assert len(np.unique(np.floor(place[alpha > 0]))) == 1


@pytest.mark.parametrize("seed", range(4))
def test_a_thick_yarn_pushes_its_neighbours_away(cloth, seed):
    flawed, alpha = thick(cloth, np.random.default_rng(seed), 1.0)
    pairs = [(cloth.warp, flawed.warp, 1), (cloth.weft, flawed.weft, 0)]
    ((before, after, axis),) = [pair for pair in pairs if changed(*pair[:2]).any()]
    pitch = [np.abs(np.gradient(place, axis=axis))[alpha == 1].mean() for place in (before, after)]
    assert pitch[1] < 0.8 * pitch[0]  # fewer yarns per pixel: this one is wider


def test_a_loose_yarn_lies_on_top_and_throws_a_shadow_beside_it(cloth):
    flawed, alpha = loose(cloth, np.random.default_rng(0), 1.0)
    assert 0.9 < flawed.strand.max() <= 1 and flawed.shade.max() <= 1
    beside = (flawed.strand == 0) & (flawed.shade < 0.9)
    assert beside.any() and alpha[beside].min() > 0


@pytest.mark.parametrize("seed", range(4))
def test_a_stretch_of_a_yarn_ends_within_the_picture(cloth, seed):
    name, off, ends = stretch(cloth, np.random.default_rng(seed), 1.0)
    np.testing.assert_allclose(off - getattr(cloth, name), (off - getattr(cloth, name)).mean(), atol=1e-4)
    along = ends.max(axis=1 if name == "warp" else 0)
    assert along[0] == along[-1] == 0 and along.max() == 1
    assert 0.15 < along.mean() < 0.71


def test_a_round_line_is_flat_outside_its_radius_and_at_its_ends():
    height = round_line(200, np.array([(0.2, 0.5), (0.8, 0.5)]), 0.05)
    assert height[100, 100] == pytest.approx(1, abs=0.02) and height[115:].max() == 0
    assert height[100, 40] < 0.05 and height[100, 20] == 0
