"""Draw the figures of the README: python3 images/draw.py writes one PNG per method beside this file."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import cv2
import numpy as np
from PIL import Image

from datasets.demo import picture
from images.figures import FROZEN, INK, LAYERS, LEARNS, NARROW, SCORE, STUDENT, TEACHER, Page, demo, merge
from pretraining.formula import FAMILIES, FormulaImages
from pretraining.formula import picture as picture_of

LEVELS = (2.45, 4.3, 6.15)  # x of the three levels of RD and its successors


def stpm() -> None:
    """Two equal networks see the image; where their feature pyramids differ, level by level, is multiplied."""
    page = Page(5.0)
    image, maps = demo(64, 32, 16)
    page.thumbnail(0.95, 2.5, 1.5, image, "image")
    xs = (4.3, 6.05, 7.8)
    for y, rise, colour, name in ((4.2, 0.55, FROZEN, TEACHER), (0.8, -0.55, LEARNS, STUDENT)):
        page.title(3.2, y + rise, name)
        page.network((1.72, 2.5), "stem", xs, y, LAYERS, colour)
    page.compare(xs, 2.5, (3.85, 1.15), maps, 0.87, "×")
    page.thumbnail(10.1, 2.5, 1.9, merge(maps, np.prod), SCORE)
    page.save("stpm", small=False)


def reverse(page: Page, y: float, lift: float = 0.35) -> None:
    """What RD and its successors share: a loop around the distances."""
    _, maps = demo(64, 32, 16)
    page.loop(y, LEVELS, LAYERS, "bottleneck:\nmerges the levels", lift)
    page.compare(LEVELS, y - 1.55, (y - 0.35, y - 2.75), maps, 0.92)
    page.thumbnail(8.25, y - 1.55, 1.5, merge(maps), SCORE)


def rd() -> None:
    """The student is given the teacher's levels through a bottleneck, and restores them."""
    page = Page(5.1)
    reverse(page, 3.95)
    page.title(1.9, 0.27, "student (decoder, learns): restores the teacher's levels of good images")
    page.save("rd")


def rdpp() -> None:
    """RD with projections before the bottleneck that learn, from patches of noise, to take out what is not normal."""
    page = Page(8.1)
    y = 6.1
    reverse(page, y, lift=1.2)
    for x in LEVELS:
        page.arrow((x, y + 0.35), (x, y + 0.7))
        page.box(x, y + 0.95, 1.1, 0.5, "projection", LEARNS)
    page.write(6.85, y + 0.95, "learn to let only what is normal pass", 10, "left")
    page.title(1.9, y - 3.68, "student (decoder, learns): restores the teacher's levels of good images")
    page.training(11.28, 2.1, "with or without a patch of noise, each projection learns to give the same")
    good, _, _ = picture("weave", "train", "good", 0)
    noise = cv2.resize(np.random.default_rng(1).normal(0, 60, (10, 11)), (90, 80))
    noisy = good.astype(float)
    noisy[50:130, 110:200] += noise[..., None]  # stronger and larger than in training, to be seen
    lesson(page, -1, noisy.clip(0, 255).astype(np.uint8), "with noise")
    lesson(page, 1, good, "without")
    page.write(5.7, 1.15, "alike")
    page.write(4.8, 1.75, "not alike", backgroundcolor="white")
    page.save("rdpp")


def lesson(page: Page, side: int, image: np.ndarray, label: str) -> None:
    """What RD++'s projections learn from: one half of the frame at the bottom, its left (-1) or its right (1)."""
    y = 1.15
    picture_x, teacher_x, projection_x = 5.7 + side * np.array([4.75, 3.15, 1.3])
    page.thumbnail(picture_x, y + 0.08, 0.95, image, label)
    page.arrow((picture_x - 0.5 * side, y), (teacher_x + 0.55 * side, y))
    page.box(teacher_x, y, 1.1, 0.7, "teacher", FROZEN)
    page.arrow((teacher_x - 0.55 * side, y), (projection_x + 0.55 * side, y))
    page.box(projection_x, y, 1.1, 0.7, "projection", LEARNS)
    page.arrow((5.7 + 0.25 * side, y), (5.7 + 0.75 * side, y), style=":")
    apart = teacher_x if side < 0 else projection_x
    page.arrow((4.8, y + 0.6), (apart, y + 0.6), (apart, y + 0.35), style=":")


