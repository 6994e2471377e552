"""The picture of a test image and the curves of a training: what is on them, and that it can be read."""

import subprocess
import sys
from pathlib import Path
from time import process_time

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image, ImageFilter

from datasets.dataset import Sample
from datasets.fit import Fit
from datasets.images import read_image
from evaluation import pictures
from evaluation.colours import colour_scale
from evaluation.fonts import STANDARD
from evaluation.outline import OUTLINE, widened
from evaluation.pictures import Overlays, original_size, overlay, page, panel_size, shown, shown_aspect, standing
from evaluation.score import CALIBRATION, HELD_OUT, TRAINING, Scored
from tests.conftest import REPO

NORMAL = {"source": HELD_OUT, "scores": [0.1, 0.4, 0.9]}
SCALE = colour_scale(NORMAL, np.zeros((2, 2)))
SQUARE = np.zeros((64, 64), bool)
SQUARE[10:30, 40:60] = True


def panels(mask=SQUARE, anomaly_map=None, aspect=1.0, image=None):
    """Panels as arrays, by title, of a gray image of the mask's size; its map is highest at row 50, column 9."""
    image = np.full((*mask.shape, 3), 100, np.uint8) if image is None else image
    if anomaly_map is None:
        anomaly_map = np.zeros(mask.shape, np.float32)
        anomaly_map[50, 9] = 5
    found = overlay(image, anomaly_map, mask, SCALE, aspect)
    return {title: np.asarray(panel).astype(int) for title, panel in found.items()}


def scored(index=0, mask=SQUARE, dtype=np.uint8, top=1.0):
    """A result with a uniform gray image, in any of the types that data sets give."""
    full = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
    anomaly_map = np.zeros(mask.shape, np.float32)
    anomaly_map[20, 20] = top
    return Scored(index, np.full((3, *mask.shape), full * 0.4).astype(dtype), mask, anomaly_map)


def draw(folder, samples, results, **how):
    with Overlays(folder, samples, how.pop("normal", NORMAL), **how) as overlays:
        return list(overlays.drawn(iter(results)))


# ---- panels --------------------------------------------------------------------------------------------------


def test_a_defect_has_three_panels_with_titles():
    assert list(panels()) == ["image", "marked defect", "anomaly map (ring: highest value)"]


def test_an_image_without_a_mark_is_not_shown_twice():
    assert list(panels(SQUARE & False)) == ["image", "anomaly map (ring: highest value)"]


def test_the_mask_is_an_outline_on_its_own_panel_and_on_the_map():
    plain, marked, heat = panels().values()
    green = np.array(OUTLINE)
    assert (plain == 100).all()
    for panel in (marked, heat):
        assert (panel[4 * 10, 4 * 50] == green).all() and (panel[4 * 20, 4 * 59 + 3] == green).all()
        assert not (panel[4 * 20, 4 * 50] == green).all()
    assert (marked[4 * 20, 4 * 50] == 100).all()


@pytest.mark.parametrize("reach", [0, 1, 2, 3, 4, 5, 13, 14, 40])
@pytest.mark.parametrize("shape", [(40, 30), (1, 50), (7, 90)])
def test_a_widened_mask_is_that_of_pillows_filter(reach, shape):
    """Pillow 12.3 ends the process in a filter of one pixel (SIGFPE)."""
    for seed in range(5):
        mask = np.random.default_rng(seed).random(shape) < 0.01
        expected, before = Image.fromarray(mask.astype(np.uint8)), mask.copy()
        if reach:
            expected = expected.filter(ImageFilter.MaxFilter(2 * reach + 1))
        assert (widened(mask, reach) == np.asarray(expected)).all() and (mask == before).all()


def test_a_wide_outline_takes_no_longer_than_there_are_pixels():
    """0.05 s; a filter that looks at a window of 801 x 801 for each of them takes minutes."""
    begin = process_time()
    assert widened(np.eye(1000, dtype=bool), 400).sum() == 1000**2 - 199 * 200
    assert process_time() - begin < 2


def test_a_single_marked_pixel_is_outlined_where_the_panel_is_smaller_than_the_map():
    mask = np.zeros((1024, 512), bool)
    mask[700, 300] = True
    marked = panels(mask, aspect=2.0)["marked defect"]  # 1024 x 512, turned to 512 x 1024
    assert marked.shape == (512, 1024, 3)
    rows, columns = np.nonzero((marked == OUTLINE).all(axis=2))
    assert abs(rows.mean() - 350) < 3 and abs(columns.mean() - 600) < 3


