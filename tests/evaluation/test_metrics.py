"""Metrics against the definitions, scikit-learn and a slow reference."""

import tracemalloc
from collections import Counter

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from evaluation import metrics
from utils.errors import UserError


def slow_aupro(maps, masks, limit=0.3):
    """The definition, threshold by threshold."""
    regions = []
    for image, mask in zip(maps, masks, strict=True):
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        regions += [image[labels == number] for number in range(1, count + 1)]
    negatives = maps[~masks]
    x, y = [0.0], [0.0]
    for threshold in np.unique(maps)[::-1]:
        fpr = np.mean(negatives >= threshold)
        overlap = np.mean([np.mean(region >= threshold) for region in regions])
        if fpr > limit:
            y.append(y[-1] + (overlap - y[-1]) * (limit - x[-1]) / (fpr - x[-1]))
            x.append(limit)
            break
        x.append(fpr)
        y.append(overlap)
    return sum((x[i + 1] - x[i]) * (y[i + 1] + y[i]) / 2 for i in range(len(x) - 1)) / limit


def sklearn_metrics(level, scores, labels):
    precision, recall, _ = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    values = roc_auc_score(labels, scores), average_precision_score(labels, scores), f1.max()
    return dict(zip([f"{level}_auroc", f"{level}_ap", f"{level}_f1max"], values, strict=True))


def toy():
    rng = np.random.RandomState(0)
    masks = np.zeros((3, 16, 16), bool)
    masks[0, 2:5, 2:5] = masks[0, 10:14, 9:15] = masks[1, 6:8, 6:8] = True
    maps = rng.rand(3, 16, 16) * 0.5
    maps[0, 2:5, 2:5] += 0.6
    maps[0, 10:14, 9:15] += 0.15
    maps[1, 6:8, 6:8] += 0.3
    return maps, masks


def random_set(seed, density=0.1, levels=None, dtype=np.float32):
    """Four images of 20x24, the last one good; `levels` distinct values make heavy ties."""
    rng = np.random.default_rng(seed)
    masks = rng.random((4, 20, 24)) < density
    masks[3] = False
    maps = rng.random(masks.shape) + 0.3 * masks
    if levels:
        maps = np.floor(maps * levels) / levels
    return maps.astype(dtype), masks


def test_toy_aupro_is_mvtecs_and_no_variant():
    value = metrics.segmentation(*toy())["aupro"]
    assert value == pytest.approx(0.6807836, abs=1e-6)
    # 200 thresholds, per defective image, both axes rescaled: as in the public codes of RD4AD, RD++ and STFPM
    for variant in (0.6790018, 0.6592308, 0.8033162):
        assert abs(value - variant) > 1e-3


