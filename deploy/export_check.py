"""Whether an exported model computes what the run computes, on the run's own images."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from datasets.dataset import ImageDataset, Pixels
from datasets.tiles import whole_maps
from evaluation.calibration import Calibration
from evaluation.score import Scored, image_score
from utils.errors import UserError
from utils.progress import progress

if TYPE_CHECKING:
    from deploy.judge import Judge

TINY = float(np.finfo(np.float32).tiny)
# Images [3,h,w] uint8 or uint16 -> maps [B,h,w] float32; of large ones, tiles.
MapsOf = Callable[[Sequence[np.ndarray]], np.ndarray]
# How far maps and scores may be from those of PyTorch in float32, as shares of an image's highest value, or of the
# median image's if that is higher. Measured with trained students: docs/export.md.
LIMITS = {"fp32": 1e-4, "bf16": 0.01, "int8": 0.05}
# The same for runs that test in these precisions, where only their decisions count. They compute more in them.
OF_RUN = {"fp32": LIMITS["fp32"], "bf16": 0.1, "fp16": 0.1}


class Refused(UserError):
    """The exported model does not compute what the run computes."""


class Judgement(NamedTuple):
    """What becomes of an image, and how far its score is from the next threshold, as a share of that threshold."""

    decision: str | None
    distance: float


class Found(NamedTuple):
    """The same image judged twice: by PyTorch and by the exported model."""

    path: str
    highest: float  # absolute value of PyTorch's map
    map_difference: float
    scores: tuple[float, float]
    judgements: tuple[Judgement, Judgement]  # by the run and by the exported model


class Judged(NamedTuple):
    """Functions that compute maps, and the calibration that belongs to their scores, if there is one."""

    maps_of: MapsOf
    calibration: Calibration | None

    def judgement(self, anomaly_map: np.ndarray) -> Judgement:
        score, calibration = image_score(anomaly_map), self.calibration
        if calibration is None:
            return Judgement(None, np.inf)
        thresholds = {calibration.threshold, calibration.limit}
        distance = min(abs(score - each) / max(abs(each), TINY) for each in thresholds)
        return Judgement(calibration.decision(calibration.p_value(score)), distance)


def scored(maps_of: MapsOf, dataset: ImageDataset, size: int, what: str) -> Iterator[Scored]:
    """The images of a data set with their maps, one by one; `what` names them on the progress bar."""
    for indices, parts in _batches(dataset, size, what):
        maps = whole_maps([part.image for part in parts], maps_of, dataset.tiles)
        for index, part, anomaly_map in zip(indices, parts, maps, strict=True):
            yield _scored(index, part, anomaly_map)


def compare(
    dataset: ImageDataset, reference: MapsOf, run: Judged, exported: Judged, size: int, found: list[Found]
) -> Iterator[Scored]:
    """The images with the exported model's maps; each image's differences are added to `found`.

    `reference` is PyTorch in float32; `run` decides, perhaps in a lower precision, as its tests do.
    """
    for indices, parts in _batches(dataset, size, "checking"):
        images = [part.image for part in parts]
        expected, ours = (whole_maps(images, maps_of, dataset.tiles) for maps_of in (reference, exported.maps_of))
        same = run.maps_of is reference
        of_run = expected if same else whole_maps(images, run.maps_of, dataset.tiles)
        for index, part, *maps in zip(indices, parts, expected, of_run, ours, strict=True):
            wanted, decided, here = (_scored(index, part, each) for each in maps)
            found.append(
                Found(
                    str(dataset.samples[index].path),
                    float(np.abs(wanted.anomaly_map).max()),
                    float(np.abs(here.anomaly_map - wanted.anomaly_map).max()),
                    (image_score(wanted.anomaly_map), image_score(here.anomaly_map)),
                    (run.judgement(decided.anomaly_map), exported.judgement(here.anomaly_map)),
                )
            )
            yield here


def _batches(dataset: ImageDataset, size: int, what: str) -> Iterator[tuple[range, list[Pixels]]]:
    with progress(None, what, len(dataset)) as bar:
        for start in range(0, len(dataset), size):
            indices = range(start, min(start + size, len(dataset)))
            yield indices, [dataset.pixels(index) for index in indices]
            bar.update(len(indices))


def _scored(index: int, part: Pixels, anomaly_map: np.ndarray) -> Scored:
    return Scored.cut(index, part.image, part.mask, anomaly_map, part.inside, part.region)


def check_files(exported: "Judge", found: Sequence[Found], limit: float) -> None:
    """Let the exported model judge the pictures again, from their files, with all that is stored in it.

    Until then, the run's data set has resized and cut them. Raises Refused naming the first picture that gets another
    score or decision than in `found`.
    """
    judged = progress(exported.stream([each.path for each in found]), "checking from the files", len(found))
    for each, scale, (_, prediction) in zip(found, _scales(found), judged, strict=True):
        if isinstance(prediction, UserError):
            raise prediction
        score, expected = each.scores[1], each.judgements[1]
        other = prediction.decision != expected.decision and expected.distance > limit
        if other or not abs(prediction.score - score) <= limit * scale:
            raise Refused(
                f"{each.path}: the exported model does not resize or cut this picture as the run does: the score is "
                f"{prediction.score:.6g} (decision: {prediction.decision}) from its file, and {score:.6g} "
                f"({expected.decision}) from the run's pixels"
            )


def _scales(found: Sequence[Found]) -> list[float]:
    """What the limits are shares of."""
    typical = float(np.median([each.highest for each in found]))
    return [max(each.highest, typical, TINY) for each in found]


def differences(found: Sequence[Found], precision: str, of_run: str) -> dict[str, Any]:
    """The largest differences, for the card. Raises Refused that says where they are above the limit.

    A decision may be another one only if both scores are within the limit from a threshold, where no two precisions
    agree always; `of_run` is the precision in which the run decides.
    """
    scales, limit = _scales(found), LIMITS[precision]
    maps = [each.map_difference / scale for each, scale in zip(found, scales, strict=True)]
    scores = [abs(each.scores[1] - each.scores[0]) / scale for each, scale in zip(found, scales, strict=True)]
    for what, values in (("score", scores), ("anomaly map", maps)):
        place = int(np.argmax(values))  # of the first that is not a number, if there is one
        worst, largest = found[place], values[place]
        if not largest <= limit:
            raise Refused(
                f"the exported model does not compute what the run computes: the {what} of {worst.path} differs by "
                f"{100 * largest:.2g} % of its highest value (score {worst.scores[1]:.6g}, with PyTorch "
                f"{worst.scores[0]:.6g}); with --precision {precision} at most {100 * limit:.2g} % is accepted"
            )
    return {
        "images": len(found),
        "map_difference": max(maps),
        "score_difference": max(scores),
        "limit": limit,
        **_decisions(found, max(limit, OF_RUN[of_run])),
    }


def _decisions(found: Sequence[Found], near: float) -> dict[str, Any]:
    other = [each for each in found if len({judgement.decision for judgement in each.judgements}) > 1]
    for each in other:
        run, exported = each.judgements
        if max(run.distance, exported.distance) > near:
            raise Refused(
                f"{each.path}: the exported model decides '{exported.decision}', the run '{run.decision}', and the "
                f"score is not within {100 * near:.2g} % of the threshold (score {each.scores[1]:.6g}, with PyTorch "
                f"{each.scores[0]:.6g})"
            )
    if found[0].judgements[0].decision is None:
        words = "none, because the run has no calibration"
    elif not other:
        words = "the same on all images"
    else:
        words = f"not the same on {len(other)} of {len(found)} images, whose scores are near the threshold"
    return {"decisions": words, "other_decisions": [each.path for each in other]}
