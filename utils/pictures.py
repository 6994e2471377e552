"""The pictures of a run: one overlay per test image, and the training curves."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import matplotlib

matplotlib.use("Agg")  # no screen needed

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from datasets.images import denormalise
from datasets.mvtec import MVTecDataset
from utils.console import progress

PANEL = 256  # pixels, the least width of one panel; smaller images are enlarged
GAP, CAPTION = 8, 44
OUTLINE = (0, 255, 160)


def colour_scale(maps: np.ndarray, normal_max: float | None) -> float:
    """The map value shown as the hottest colour, one for the whole run.

    Twice the strongest response on held-out good images, so that the middle of the scale means "as bad as the
    worst good part"; without such images, the value that 99.5 % of all pixels stay below.
    """
    top = 2 * normal_max if normal_max else float(np.quantile(maps, 0.995))
    return top or 1.0


def write_overlays(
    folder: Path, dataset: MVTecDataset, maps: np.ndarray, masks: np.ndarray, normal_max: float | None
) -> None:
    """One PNG per image, `<kind>/<name>.png`: image, mask outline, map, score."""
    top = colour_scale(maps, normal_max)
    for kind in {sample.kind for sample in dataset.samples}:
        (folder / kind).mkdir()

    def draw(index: int) -> None:
        sample = dataset.samples[index]
        image = denormalise(dataset[index]["image"])
        picture = overlay(image, maps[index], masks[index], top)
        caption(picture, f"{sample.kind} / {sample.path.stem}", maps[index].max(), top, normal_max)
        picture.save(folder / sample.kind / f"{sample.path.stem}.png")

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # drawing and PNG coding release the interpreter lock
        for _ in progress(pool.map(draw, range(len(dataset))), "overlays", len(dataset)):
            pass


def overlay(image: np.ndarray, anomaly_map: np.ndarray, mask: np.ndarray, top: float) -> Image.Image:
    """Three panels side by side above room for a caption: the image, the mask's outline on it, the map.

    image [H,W,3] uint8, anomaly_map [H,W], mask [H,W] bool.
    """
    enlarge = max(1, -(-PANEL // image.shape[1]))
    size = (image.shape[1] * enlarge, image.shape[0] * enlarge)
    image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    anomaly_map = cv2.resize(anomaly_map.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    mask = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    panels = [image, cv2.drawContours(image.copy(), contours, -1, OUTLINE, 1)]
    panels.append(cv2.drawContours(heat(anomaly_map, top), contours, -1, OUTLINE, 1))
    picture = Image.new("RGB", (3 * size[0] + 2 * GAP, size[1] + CAPTION), "white")
    for i, panel in enumerate(panels):
        picture.paste(Image.fromarray(panel), (i * (size[0] + GAP), 0))
    return picture


def heat(anomaly_map: np.ndarray, top: float) -> np.ndarray:
    """[H,W] -> [H,W,3] uint8: black at 0, pale yellow from `top` on.

    Colours go with the square root, since maps span decades (a product of levels all the more) and a faint
    response should still be seen.
    """
    scaled = (np.sqrt(np.clip(anomaly_map / top, 0, 1)) * 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(scaled, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)


def caption(picture: Image.Image, name: str, score: float, top: float, normal_max: float | None) -> None:
    """Below the panels: which image, its score, and what the colours mean."""
    draw = ImageDraw.Draw(picture)
    large, small = ImageFont.load_default(15), ImageFont.load_default(11)
    y = picture.height - CAPTION
    ratio = f"  =  {score / normal_max:.2f} x highest held-out good" if normal_max else ""
    draw.text((6, y + 4), name, "black", large)
    draw.text((6, y + 24), f"score {score:.4g}{ratio}", "black", large)
    bar = heat(np.linspace(0, top, PANEL - 12, dtype=np.float32)[None].repeat(10, axis=0), top)
    x = picture.width - PANEL + 6
    picture.paste(Image.fromarray(bar), (x, y + 8))
    width = bar.shape[1]
    draw.text((x, y + 22), "0", "black", small)
    draw.text((x + width, y + 22), f"{top:.3g}", "black", small, anchor="ra")
    if normal_max:
        middle = x + width * (normal_max / top) ** 0.5
        draw.line((middle, y + 6, middle, y + 20), "black")
        draw.text((middle, y + 22), "highest good", "black", small, anchor="ma")


def draw_curves(path: Path, history: list[dict[str, float]], best_epoch: int) -> None:
    """Training loss and validation score over epochs, the kept epoch marked."""
    epochs = [row["epoch"] for row in history]
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    axis.plot(epochs, [row["train_loss"] for row in history], color="tab:blue", marker=".")
    axis.set(xlabel="epoch", yscale="log", title=f"kept: epoch {best_epoch}")
    axis.set_ylabel("training loss", color="tab:blue")
    if "val_score" in history[0]:
        other = axis.twinx()
        other.plot(epochs, [row["val_score"] for row in history], color="tab:orange", marker=".")
        other.set_yscale("log")
        other.set_ylabel("validation score (held-out good images)", color="tab:orange")
    axis.axvline(best_epoch, color="gray", linestyle="--", linewidth=1)
    axis.xaxis.get_major_locator().set_params(integer=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
