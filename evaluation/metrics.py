"""Exact detection and segmentation figures from one sort of the scores.

Between two neighbouring values of positives only the false positive rate moves, so every figure here is
a mean or a maximum over the positives, and all that is asked of the negatives is how many lie above each.
Tied values are one threshold: in an area under a curve they make a slanted step, which counts half.
"""

import cv2
import numpy as np

from utils.errors import UserError

BLOCK = 1 << 20  # positives handled at once: bounds the temporaries to some 60 MB
MAX_FPR = 0.3  # the limit MVTec AD reports AUPRO at


def detection(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Figures of image scores [N] against labels [N], 1 = defective.

    Returns image_auroc, image_ap (step-wise average precision) and image_f1max, each in [0,1].
    Raises UserError for non-finite scores, ValueError for unequal shapes or a missing class.
    """
    scores, labels = _as_float(scores), np.asarray(labels).astype(bool)
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise ValueError(f"scores and labels must both be [N], got {scores.shape} and {labels.shape}.")
    if not np.isfinite(scores).all():
        raise UserError("image scores contain non-finite values: the network overflowed or diverged.")
    positives = np.sort(scores[labels])
    no_regions = np.zeros(len(positives))
    figures = _figures(positives, no_regions, [np.sort(scores[~labels])])
    return {f"image_{name}": figures[name] for name in ("auroc", "ap", "f1max")}


def segmentation(maps: np.ndarray, masks: np.ndarray, max_fpr: float = MAX_FPR) -> dict[str, float]:
    """Figures of anomaly maps [N,H,W] against masks [N,H,W], True = defective, all pixels pooled.

    Returns pixel_auroc, pixel_ap, pixel_f1max and aupro, each in [0,1]. AUPRO as MVTec AD defines it: mean
    covered fraction of the 8-connected regions of the whole test set, over the false positive rate of all
    negative pixels (good images included), integrated from 0 to max_fpr and divided by max_fpr.
    Raises UserError for non-finite maps, ValueError for unequal shapes, a missing class, a bad max_fpr.
    """
    if not 0 < max_fpr <= 1:
        raise ValueError(f"max_fpr must lie in (0, 1], got {max_fpr}.")
    maps, masks = _checked(maps, masks)
    positives, weights, negatives = _sorted_pixels(maps, masks)
    figures = _figures(positives, weights, [negatives], max_fpr)
    aupro = figures.pop("aupro")
    return {f"pixel_{name}": value for name, value in figures.items()} | {"aupro": aupro}


def per_defect(
    scores: np.ndarray, maps: np.ndarray | None, masks: np.ndarray | None, types: list[str]
) -> dict[str, dict]:
    """Figures of each defect type's images together with all good images, by name of the type.

    scores [N], maps and masks [N,H,W], types [N] names, "good" for good images.
    Returns images (how many of this type), image_auroc and, unless masks is None, pixel_auroc and aupro.
    A type without a defective pixel (a crop can cut them all off) has no pixel figures.
    Raises as the functions above.
    """
    scores, types = np.asarray(scores), np.asarray(types)
    if scores.shape != types.shape:
        raise ValueError(f"scores and types must both be [N], got {scores.shape} and {types.shape}.")
    good = types == "good"
    if masks is not None:
        maps, masks = _checked(maps, masks)
        if len(maps) != len(types) or masks[good].any():
            raise ValueError("every map needs a type and every good image an empty mask.")
        good_pixels = maps[good].ravel()
        good_pixels.sort()  # once, for all types
    table = {}
    for name in np.unique(types[~good]).tolist():
        own = types == name
        image = detection(scores[own | good], own[own | good])
        table[name] = {"images": int(own.sum()), "image_auroc": image["image_auroc"]}
        if masks is not None and masks[own].any():
            positives, weights, negatives = _sorted_pixels(maps[own], masks[own])
            pixel = _figures(positives, weights, [good_pixels, negatives])
            table[name] |= {"pixel_auroc": pixel["auroc"], "aupro": pixel["aupro"]}
    return table


def _figures(positives, weights, negatives, max_fpr=MAX_FPR):
    """auroc, ap, f1max and aupro of ascending positives [P], weights [P] and a list of ascending negatives.

    A weight is what its positive adds to the mean coverage of the regions; together they make 1.
    Raises ValueError without a positive or without a negative.
    """
    count, total = len(positives), sum(len(part) for part in negatives)
    if not count or not total:
        raise ValueError(f"needs positives and negatives, got {count} and {total}.")
    auroc = ap = f1max = aupro = 0.0
    for start in range(0, count, BLOCK):
        values = positives[start : start + BLOCK]
        hits = count - np.searchsorted(positives, values, "left")
        above = sum(len(part) - np.searchsorted(part, values, "right") for part in negatives)
        alarms = sum(len(part) - np.searchsorted(part, values, "left") for part in negatives)
        auroc += _area(above, alarms, total).sum() / count
        aupro += _area(above, alarms, max_fpr * total) @ weights[start : start + BLOCK]
        ap += (hits / (hits + alarms)).sum() / count
        f1max = max(f1max, (2 * hits / (hits + alarms + count)).max())
    figures = {"auroc": auroc, "ap": ap, "f1max": f1max, "aupro": aupro}
    return {name: min(float(value), 1.0) for name, value in figures.items()}  # a sum may round past 1


def _area(above, alarms, limit):
    """Area [P] that each positive adds under the curve, as a fraction of false positives 0..limit.

    It is missed while at most `above` negatives are reported and found from `alarms` on; the curve is linear
    between the two, where negatives tie with it.
    """
    ties = alarms - above
    inside = np.clip(limit - above, 0, ties)  # how much of the slanted step lies left of the limit
    return (np.maximum(limit - alarms, 0) + inside * (inside / np.maximum(2 * ties, 1))) / limit


def _sorted_pixels(maps, masks):
    """Ascending positives [P], their weights [P] and ascending negatives of maps and masks [N,H,W]."""
    negatives = maps[~masks]
    negatives.sort()  # in place and without an index: what makes the whole fast and small
    positives, weights = maps[masks], _region_weights(masks)
    order = positives.argsort()
    return positives[order], weights[order], negatives


def _region_weights(masks):
    """Masks [N,H,W] -> weight of each defective pixel [P]: 1 / (its region's size * number of regions)."""
    weights, regions, start = np.empty(np.count_nonzero(masks)), 0, 0
    for mask in masks[masks.any(axis=(1, 2))]:
        count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        labels = labels[mask]
        weights[start : start + len(labels)] = 1 / np.bincount(labels)[labels]
        start, regions = start + len(labels), regions + count - 1  # one label is the background
    return weights / max(regions, 1)


def _checked(maps, masks):
    """Float maps and boolean masks, both [N,H,W]."""
    maps, masks = _as_float(maps), np.asarray(masks).astype(bool, copy=False)
    if maps.ndim != 3 or maps.shape != masks.shape:
        raise ValueError(f"maps and masks must both be [N,H,W], got {maps.shape} and {masks.shape}.")
    bad = len(maps) - np.count_nonzero(np.isfinite(maps).all(axis=(1, 2)))
    if bad:
        raise UserError(
            f"anomaly map contains non-finite values ({bad} of {len(maps)} images): the network overflowed or diverged."
        )
    return maps, masks


def _as_float(values):
    """At least float32: half floats are exact in it, and float32 stays as it is (26 M pixels, 105 MB)."""
    values = np.asarray(values)
    return values.astype(np.result_type(values.dtype, np.float32), copy=False)
