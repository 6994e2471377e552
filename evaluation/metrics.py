"""Exact detection and segmentation metrics from one sort of the scores.

Between two neighbouring values of positives only the false positive rate changes. So every metric here is
a mean or a maximum over the positives, and only the number of negatives above each positive is needed.
Tied values are one threshold: in a curve they make a slanted step, with half the area of a full one.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import cv2
import numpy as np

from utils.errors import UserError

BLOCK = 1 << 20  # positives processed at once; limits temporary arrays to about 60 MB
MAX_FPR = 0.3  # the limit that MVTec AD uses for AUPRO


def detection(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Metrics of image scores [N] against labels [N], 1 = defective.

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
    metrics = _curve_metrics(positives, no_regions, [np.sort(scores[~labels])])
    return {f"image_{name}": metrics[name] for name in ("auroc", "ap", "f1max")}


class PixelMetrics:
    """Exact pixel metrics of anomaly maps that are added one by one.

    Keeps each value once, 4 bytes per pixel, in the array where it is sorted later: by defect type, defective pixels
    separately. `counts` is how many images of each defect type, including "good", will be added.
    """

    def __init__(self, counts: Mapping[str, int]):
        self.counts = counts
        self.parts: dict[str, _Pixels] = {}
        self.order: list[str] = []  # the defect type of each image

    def add(
        self, anomaly_map: np.ndarray, mask: np.ndarray, defect_type: str, region: np.ndarray | None = None
    ) -> None:
        """Add a map [H,W] and its mask [H,W], True = defective. Only pixels in a `region` [H,W] bool count.

        Raises UserError for a map that is not finite, ValueError for unequal shapes or a good image with a mask.
        """
        anomaly_map, mask = _as_float(anomaly_map), np.asarray(mask).astype(bool, copy=False)
        if anomaly_map.ndim != 2 or anomaly_map.shape != mask.shape:
            raise ValueError(f"map and mask must both be [H,W], got {anomaly_map.shape} and {mask.shape}.")
        if not np.isfinite(anomaly_map).all():
            raise UserError("an anomaly map contains non-finite values: the network overflowed or diverged.")
        if defect_type == "good" and mask.any():
            raise ValueError("a good image must have an empty mask.")
        if defect_type not in self.parts:
            capacity = self.counts[defect_type] * anomaly_map.size
            self.parts[defect_type] = _Pixels(capacity, anomaly_map.dtype)
        self.parts[defect_type].add(anomaly_map, mask if region is None else mask & region, region)
        self.order.append(defect_type)

    def total(self, max_fpr: float = MAX_FPR) -> dict[str, float]:
        """pixel_auroc, pixel_ap, pixel_f1max and aupro, each in [0,1], of all images, their pixels pooled.

        AUPRO as MVTec AD defines it: mean covered fraction of the 8-connected regions of the whole test set, over the
        false positive rate of all negative pixels (good images included), integrated from 0 to max_fpr and divided by
        max_fpr. Raises ValueError for a missing class or a bad max_fpr.
        """
        if not 0 < max_fpr <= 1:
            raise ValueError(f"max_fpr must be in (0, 1], got {max_fpr}.")
        metrics = self._metrics(list(self.parts.values()), max_fpr)
        aupro = metrics.pop("aupro")
        return {f"pixel_{name}": value for name, value in metrics.items()} | {"aupro": aupro}

    def of_type(self, defect_type: str) -> dict[str, float]:
        """pixel_auroc and aupro of a type's images together with all good ones; empty if the type has no region."""
        own = self.parts[defect_type]
        if not own.regions:
            return {}
        metrics = self._metrics([own, *(self.parts[k] for k in self.parts if k == "good")], MAX_FPR)
        return {"pixel_auroc": metrics["auroc"], "aupro": metrics["aupro"]}

    def negatives(self, *types: str) -> list[np.ndarray]:
        """The negatives of these defect types, each in ascending order."""
        return [self.parts[name].negatives() for name in types if name in self.parts]

    def images(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """For each image, in the order of `add`: negatives [M], positives [P], and 1 / (size of the region) [P].

        Only before any metric is computed, which sorts the pixels of all images together.
        """
        each = {name: zip(*part.by_image(), strict=True) for name, part in self.parts.items()}
        return (next(each[name]) for name in self.order)

    def pooled(self, parts: Iterable["_Pixels"] | None = None) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """Of all images: ascending positives [P], their weights [P] in a PRO curve, ascending negatives of each part.

        A weight is what its positive adds to the mean coverage of the regions; they sum to 1 if there is a region.
        """
        parts = list(self.parts.values() if parts is None else parts)
        positives = np.concatenate([np.empty(0, np.float32), *(part.positives() for part in parts)])
        weights = np.concatenate([np.empty(0), *(part.weights() for part in parts)]) / max(
            sum(part.regions for part in parts), 1
        )
        order = positives.argsort()
        return positives[order], weights[order], [part.negatives() for part in parts]

    def _metrics(self, parts: list["_Pixels"], max_fpr: float) -> dict[str, float]:
        return _curve_metrics(*self.pooled(parts), max_fpr)


class _Pixels:
    """The values of some images: negatives in a buffer of `capacity`, positives with 1 / (size of their region)."""

    def __init__(self, capacity: int, dtype: np.dtype):
        self.buffer, self.used, self.sorted = np.empty(capacity, dtype), 0, False
        self.ends: list[int] = []  # in the buffer, of each image
        self.positive: list[np.ndarray] = []  # of each image
        self.weight: list[np.ndarray] = []
        self.regions = 0

    def add(self, anomaly_map: np.ndarray, mask: np.ndarray, region: np.ndarray | None) -> None:
        values = anomaly_map.ravel() if region is None else anomaly_map[region]
        self.positive.append(anomaly_map[mask])
        self.weight.append(np.empty(0))
        if mask.any():
            count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
            labels = labels[mask]
            self.weight[-1] = 1 / np.bincount(labels)[labels]
            self.regions += count - 1  # one label is the background
            values = anomaly_map[~mask if region is None else region & ~mask]
        if self.used + len(values) > len(self.buffer):  # maps may be larger than the first one
            larger = np.empty(len(self.buffer) + len(self.buffer) // 2 + len(values), self.buffer.dtype)
            larger[: self.used] = self.buffer[: self.used]
            self.buffer = larger
        self.buffer[self.used : self.used + len(values)] = values
        self.used, self.sorted = self.used + len(values), False
        self.ends.append(self.used)

    def by_image(self) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
        """Negatives, positives and weights of each image, before `negatives` sorts them."""
        assert not self.sorted
        return np.split(self.buffer[: self.used], self.ends[:-1]), self.positive, self.weight

    def negatives(self) -> np.ndarray:
        """In ascending order."""
        values = self.buffer[: self.used]
        if not self.sorted:
            values.sort()  # in place and without an index: fast, and needs no more memory
            self.sorted = True
        return values

    def positives(self) -> np.ndarray:
        return np.concatenate(self.positive) if self.positive else np.empty(0, self.buffer.dtype)

    def weights(self) -> np.ndarray:
        return np.concatenate(self.weight) if self.weight else np.empty(0)


def segmentation(maps: np.ndarray, masks: np.ndarray, max_fpr: float = MAX_FPR) -> dict[str, float]:
    """`PixelMetrics.total` of maps [N,H,W] and masks [N,H,W], with its errors."""
    if np.ndim(maps) != 3 or np.shape(maps) != np.shape(masks):
        raise ValueError(f"maps and masks must both be [N,H,W], got {np.shape(maps)} and {np.shape(masks)}.")
    metrics = PixelMetrics({"any": len(maps)})
    for anomaly_map, mask in zip(maps, masks, strict=True):
        metrics.add(anomaly_map, mask, "any")
    return metrics.total(max_fpr)


def per_defect(scores: np.ndarray, types: Sequence[str], pixels: PixelMetrics | None) -> dict[str, dict]:
    """Metrics of each defect type's images together with all good images, by name of the type.

    scores [N], types [N] names, "good" for good images. Returns images (how many of this type), image_auroc and,
    if `pixels` are given and the type has a region (a crop can remove all), pixel_auroc and aupro.
    Raises the same errors as the functions above.
    """
    scores, types = np.asarray(scores), np.asarray(types)
    if scores.shape != types.shape:
        raise ValueError(f"scores and types must both be [N], got {scores.shape} and {types.shape}.")
    good = types == "good"
    table = {}
    for name in np.unique(types[~good]).tolist():
        own = types == name
        image = detection(scores[own | good], own[own | good])
        table[name] = {"images": int(own.sum()), "image_auroc": image["image_auroc"]}
        table[name] |= pixels.of_type(name) if pixels else {}
    return table


def _curve_metrics(
    positives: np.ndarray, weights: np.ndarray, negatives: Sequence[np.ndarray], max_fpr: float = MAX_FPR
) -> dict[str, float]:
    """auroc, ap, f1max and aupro of ascending positives [P], weights [P] and a list of ascending negatives.

    A weight is what its positive adds to the mean coverage of the regions; the weights sum to 1.
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
        auroc += area(above, alarms, total).sum() / count
        aupro += area(above, alarms, max_fpr * total) @ weights[start : start + BLOCK]
        ap += (hits / (hits + alarms)).sum() / count
        f1max = max(f1max, (2 * hits / (hits + alarms + count)).max())
    metrics = {"auroc": auroc, "ap": ap, "f1max": f1max, "aupro": aupro}
    return {name: min(float(value), 1.0) for name, value in metrics.items()}  # a sum may round past 1


def covered_area(positives: np.ndarray, weights: np.ndarray, negatives: Sequence[np.ndarray], max_fpr: float) -> float:
    """Area under a mean coverage over the false positive rate from 0 to max_fpr, divided by max_fpr.

    positives [P] in any order; a weight [P] is what its positive adds to the mean coverage. negatives: ascending.
    Raises ValueError without a positive or without a negative.
    """
    order = positives.argsort()
    return _curve_metrics(positives[order], weights[order], negatives, max_fpr)["aupro"]


def area(above: np.ndarray, alarms: np.ndarray, limit: float | np.ndarray) -> np.ndarray:
    """Area [P] that each positive adds under the curve, as a fraction of false positives 0..limit.

    It is missed while at most `above` negatives are reported, and found from `alarms` on. Between the two, where
    negatives have the same value, the curve is linear.
    """
    ties = alarms - above
    inside = np.clip(limit - above, 0, ties)  # the part of the slanted step below the limit
    return (np.maximum(limit - alarms, 0) + inside * (inside / np.maximum(2 * ties, 1))) / limit


def _as_float(values: np.ndarray) -> np.ndarray:
    """As float32 or wider: exact for float16, and float32 is not copied (26 million pixels are 105 MB)."""
    values = np.asarray(values)
    return values.astype(np.result_type(values.dtype, np.float32), copy=False)