@pytest.mark.parametrize("aspect", [1.0, 0.5, 2.0])
def test_the_highest_value_of_the_map_has_a_ring(aspect):
    heat = panels(SQUARE & False, aspect=aspect)["anomaly map (ring: highest value)"]
    rows, columns = np.nonzero((heat == 255).all(axis=2))  # the scale has no white
    height, width = heat.shape[:2]
    assert (rows.min() + rows.max()) / 2 == pytest.approx(50.5 / 64 * height, abs=1.5)
    assert (columns.min() + columns.max()) / 2 == pytest.approx(9.5 / 64 * width, abs=1.5)
    centre = heat[round(50.5 / 64 * height), round(9.5 / 64 * width)]
    assert not (centre == 255).all() and not (centre == 0).all()  # what is in the ring can be seen


def test_a_map_without_a_highest_value_has_no_ring():
    found = panels(SQUARE & False, np.ones((64, 64), np.float32))
    heat = found["anomaly map: the same everywhere"]
    assert (heat == heat[0, 0]).all() and len(found) == 2


def test_the_map_has_the_colours_of_the_scale():
    anomaly_map = np.zeros((64, 64), np.float32)
    anomaly_map[:, 32:] = 0.4
    heat = panels(SQUARE & False, anomaly_map)["anomaly map (ring: highest value)"]
    dark, bright = SCALE.colour(np.array([[0.0, 0.4]]))[0].astype(int)
    assert (heat[200, 10] == dark).all() and (heat[200, 240] == bright).all()


def test_images_of_every_type_look_the_same():
    forms = [shown(scored(dtype=dtype).image) for dtype in (np.uint8, np.uint16, np.float32)]
    for image in forms:
        assert image.shape == (64, 64, 3) and image.dtype == np.uint8 and image.flags.c_contiguous
        assert (abs(image.astype(int) - 102) <= 1).all()


# ---- the shape of the original picture -----------------------------------------------------------------------


@pytest.mark.parametrize("aspect", [1.0, 0.4, 3.0, 8.0])
@pytest.mark.parametrize("shape", [(64, 64), (256, 256), (320, 200)])
def test_panels_have_the_shape_of_the_original_and_the_area_of_the_map(shape, aspect):
    width, height = panel_size(shape, aspect)
    assert width / height == pytest.approx(aspect, rel=0.01)
    assert width * height == pytest.approx(max(shape[0] * shape[1], 256**2), rel=0.01)
    for panel in panels(np.zeros(shape, bool), np.eye(*shape), aspect).values():
        assert panel.shape == (height, width, 3)


def test_an_image_that_was_not_squeezed_keeps_its_pixels():
    assert panel_size((256, 256), 1.0) == (256, 256) and panel_size((512, 256), 0.5) == (256, 512)
    assert panel_size((64, 64), 1.0) == (256, 256)


def picture(path, width, height, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), "gray").save(path, **how)
    return path


@pytest.mark.parametrize(
    ("img_size", "crop_size", "aspect"),
    [
        ((256, 256), (256, 256), 0.5),  # 100 x 200 pixels
        ((256, 256), (256, 128), 0.25),  # the middle: 50 x 200
        ((512, 256), (128, 128), 1.0),  # 50 x 50
        ((200, 100), (200, 100), 0.5),
    ],
)
def test_the_shape_is_that_of_the_part_that_resize_and_crop_left(img_size, crop_size, aspect, tmp_path):
    path = picture(tmp_path / "a.png", 100, 200)
    assert shown_aspect(path, Fit(img_size, crop_size)) == pytest.approx(aspect)


def test_a_line_of_pixels_keeps_a_shape_in_which_something_can_be_seen(tmp_path):
    assert shown_aspect(picture(tmp_path / "a.png", 10, 500), Fit((256, 256), (256, 256))) == 1 / 8
    assert shown_aspect(picture(tmp_path / "b.png", 500, 10), Fit((256, 256), (256, 256))) == 8


def test_a_picture_that_cannot_be_read_any_more_keeps_the_shape_of_the_map(tmp_path):
    (tmp_path / "damaged.png").write_bytes(b"no picture")
    for path in (tmp_path / "gone.png", tmp_path / "damaged.png"):
        assert shown_aspect(path, Fit((200, 100), (200, 100))) == pytest.approx(0.5)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "bmp"])
@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
def test_the_original_size_is_that_of_the_image_as_it_is_read(suffix, orientation, tmp_path):
    """Rotated by EXIF or not, like the reader."""
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    how = {} if suffix == "bmp" else {"exif": exif}
    path = picture(tmp_path / f"a.{suffix}", 40, 20, **how)
    assert original_size(path) == read_image(path).shape[:2]


