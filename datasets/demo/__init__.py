"""A small drawn data set in MVTec layout, to try the toolkit without a download."""

import contextlib
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

from datasets.demo import washer, weave
from datasets.demo.draw import Array, blur, lamp
from datasets.listing import is_folder
from utils.config import Config
from utils.console import note
from utils.errors import UserError
from utils.progress import progress

# A scene module offers lay(n, random), photograph(scene) and
# DEFECTS: type -> function(scene, random, severity 0..1) -> (scene with the defect, alpha [n,n] in 0..1).
CATEGORIES = {"weave": weave, "washer": washer}

DEFAULT_ROOT = "demo_data"
LARGEST = 2048  # pixels; a picture takes about 450 bytes of memory per pixel while it is drawn, so 2 GB


def ensure_demo(config: Config) -> None:
    """Draw the demo category of the config if it does not exist; does nothing for any other data_path.

    If there are several processes, one draws and the others wait. Raises UserError if it cannot be written.
    """
    root, category = Path(DEFAULT_ROOT), config.obj
    if Path(config.data_path) != root or category not in CATEGORIES or is_folder(root / category):
        return
    with _drawing_alone(root):
        if not is_folder(root / category):
            note(f"drawing the demo category '{category}' into {root}/")
            _draw(root, [category], size=256, train=60, good=20, per_defect=10, seed=0)


def render(
    root: str | Path,
    categories: Sequence[str] = tuple(CATEGORIES),
    size: int = 256,
    train: int = 60,
    good: int = 20,
    per_defect: int = 10,
    seed: int = 0,
) -> None:
    """Write <root>/<category>/{train,test,ground_truth}; counts are per category or defect type, size in pixels.

    Raises UserError for invalid numbers or categories, for a category that already exists, and if writing fails.
    """
    root, categories = Path(root), list(dict.fromkeys(categories))
    check(categories, size, {"train": train, "good": good, "per_defect": per_defect, "seed": seed})
    with _drawing_alone(root):
        for category in categories:
            if (root / category).exists():
                raise UserError(f"{root / category} already exists; remove it or choose another root")
        _draw(root, categories, size, train, good, per_defect, seed)


@contextlib.contextmanager
def _drawing_alone(root: Path) -> Iterator[None]:
    """Keep other processes from drawing into `root`, and delete what killed ones have left there.

    Raises UserError naming the file or folder that cannot be written.
    """
    lock = FileLock(root / ".lock")  # never deleted, because another process may hold it
    try:
        root.mkdir(parents=True, exist_ok=True)
        _acquire(lock, root)
        for left_by_a_kill in root.glob(".drawing-*"):
            shutil.rmtree(left_by_a_kill, ignore_errors=True)
        yield
    except OSError as error:
        raise UserError(f"cannot write {error.filename or root}: {error.strerror or error}") from error
    finally:
        lock.release()


def _acquire(lock: FileLock, root: Path) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        note(f"another process is drawing into {root}/: waiting for it")
        lock.acquire()


def _draw(root: Path, categories: Sequence[str], size: int, train: int, good: int, per_defect: int, seed: int) -> None:
    """Draw in a temporary folder and move it at the end, so that a killed run leaves no incomplete data set."""
    folders = [folder for category in categories for folder in plan(category, train, good, per_defect)]
    with tempfile.TemporaryDirectory(dir=root, prefix=".drawing-") as aside:
        with progress(None, "drawing", sum(count for *_, count in folders)) as bar:
            for folder in folders:
                fill(Path(aside), *folder, size, seed, bar)
        for category in categories:
            (Path(aside) / category).rename(root / category)


def check(categories: Sequence[str], size: int, numbers: dict[str, int]) -> None:
    """Raises UserError for what cannot be drawn."""
    for category in categories:
        if category not in CATEGORIES:
            raise UserError(f"there is no demo category '{category}', only {', '.join(CATEGORIES)}")
    if not 32 <= size <= LARGEST:
        raise UserError(f"size must be from 32 to {LARGEST} pixels, it is {size}")
    for name, number in numbers.items():
        if number < 0:
            raise UserError(f"{name} must not be negative, it is {number}")


def plan(category: str, train: int, good: int, per_defect: int) -> list[tuple[str, str, str, int]]:
    """What to draw: (category, split, defect type or good, count) for each folder of pictures."""
    defects = [(category, "test", defect_type, per_defect) for defect_type in CATEGORIES[category].DEFECTS]
    return [(category, "train", "good", train), (category, "test", "good", good), *defects]


def fill(root: Path, category: str, split: str, defect_type: str, count: int, size: int, seed: int, bar: tqdm) -> None:
    """Draw one folder of pictures and, for a defect, the folder of its masks."""
    folder, masks = root / category / split / defect_type, root / category / "ground_truth" / defect_type
    folder.mkdir(parents=True)
    if defect_type != "good":
        masks.mkdir(parents=True)
    for index in range(count):
        image, _, mask = picture(category, split, defect_type, index, size, seed)
        save(folder / f"{index:03d}.png", image[..., ::-1])
        if defect_type != "good":
            save(masks / f"{index:03d}_mask.png", mask * np.uint8(255))
        bar.update()


def save(path: Path, image: Array) -> None:
    """PNG by way of bytes: unlike imwrite, a full disk is then an error."""
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())


def picture(
    category: str, split: str, defect_type: str, index: int, size: int = 256, seed: int = 0
) -> tuple[Array, Array, Array]:
    """(picture, the same without its defect, mask): uint8 RGB [size,size,3] twice, bool [size,size]."""
    scenes = CATEGORIES[category]
    # one random stream each for scene, defect and sensor, so the first two are the same at every size
    key = [seed, zlib.crc32(f"{category}/{split}/{defect_type}".encode()), index]
    scene_random, defect_random, sensor_random = (np.random.default_rng([*key, part]) for part in range(3))
    n = max(384, size * 3 // 2)  # drawn finer than shown: thin yarns and edges must not alias
    scene, light = scenes.lay(n, scene_random), lamp(size, scene_random)
    clean = lens(scenes.photograph(scene), size) * light
    grain = sensor_random.standard_normal((size, size, 4), np.float32)
    if defect_type == "good":
        image = expose(clean, grain)
        return image, image, np.zeros((size, size), bool)
    severity = 0.1 + 0.9 * ((0.35 + 0.618034 * index) % 1)  # any ten in sequence range from hard to obvious
    flawed, alpha = scenes.DEFECTS[defect_type](scene, defect_random, severity)
    alpha = lens(alpha, size)
    mask = alpha > 0.15 * alpha.max()  # relative, so that a defect smaller than a pixel has a mask
    changed = clean.copy()
    changed[mask] = (lens(scenes.photograph(flawed), size) * light)[mask]
    return expose(changed, grain), expose(clean, grain), mask


def lens(image: Array, size: int) -> Array:
    """The drawing [n,n] or [3,n,n] as it reaches the sensor: slightly blurred, [size,size] or [size,size,3]."""
    if image.ndim == 3:
        return np.dstack([lens(plane, size) for plane in image])
    return cv2.resize(blur(image, 0.0019), (size, size), interpolation=cv2.INTER_AREA)


def expose(light: Array, grain: Array) -> Array:
    """uint8 picture from light [s,s,3], 0 to 1, and unit noise [s,s,4]: of the brightness, of each colour."""
    spread = 0.003 + 0.009 * np.sqrt(np.clip(light, 0, 1))
    noisy = light + spread * (0.9 * grain[..., :1] + 0.45 * grain[..., 1:])
    return np.clip(np.round(noisy * 255), 0, 255).astype(np.uint8)
