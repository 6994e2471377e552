"""What a prediction looks like, in the picture's own size."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from datasets.images import eight_bits
from deploy.predictor import Prediction, Predictor
from evaluation.colours import colour_scale
from evaluation.pictures import outlined
from utils.files import write_bytes


def write_pictures(predictor: Predictor, prediction: Prediction, folder: Path, name: Path) -> None:
    """`overlays/`, the picture with its regions outlined, and `maps/`, the anomaly map in the run's colours.

    With a calibration also `masks/`, 255 where the map is above the threshold. `name` is a path below each of them.
    """
    heat = colour_scale(predictor.normal, prediction.anomaly_map).colour(prediction.anomaly_map)
    pictures = {"maps": heat, "overlays": eight_bits(prediction.picture)}
    if predictor.calibration:
        mask = prediction.anomaly_map > predictor.calibration.threshold
        marked = outlined(Image.fromarray(pictures["overlays"]), mask)
        pictures |= {"masks": 255 * mask.astype(np.uint8), "overlays": np.asarray(marked)}
    for what, pixels in pictures.items():
        colours = pixels[..., ::-1] if pixels.ndim == 3 else pixels  # OpenCV's order
        path = folder / what / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, cv2.imencode(".png", colours)[1].tobytes())