def test_a_test_picture_has_the_shape_of_the_original(tmp_path):
    sample = Sample(picture(tmp_path / "in/good/a.png", 400, 100), None, "good")
    draw(tmp_path, [sample], [scored(mask=SQUARE & False)], fit=Fit((64, 64), (64, 64)))
    drawn = Image.open(tmp_path / "good/a.png")
    assert drawn.width > 512 and drawn.height > 2 * 128  # two panels of 512 x 128, one below the other


# ---- the page around them ------------------------------------------------------------------------------------


def paper(name="hole / 003", size=(256, 256), count=2):
    found = {f"panel {i}": Image.new("RGB", size, "gray") for i in range(count)}
    return page(name, STANDARD, "score 1, above 2 of 3 held-out good images", found, SCALE)


def test_panels_stand_side_by_side_or_below_each_other_when_they_are_wide():
    square, wide, tall = paper(), paper(size=(700, 100)), paper(size=(100, 600))
    assert square.width > 2 * 256 and square.height < 2 * 256
    assert wide.width < 2 * 700 and wide.height > 2 * 100
    assert tall.height < 2 * 600


def test_a_long_name_does_not_widen_the_page():
    assert paper("long_" * 60).size == paper().size


def test_everything_on_the_page_grows_with_the_panels():
    """Text of the size for 256 pixels is too small next to 1024."""
    small, large = paper(), paper(size=(1024, 1024))
    assert large.height - 1024 == pytest.approx(4 * (small.height - 256), rel=0.05)


def test_nothing_of_the_scale_is_cut_off():
    """Ticks and sentences end before the white margin on every side."""
    for count in (1, 3):
        pixels = np.asarray(paper(count=count).convert("L"))
        for edge in (pixels[:5], pixels[-5:], pixels[:, :5], pixels[:, -5:]):
            assert (edge == 255).all()


def test_standing_among_held_out_good_images():
    assert standing(0.5, NORMAL) == ", above 2 of 3 held-out good images"
    for other in (None, NORMAL | {"source": TRAINING}, NORMAL | {"source": "good images, other settings"}):
        assert standing(0.5, other) == ""
    assert (
        standing(0.5, {"source": CALIBRATION, "scores": [0.1], "unit": "parts"}) == ", above 1 of 1 calibration parts"
    )


# ---- the folder of pictures ----------------------------------------------------------------------------------


NAMES = ["缺陷/零件 3", "дефект/деталь", "خلل/جزء ٣", "raw \udcff/b", "$x^2$/$\\frac{$", "a" * 200 + "/" + "b" * 200]


@pytest.mark.parametrize("name", NAMES, ids=["chinese", "russian", "arabic", "bytes", "formula", "long"])
@pytest.mark.parametrize("normal", [NORMAL, None], ids=["scale of the run", "own scale"])
def test_pictures_of_any_name_are_drawn(name, normal, tmp_path):
    defect_type, stem = name.split("/")
    sample = Sample(tmp_path / f"{stem}.png", None, defect_type)
    draw(tmp_path, [sample], [scored()], normal=normal)
    drawn = Image.open(tmp_path / f"{name}.png")
    assert drawn.width < 3 * 256 + 100 and drawn.mode == "RGB"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_pictures_of_every_type_of_image_are_drawn(dtype, tmp_path):
    draw(tmp_path, [Sample(Path("a.png"), None, "hole")], [scored(dtype=dtype)])
    pixels = np.asarray(Image.open(tmp_path / "hole/a.png"))
    assert (abs(pixels[200, 100].astype(int) - 102) <= 1).all()


def test_results_pass_unchanged_and_few_wait_to_be_drawn(tmp_path):
    samples = [Sample(Path(f"{index}.png"), None, "hole") for index in range(10)]
    results = [scored(index) for index in range(10)]
    waiting = []
    with Overlays(tmp_path, samples, NORMAL) as overlays:
        for result, expected in zip(overlays.drawn(iter(results), at_once=4), results, strict=True):
            assert result is expected
            waiting.append(len(overlays.waiting))
    assert waiting == [1, 2, 3, 0, 1, 2, 3, 0, 1, 2]
    assert {path.stem for path in tmp_path.rglob("*.png")} == {sample.path.stem for sample in samples}


def test_a_failure_while_drawing_ends_the_test(tmp_path):
    (tmp_path / "hole").write_text("a file in the place of the folder")
    with pytest.raises(OSError):
        draw(tmp_path, [Sample(Path("a.png"), None, "hole")], [scored()])


# ---- curves --------------------------------------------------------------------------------------------------


