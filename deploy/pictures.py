"""What a prediction looks like, in the picture's own size."""

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.images import eight_bits
from deploy.judge import Judge, Prediction
from evaluation.colours import colour_scale
from evaluation.outline import dimmed, outlined
from utils.files import write_bytes


def write_pictures(judge: Judge, prediction: Prediction, folder: Path, name: Path) -> None:
    """`overlays/`, the picture with its regions outlined, and `maps/`, the anomaly map in the run's colours.

    With a calibration also `masks/`, 255 in the regions. `name` is a path below each of them.
    """
    for what, picture in drawn(judge, prediction).items():
        path = folder / what / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, png(picture))


def drawn(judge: Judge, prediction: Prediction) -> dict[str, Image.Image]:
    """The pictures of a prediction by the names of their folders."""
    heat = colour_scale(judge.normal, prediction.anomaly_map).colour(prediction.anomaly_map)
    found = {"maps": Image.fromarray(heat), "overlays": overlay(judge, prediction)}
    if judge.calibration:
        found["masks"] = Image.fromarray(255 * prediction.mask.astype(np.uint8))
    return found


def overlay(judge: Judge, prediction: Prediction) -> Image.Image:
    """The picture, dark outside of the region of interest; with a calibration, the outlines of the regions found."""
    picture = eight_bits(prediction.picture)
    image = Image.fromarray(dimmed(picture, judge.roi.whole(picture.shape[:2])) if judge.roi else picture)
    return outlined(image, prediction.mask) if judge.calibration else image


def png(picture: Image.Image) -> bytes:
    data = BytesIO()
    picture.save(data, "PNG", compress_level=1)
    return data.getvalue()