def ead() -> None:
    """A student with two halves: one imitates the teacher's patches, one an autoencoder that sees the whole image."""
    page = Page(6.6)
    image, maps = demo(64, 16)
    page.thumbnail(0.95, 4.4, 1.5, image, "image")
    rows = ((6.0, "teacher (frozen): sees\n33 × 33 pixels at a time", FROZEN), (4.4, "student (learns)", LEARNS))
    for y, name, colour in (*rows, (2.8, "autoencoder (learns): knows\nthe image by 64 numbers", LEARNS)):
        page.arrow((1.72, 4.4), (2.5, y))
        page.box(3.7, y, 2.4, 0.8, name, colour)
    for y, half in ((4.6, "local half"), (4.2, "global half")):
        page.arrow((4.9, y), (5.35, y))
        page.box(5.9, y, 1.1, 0.36, half, LEARNS)
    x = 7.75
    for y, upper, lower, level, name in (
        (5.35, 6.0, 4.6, maps[0], "local: what a part shows"),
        (3.3, 4.2, 2.8, maps[1], "global: how parts go together"),
    ):
        for start, source in ((4.9 if upper == 6.0 else 6.45, upper), (6.45 if lower == 4.6 else 4.9, lower)):
            page.arrow((start, source), (6.85, source), (7.15, y + np.copysign(0.25, source - y)), style="--")
        page.thumbnail(x, y, 1.15, level, name)
        page.arrow((x + 0.6, y), (9.2, y), (9.2, 4.33 + np.copysign(0.3, y - 4.33)))
    page.write(9.2, 4.33, "mean", 11)
    page.write(8.75, 6.15, "both scaled by held-out good images", 9)
    page.arrow((9.45, 4.33), (9.65, 4.33))
    page.thumbnail(10.5, 4.33, 1.6, merge(maps), SCORE.replace("; ", ";\n"))
    page.training(
        11.28,
        1.85,
        "on pictures of anything else the local half must say nothing, or it would imitate the teacher on defects too",
    )
    for k in range(7):
        page.thumbnail(1.0 + 1.2 * k, 1.15, 0.95, FormulaImages(128, 0)[k + 3], "")
    page.arrow((2.05, 1.66), (2.05, 3.5), (3.2, 3.5), (3.2, 3.98), style=":")
    page.save("ead")


def dbfad() -> None:
    """Reverse distillation of four levels, where a stage of the decoder also sees the next shallower level."""
    page = Page(5.1)
    y, xs = 3.95, (2.45, 4.0, 5.55, 7.1)
    _, maps = demo(64, 64, 32, 16)
    page.loop(y, xs, ("stem\n1/4 size", *LAYERS), "1×1 convolutions,\nsum, SSPCAB,\nattention")
    page.compare(xs, y - 1.35, (y - 0.35, y - 2.75), maps, 0.58, side=0.8, first=0)
    page.thumbnail(8.8, y - 1.35, 1.25, merge(maps), SCORE)
    for x in xs[:-1]:
        gate = x + 0.88
        page.arrow((gate, y), (gate, y - 2.12))
        page.box(gate, y - 2.27, 0.8, 0.3, "attention", LEARNS)
        page.arrow((gate + 0.2, y - 2.42), (gate + 0.2, y - 2.75))
    page.title(1.9, 0.27, "student (decoder, learns); attention adds a little of the next shallower level")
    page.save("dbfad")