@pytest.fixture
def curves(monkeypatch, tmp_path):
    """curves(losses, scores) -> what is written at the ticks: (epochs, losses, scores or None)."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **how: (figures.append(self), save(self, *args, **how)))

    def labels(axis):
        low, high = sorted(axis.get_view_interval())
        ticks = [(tick.get_loc(), tick.label1.get_text()) for tick in axis.get_major_ticks()]
        return [text for place, text in ticks if text and low <= place <= high]

    def make(losses, scores=None):
        history = [{"epoch": i + 1, "train_loss": loss} for i, loss in enumerate(losses)]
        for row, score in zip(history, scores or [], strict=False):
            row["val_score"] = score
        pictures.draw_curves(tmp_path / "training.png", history, {"": len(losses)})
        axes = figures[-1].axes
        return labels(axes[-1].xaxis), labels(axes[0].yaxis), labels(axes[-1].yaxis) if scores else None

    return make


@pytest.mark.parametrize(
    "losses",
    [
        [2.9, 2.1, 1.4, 0.47],  # earlier only one tick: 10^0
        [0.3, 0.1, 0.02],  # a decade and a half with a single power of ten
        [0.0019, 0.0018, 0.0017],
        [0.5, 0.5],
        [100, 1, 0.01, 0.0001],
        [1e9, 1e-9],
        [0.3, 0.1, -0.2],
        [0.0, 0.0],
        [0.4],
    ],
)
def test_the_axis_of_a_loss_has_at_least_two_numbers(losses, curves):
    _, at_losses, at_scores = curves(losses, losses)
    assert 2 <= len(set(at_losses)) == len(at_losses) <= 12
    assert at_losses == at_scores


@pytest.mark.parametrize(
    ("epochs", "ticks"),
    [
        (1, ["1"]),
        (2, ["1", "2"]),
        (10, ["1", "2", "4", "6", "8", "10"]),
        (30, ["1", "5", "10", "15", "20", "25", "30"]),
        (100, ["1", "20", "40", "60", "80", "100"]),
        (237, ["1", "50", "100", "150", "200"]),
    ],
)
def test_epochs_begin_at_1(epochs, ticks, curves):
    assert curves(np.linspace(2, 1, epochs).tolist())[0] == ticks


def test_curves_of_several_parts_are_told_apart(tmp_path):
    history = [{"epoch": e, "train_loss": 1 / e, "val_score_a": 2 / e, "val_score_b": 30 / e} for e in (1, 2, 3)]
    pictures.draw_curves(tmp_path / "training.png", history, {"a": 2, "b": 3})
    assert Image.open(tmp_path / "training.png").size == (840, 600)


# ---- matplotlib ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_pictures_change_no_setting_of_matplotlib_and_load_no_pyplot(tmp_path):
    """A notebook still shows its plots."""
    script = f"""
import copy, sys
import matplotlib
before = dict(dict.items(matplotlib.rcParams))
import numpy as np
from pathlib import Path
from evaluation import feature_pages, fonts, pictures
from evaluation.score import Scored
from datasets.dataset import Sample
from datasets.fit import Fit
with pictures.Overlays(Path({str(tmp_path)!r}), [Sample(Path("缺.png"), None, "hole")], None) as overlays:
    list(overlays.drawn([Scored(0, np.zeros((3, 8, 8), np.uint8), np.ones((8, 8), bool), np.eye(8))]))
pictures.draw_curves(Path({str(tmp_path)!r}, "a.png"), [{{"epoch": 1, "train_loss": 1.0}}], {{"": 1}})
assert dict(dict.items(matplotlib.rcParams)) == before
assert "matplotlib.pyplot" not in sys.modules
"""
    process = subprocess.run([sys.executable, "-c", script], cwd=REPO, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr


def test_very_large_pictures_are_drawn_smaller_and_few_at_once(tmp_path):
    assert panel_size((6000, 6000), 1.0) == (2048, 2048) and panel_size((1024, 1024), 1.0) == (1024, 1024)
    results = [
        Scored(k, np.zeros((3, 2048, 2048), np.uint8), np.zeros((2048, 2048), bool), np.ones((2048, 2048), np.float32))
        for k in range(5)
    ]
    with Overlays(tmp_path, [Sample(Path(f"{k}.png"), None, "good") for k in range(5)], NORMAL) as overlays:
        overlays._draw = lambda result: None
        waiting = [len(overlays.waiting) for _ in overlays.drawn(results)]
    assert waiting == [1, 2, 3, 0, 1]  # 4 x 2048 x 2048 pixels are as many as 16 x 1024 x 1024