@pytest.mark.parametrize("density", [0.02, 0.4])
@pytest.mark.parametrize("levels", [None, 50, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_segmentation_against_references(density, levels, dtype):
    maps, masks = random_set(1, density, levels, dtype)
    expected = sklearn_metrics("pixel", maps.ravel(), masks.ravel()) | {"aupro": slow_aupro(maps, masks)}
    assert metrics.segmentation(maps, masks) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("levels", [None, 6])
@pytest.mark.parametrize("limit", [0.013, 0.3, 1.0])
def test_aupro_limits(levels, limit):
    maps, masks = random_set(2, 0.1, levels)
    assert metrics.segmentation(maps, masks, limit)["aupro"] == pytest.approx(slow_aupro(maps, masks, limit))


@pytest.mark.parametrize("levels", [None, 20, 4])
def test_detection_against_sklearn(levels):
    labels = np.arange(300) % 3 == 0
    scores = np.random.default_rng(3).random(300) + 0.2 * labels
    scores = np.floor(scores * levels) if levels else scores
    expected = pytest.approx(sklearn_metrics("image", scores, labels), abs=1e-12)
    assert metrics.detection(scores, labels) == expected


def test_more_pairs_than_32_bits_hold():
    half = 200_000  # positives at odd places: the i-th beats i + 1 negatives
    scores = np.arange(2 * half)
    expected = (half + 1) / (2 * half)
    assert metrics.detection(scores, scores % 2)["image_auroc"] == pytest.approx(expected, abs=1e-14)
    assert metrics.detection(0 * scores, scores % 2)["image_auroc"] == 0.5  # every pair a tie


@pytest.mark.parametrize("levels", [None, 5])
def test_monotone_transforms_change_nothing(levels):
    maps, masks = random_set(4, 0.1, levels)
    found = metrics.segmentation(maps, masks)
    ranks = np.unique(maps, return_inverse=True)[1].reshape(maps.shape)
    for transformed in (np.exp(3 * maps.astype(np.float64)), 4 * maps, ranks):
        assert metrics.segmentation(transformed, masks) == pytest.approx(found, abs=1e-12)


def test_perfect_reversed_and_constant_maps():
    masks = toy()[1]
    share = masks.mean()
    keys = ["pixel_auroc", "pixel_ap", "pixel_f1max", "aupro"]
    always = 2 * share / (1 + share)  # F1 of reporting every pixel
    for maps, values in (
        (masks.astype(np.float32), [1, 1, 1, 1]),
        (-masks.astype(np.float32), [0, share, always, 0]),
        (np.ones(masks.shape, np.float32), [0.5, share, always, 0.15]),  # the diagonal
    ):
        assert metrics.segmentation(maps, masks) == pytest.approx(dict(zip(keys, values, strict=True)))


def test_regions_touching_at_a_corner_are_one():
    masks = np.zeros((1, 10, 10), bool)
    masks[0, 0, 0] = masks[0, 1:4, 1:4] = True
    maps = np.full(masks.shape, 0.5)
    maps[masks] = 0
    maps[0, 0, 0] = 1
    assert metrics.segmentation(maps, masks)["aupro"] == pytest.approx(1 / 10)  # 4-connected: 1/2
    masks[0, 1, 1], maps[0, 1, 1] = False, 0.5
    assert metrics.segmentation(maps, masks)["aupro"] == pytest.approx(1 / 2)


def test_good_images_count_in_the_false_positive_rate():
    masks = np.zeros((2, 10, 10), bool)
    masks[0, 4:6, 4:6] = True
    maps = np.where(masks, 0.5, 0.0)
    maps[1, 0, :] = 1  # 10 false alarms above the defect, among 96 + 100 negatives
    found = metrics.segmentation(maps, masks)
    assert found["aupro"] == pytest.approx(1 - 10 / 196 / 0.3)
    assert found["pixel_auroc"] == pytest.approx(1 - 10 / 196)
    assert metrics.segmentation(maps[:1], masks[:1])["aupro"] == pytest.approx(1)


def test_blocks_join_without_a_seam(monkeypatch):
    maps, masks = random_set(5, 0.3, 40)
    whole = metrics.segmentation(maps, masks)
    monkeypatch.setattr(metrics, "BLOCK", 7)
    assert metrics.segmentation(maps, masks) == pytest.approx(whole, abs=1e-12)


def test_half_floats_and_integers_are_taken_as_they_are():
    maps, masks = random_set(6, levels=64)
    expected = pytest.approx(metrics.segmentation(maps, masks), abs=1e-12)
    assert metrics.segmentation(maps.astype(np.float16), masks) == expected
    assert metrics.segmentation((maps * 64).astype(np.uint8), masks.astype(np.uint8)) == expected
    steps = np.arange(maps.size).reshape(maps.shape)  # neighbours that float32 cannot tell apart
    expected = pytest.approx(metrics.segmentation(steps, masks), abs=1e-12)
    assert metrics.segmentation(steps + 2**30, masks) == expected


def test_segmentation_leaves_its_inputs_alone_and_needs_no_more_than_one_copy():
    maps = np.random.default_rng(7).random((16, 256, 256), dtype=np.float32)
    masks = np.zeros(maps.shape, bool)
    masks[:8, 100:120, 100:120] = True
    before = maps.copy(), masks.copy()
    tracemalloc.start()
    metrics.segmentation(maps, masks)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * maps.nbytes  # a single float64 copy would take 2
    assert np.array_equal(maps, before[0]) and np.array_equal(masks, before[1])


def defect_set(levels):
    """Nine images: three good, and three of each defect type, in mixed order."""
    rng = np.random.default_rng(8)
    types = ["crack", "good", "hole", "good", "crack", "hole", "hole", "good", "crack"]
    masks = rng.random((9, 12, 12)) < 0.05
    masks[[name == "good" for name in types]] = False
    maps = np.floor((rng.random(masks.shape) + 0.3 * masks) * levels) / levels
    return maps.max(axis=(1, 2)) + rng.random(9), maps.astype(np.float32), masks, types


def pixels_of(maps, masks, types):
    """PixelMetrics to which the images were added one by one."""
    pixels = metrics.PixelMetrics(Counter(types))
    for anomaly_map, mask, name in zip(maps, masks, types, strict=True):
        pixels.add(anomaly_map, mask, name)
    return pixels


@pytest.mark.parametrize("levels", [10**6, 8])
def test_metrics_of_a_stream_by_defect_type_are_those_of_all_images(levels):
    _, maps, masks, types = defect_set(levels)
    assert pixels_of(maps, masks, types).total() == pytest.approx(metrics.segmentation(maps, masks), abs=1e-12)


@pytest.mark.parametrize("levels", [10**6, 8])
def test_maps_may_differ_in_size(levels):
    """As where padding was cut off: the same pixels in larger and larger pieces."""
    rng = np.random.default_rng(0)
    maps, mask = rng.integers(0, levels, (6, 40)).astype(np.float32), np.zeros((6, 40), bool)
    mask[1, 3:9] = mask[4, 20:30] = True
    pixels = metrics.PixelMetrics({"good": 0, "hole": 3})
    for rows in (slice(0, 1), slice(1, 3), slice(3, 6)):
        pixels.add(maps[rows], mask[rows], "hole")
    assert pixels.total() == pytest.approx(metrics.segmentation(maps[None], mask[None]), abs=1e-12)


@pytest.mark.parametrize("levels", [10**6, 8])
def test_per_defect_is_the_subset_with_all_good_images(levels):
    scores, maps, masks, types = defect_set(levels)
    table = metrics.per_defect(scores, types, pixels_of(maps, masks, types))
    assert list(table) == ["crack", "hole"]
    for name, found in table.items():
        subset = np.array([other in ("good", name) for other in types])
        image = metrics.detection(scores[subset], masks[subset].any(axis=(1, 2)))
        pixel = metrics.segmentation(maps[subset], masks[subset])
        expected = {key: (image | pixel)[key] for key in ("image_auroc", "pixel_auroc", "aupro")} | {"images": 3}
        assert found == pytest.approx(expected, abs=1e-12)


def test_metrics_can_be_asked_for_in_any_order_and_between_images():
    """Values are sorted in place; earlier calls must not change the result."""
    _, maps, masks, types = defect_set(8)
    pixels, expected = metrics.PixelMetrics(Counter(types)), pixels_of(maps, masks, types)
    for anomaly_map, mask, name in zip(maps, masks, types, strict=True):
        pixels.add(anomaly_map, mask, name)
        if mask.any() and len(pixels.parts) == 3:
            pixels.total()
    assert pixels.of_type("hole") == expected.of_type("hole") and pixels.total() == expected.total()
    assert pixels.of_type("crack") == expected.of_type("crack")


def test_per_defect_without_pixels_or_with_a_type_of_empty_masks():
    scores, maps, masks, types = defect_set(100)
    full = metrics.per_defect(scores, types, pixels_of(maps, masks, types))
    bare = {name: {key: full[name][key] for key in ("images", "image_auroc")} for name in full}
    assert metrics.per_defect(scores, types, None) == bare
    masks[[name == "hole" for name in types]] = False
    assert metrics.per_defect(scores, types, pixels_of(maps, masks, types)) == {
        "crack": full["crack"],
        "hole": bare["hole"],
    }


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_a_sentence(value):
    maps, masks = random_set(9)
    maps[2, 3, 4] = value
    with pytest.raises(UserError, match="an anomaly map contains non-finite values"):
        metrics.segmentation(maps, masks)
    with pytest.raises(UserError, match="image scores contain non-finite"):
        metrics.detection([0.1, value], [0, 1])
    with pytest.raises(UserError, match="image scores contain non-finite"):
        metrics.per_defect([0.1, value], ["good", "hole"], None)


def test_metrics_that_need_a_missing_class_raise():
    maps, masks = random_set(10)
    scores = np.arange(4.0)
    for function, *args in (
        (metrics.detection, scores, [0] * 4),
        (metrics.detection, scores, [1] * 4),
        (metrics.segmentation, maps, np.zeros_like(masks)),
        (metrics.segmentation, maps, np.ones_like(masks)),
        (metrics.segmentation, maps[:0], masks[:0]),
        (metrics.per_defect, scores, ["hole"] * 4, None),  # no good image
    ):
        with pytest.raises(ValueError, match="needs positives and negatives, got"):
            function(*args)


def test_inputs_that_do_not_fit_together_raise():
    maps, masks = random_set(11)
    scores = np.arange(4.0)
    pixels = metrics.PixelMetrics({"good": 1, "hole": 1})
    for message, function, *args in (
        (r"must both be \[N,H,W\]", metrics.segmentation, maps, masks[:, :-1]),
        (r"must both be \[N,H,W\]", metrics.segmentation, maps[0], masks[0]),
        (r"must both be \[N\]", metrics.detection, scores, [0, 1]),
        (r"must both be \[N\]", metrics.per_defect, scores, ["good"] * 3, None),
        (r"max_fpr must be in", metrics.segmentation, maps, masks, 30),
        (r"must both be \[H,W\]", pixels.add, maps[0], masks[0, 1:], "hole"),
        (r"good image must have an empty mask", pixels.add, maps[0], masks[0] | True, "good"),
    ):
        with pytest.raises(ValueError, match=message):
            function(*args)


def test_only_pixels_of_a_region_count():
    """As if the maps ended there, also for a defect that lies on both sides of its edge."""
    rng = np.random.default_rng(3)
    maps, masks = rng.random((4, 20, 30)).astype(np.float32), np.zeros((4, 20, 30), bool)
    masks[1, 3:9, 10:20] = masks[2, 12:15, 2:6] = masks[3, 5:9, 22:28] = True
    region = np.zeros((20, 30), bool)
    region[:, :14] = True
    found = metrics.PixelMetrics({"any": 4})
    for anomaly_map, mask in zip(maps, masks, strict=True):
        found.add(anomaly_map, mask, "any", region)
    assert found.total() == pytest.approx(metrics.segmentation(maps[:, :, :14], masks[:, :, :14]), abs=1e-12)