def mixed() -> None:
    """Two pairs of teacher and student, one shallow and one deep; their maps are multiplied."""
    page = Page(7.5)
    image, maps = demo(32, 16, 16, 8)
    page.thumbnail(0.82, 3.6, 1.3, image, "image")
    small, deep = ("one block\n1/8 size", "one block\n1/16 size"), ("level 3\n1/16 size", "level 4\n1/32 size")
    pair(page, 5.5, "stem", LAYERS[:2], small, maps[:2], "fine detail")
    page.title(2.05, 7.3, "shallow pair: ResNet-18, its levels halved, and a smaller student")
    pair(page, 1.65, "levels\n0 to 2", deep, deep, maps[2:], "context, rescaled", first=3)
    page.title(2.05, 3.45, "deep pair: EfficientNet-B0 and a student of the same architecture")
    page.write(8.6, 3.6, "×", 20)
    page.write(9.0, 3.6, "=", 20)
    page.thumbnail(10.15, 3.6, 1.7, merge(maps[:2]) * merge(maps[2:]), SCORE)
    page.save("mixed")


def pair(page: Page, y: float, stem: str, above, below, maps, label: str, first: int = 1) -> None:
    """One of MixedTeacher's pairs at height y: layers of teacher and student, and the distances between them."""
    xs = (3.85, 5.6)
    page.network((1.5, 3.6), stem, xs, y + 1.25, above, FROZEN)
    page.network((1.5, 3.6), stem, xs, y - 1.25, below, LEARNS)
    page.title(6.3, y + 1.25, "teacher (frozen)")
    page.title(6.3, y - 1.25, "student (learns)")
    y += 0.08
    page.compare(xs, y, (y + 0.82, y - 0.98), maps, 0.88, side=0.8, first=first)
    page.thumbnail(7.35, y, 1.1, merge(maps), label)
    page.arrow((7.9, y), (8.6, y), (8.6, 3.6 + np.copysign(0.25, y - 3.6)))


def rnst() -> None:
    """STPM's student with memories of what is normal, which its later layers read beside their input."""
    page = Page(7.0)
    image, maps = demo(64, 32, 16)
    xs, between = (2.6, 4.7, 6.8), (3.65, 5.75)
    page.thumbnail(0.82, 4.95, 1.3, image, "image")
    for y, colour, name in ((6.5, FROZEN, TEACHER), (3.4, LEARNS, STUDENT)):
        page.title(7.5, y, name)
        page.arrow((1.5, 4.95), (2.05, y))
        page.row(xs, y, LAYERS, colour)
    page.compare(xs, 4.95, (6.15, 3.75), maps, 1.05)
    page.thumbnail(9.7, 4.95, 1.7, merge(maps), SCORE)
    page.exemplars(between, LAYERS[:2], 7.1)
    for start, x, end in zip(xs, between, xs[1:], strict=False):
        page.memory(start + 0.3, x, end - 0.3, 3.4)
    page.title(7.5, 2.35, "inside a memory, for each position")
    recall(page, 7.8, 1.45)
    page.write(7.5, 0.3, "the next layer reads the feature and what is recalled", align="left")
    page.save("rnst")


def recall(page: Page, x: float, y: float) -> None:
    """Inside a memory. Drawn with fewer items than there are, random ones, and sharper weights than theirs."""
    random = np.random.default_rng(0)
    keys, values = random.standard_normal((2, 12, 6))
    feature = keys[4:5] + 0.3 * random.standard_normal((1, 6))
    weights = np.exp(keys @ feature.T)
    weights /= weights.sum()
    parts = (("feature", 0.6, feature), ("50 keys", 0.6, keys), ("likeness", 0.1, weights), ("50 values", 0.6, values))
    for k, (name, width, part) in enumerate((*parts, ("recalled", 0.6, weights.T @ values))):
        colour = {"cmap": "Oranges" if "50" in name else "Greys", "vmin": part.min() - 0.2 * np.ptp(part)}
        page.thumbnail(x + 0.8 * k, y, width, part, name, **colour)


def rnrd() -> None:
    """Reverse distillation with memories before the decoder's stages."""
    page = Page(7.45)
    y, places = 6.3, (3.375, 5.225, 8.3)
    reverse(page, y)
    page.title(6.85, y - 2.9, "student (decoder, learns)")
    page.exemplars(places, ("layers 1, 2\n1/8 size", LAYERS[2], "layer4\n1/32 size"), 9.2)
    starts, ends = (LEVELS[1] - 0.3, LEVELS[2] - 0.3, NARROW), np.add(LEVELS, 0.3)
    for start, x, end in zip(starts, places, ends, strict=True):
        page.memory(start, x, end, y - 3.1)
    page.save("rnrd")


