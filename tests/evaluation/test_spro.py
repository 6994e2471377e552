"""sPRO: hand-made cases, and the definition by thresholds."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from datasets.fit import Fit
from datasets.sample import Sample, Saturation
from evaluation.metrics import PixelMetrics
from evaluation.report import evaluate
from evaluation.score import Scored
from evaluation.spro import MAX_FPR, SaturatedOverlap, defects, weighted
from utils.errors import UserError

SIZE = (40, 40)
FIT = Fit(SIZE, SIZE)
AREAS = {255: Saturation(30, False), 254: Saturation(0.5, True)}


def masks_of(rng, count):
    """Rectangles of some size: [40,40] bool."""
    for _ in range(count):
        mask, (top, left, height, width) = np.zeros(SIZE, bool), rng.integers(3, 14, 4)
        mask[top : top + height, left : left + width] = True
        yield mask


def images(folder, rng, count=6, defects_each=2):
    """Samples of good, hole and missing images with their results; the defects of an image may overlap."""
    samples, results = [], []
    for index in range(count):
        kind = ("good", "hole", "missing")[index % 3]
        place, united = folder / f"{index}", np.zeros(SIZE, bool)
        place.mkdir(parents=True)
        for k, mask in enumerate(masks_of(rng, 0 if kind == "good" else defects_each)):
            value = 255 if kind == "hole" or k else 254
            assert cv2.imwrite(str(place / f"{k:03}.png"), mask.astype(np.uint8) * value)
            united |= mask
        anomaly_map = rng.integers(0, 50, SIZE).astype(np.float32) + 20 * united  # many ties
        samples.append(Sample(Path(f"{index}.png"), None if kind == "good" else place, kind, saturation=AREAS))
        results.append(Scored(index, np.zeros((3, *SIZE), np.uint8), united, anomaly_map))
    return samples, results


def by_definition(samples, results, kind):
    """Every threshold, one after the other, and the trapezoids between them."""
    own = [k for k, sample in enumerate(samples) if sample.defect_type in (kind, "good")]
    negatives = np.concatenate([results[k].anomaly_map[~results[k].mask] for k in own])
    found = []
    for k in own:
        for path in sorted(samples[k].mask.glob("*.png")) if samples[k].mask else ():
            pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            area, saturation = (pixels > 0).sum(), AREAS[pixels.max()]
            enough = int(saturation.threshold * area) if saturation.relative else min(saturation.threshold, area)
            found.append((results[k].anomaly_map[pixels > 0], enough))
    fpr, spro = [0.0], [0.0]
    for threshold in sorted({value for each in results for value in each.anomaly_map.ravel().tolist()}, reverse=True):
        fpr.append((negatives >= threshold).mean())
        spro.append(np.mean([min((values >= threshold).sum() / enough, 1) for values, enough in found]))
    points = np.unique(np.concatenate([np.array(fpr)[np.array(fpr) < MAX_FPR], [MAX_FPR]]))
    last = {x: y for x, y in zip(fpr, spro, strict=True)}  # the highest coverage at each rate
    first = {x: y for x, y in reversed(list(zip(fpr, spro, strict=True)))}  # and the lowest
    high = [last.get(x, np.interp(x, fpr, spro)) for x in points]
    low = [first.get(x, np.interp(x, fpr, spro)) for x in points]
    steps = np.diff(points)
    return float((steps * (np.array(high[:-1]) + np.array(low[1:])) / 2).sum() / MAX_FPR)


def both(samples, results):
    """sPRO and the pixels' metrics of these images."""
    saturated = SaturatedOverlap(samples, FIT)
    pixels = PixelMetrics({"good": len(samples), "hole": len(samples), "missing": len(samples)})
    for result in results:
        saturated.add(result)
        pixels.add(result.anomaly_map, result.mask, samples[result.index].defect_type)
    return saturated, pixels


def test_each_type_agrees_with_the_definition_at_every_threshold(tmp_path):
    samples, results = images(tmp_path, np.random.default_rng(0))
    saturated, pixels = both(samples, results)
    for kind in ("hole", "missing"):
        assert saturated.of_type(kind, pixels)["spro"] == pytest.approx(by_definition(samples, results, kind), abs=1e-6)
    each = [saturated.of_type(kind, pixels)["spro"] for kind in ("hole", "missing")]
    assert saturated.total(pixels)["spro"] == pytest.approx(np.mean(each))
    assert saturated.of_type("good", pixels) == {}


def test_half_of_a_defect_is_enough_where_half_saturates():
    """Of 8 pixels the highest 4 count, each with a quarter; of 8 with 3/8, three thirds."""
    values = np.arange(8.0)
    for share, expected in ((0.5, [0.25] * 4), (3 / 8, [1 / 3] * 3), (1, [1 / 8] * 8), (0.3125, [0.4, 0.4, 0.2])):
        kept, weights = weighted(values, share)
        assert kept.tolist() == values[::-1][: len(expected)].tolist()
        assert weights == pytest.approx(expected) and weights.sum() == pytest.approx(1)


def one_defect(tmp_path, value=255, shape=SIZE):
    mask = np.zeros(shape, np.uint8)
    mask[: shape[0] // 2, : shape[1] // 2] = value
    assert cv2.imwrite(str(tmp_path / "000.png"), mask)
    return Sample(Path("0.png"), tmp_path, "hole", saturation=AREAS)


@pytest.mark.parametrize(("value", "expected"), [(255, 30 / 1600), (254, 0.5)])
def test_a_number_of_pixels_means_the_same_share_at_another_size(tmp_path, value, expected):
    ((mask, share),) = defects(one_defect(tmp_path, value, (80, 80)), FIT)
    assert share == expected and mask.sum() == 20 * 20


def test_an_area_larger_than_the_defect_means_all_of_it(tmp_path):
    sample = one_defect(tmp_path)._replace(saturation={255: Saturation(10**6, False)})
    assert [share for _, share in defects(sample, FIT)] == [1]


def test_a_value_without_an_entry_is_an_error_that_names_the_mask(tmp_path):
    with pytest.raises(UserError, match=r"000.png: a pixel has the value 7, which is not in defects_config.json"):
        list(defects(one_defect(tmp_path, 7), FIT))


def test_a_defect_outside_of_a_region_of_interest_does_not_count(tmp_path):
    samples, results = images(tmp_path, np.random.default_rng(1))
    region = np.zeros(SIZE, bool)
    region[:, 30:] = True  # where no defect is
    saturated, pixels = both(samples, [result._replace(mask=result.mask & region, region=region) for result in results])
    assert saturated.total(pixels) == {} == saturated.of_type("hole", pixels)


def test_a_test_reports_it_in_total_and_for_each_type_only_with_saturation_areas(tmp_path):
    samples, results = images(tmp_path, np.random.default_rng(2))
    tested = evaluate(samples, iter(results), fit=FIT)
    rows = {name: row["spro"] for name, row in tested.per_defect.items()}
    assert tested.metrics["spro"] == pytest.approx((rows["hole"] + rows["missing"]) / 2)
    assert json.dumps(tested.metrics)  # plain numbers
    without = evaluate([sample._replace(saturation=None) for sample in samples], iter(results), fit=FIT)
    assert "spro" not in without.metrics and all("spro" not in row for row in without.per_defect.values())
    assert {**tested.metrics, "spro": None} == {**without.metrics, "spro": None}