def sspcab() -> None:
    """A layer that must predict each position from four positions around it, and its own loss."""
    page = Page(5.25)
    y = 3.3
    image, _ = demo()
    page.thumbnail(0.82, y, 1.3, image, "image")
    page.box(2.3, y, 0.9, 0.7, "layers\nbefore", LEARNS)
    page.box(10.75, y, 0.9, 0.7, "layers\nafter", LEARNS)
    # One channel that likes dark, and its prediction with equal weights: the mean of 2 up or down, 2 left or right.
    gray = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 5)
    features = cv2.resize(np.maximum(np.median(gray) + 5 - gray, 0), (32, 32), interpolation=cv2.INTER_AREA)
    corners = np.zeros((5, 5), np.float32)
    corners[::4, ::4] = 0.25
    predicted = cv2.filter2D(features, -1, corners, borderType=cv2.BORDER_CONSTANT)
    for x, channel, name in ((3.75, features, "input, one channel"), (9.3, predicted, "its output")):
        page.thumbnail(x, y, 1.2, channel, name, cmap="viridis", vmin=0, vmax=features.max())
        page.arrow((x, y - 0.9), (x, 0.95), (6.55 + np.copysign(0.55, x - 6.55), 0.95), style="--")
    page.thumbnail(6.55, 0.95, 1.0, (predicted - features) ** 2, "squared difference: an extra loss in training")
    page.title(4.65, y + 1.75, "SSPCAB (learns): predicts each position from four around it")
    page.frame((4.65, y - 1.15), (8.5, y + 1.5), fc="none")
    dilated(page, 5.65, y, 1.6)
    page.box(7.2, y, 0.8, 0.7, "sum,\nReLU")
    page.box(8.2, y, 0.36, 0.36, "×")
    page.box(7.6, y + 1.05, 1.6, 0.6, "channel weights\n(squeeze-excitation)", LEARNS)
    page.arrow((7.2, y + 0.35), (7.2, y + 0.75))
    page.arrow((8.2, y + 0.75), (8.2, y + 0.18))
    for start, end in ((1.47, 1.85), (2.75, 3.15), (4.35, 4.85), (6.45, 6.8), (7.6, 8.02), (8.38, 8.7), (9.9, 10.3)):
        page.arrow((start, y), (end, y))
    page.save("sspcab")


def dilated(page: Page, x: float, y: float, side: float) -> None:
    """SSPCAB's field: what the four corners have, and nothing else, tells the centre."""
    cells = np.full((5, 5, 3), 225, np.uint8)
    cells[::4, ::4] = (249, 203, 156)
    cells[2, 2] = 255
    page.thumbnail(x, y, side, cells, "its own value is masked")
    low, cell = -side / 2, side / 5
    lines = [low + k * cell for k in range(6)]
    page.axis.hlines([y + line for line in lines], x + low, x - low, color=INK, lw=0.6, zorder=3)
    page.axis.vlines([x + line for line in lines], y + low, y - low, color=INK, lw=0.6, zorder=3)
    page.write(x, y, "?", 12)
    for right in (-2, 2):
        for up in (-2, 2):
            page.write(x + right * cell, y + up * cell, "1×1")


def formulas() -> None:
    """Two classes of each family of formulas, below each other."""
    tiles = [picture_of(name, *np.random.default_rng((1, k)).spawn(2), 80) for k, name in enumerate(2 * [*FAMILIES])]
    framed = [np.pad(tile, ((2, 2), (2, 2), (0, 0)), constant_values=255) for tile in tiles]
    sheet = np.vstack([np.hstack(framed[: len(FAMILIES)]), np.hstack(framed[len(FAMILIES) :])])
    Image.fromarray(sheet).save(Path(__file__).with_name("formulas.jpg"), quality=88)


if __name__ == "__main__":
    for draw in (formulas, stpm, rd, rdpp, ead, dbfad, mixed, rnst, rnrd, sspcab):
        draw()
