"""What a judge takes as a picture, its batches, and connected parts of a mask."""

import io

import numpy as np
import pytest
from PIL import Image

from datasets.fit import Fit, aspect_ratios
from datasets.regions import Roi
from deploy import judge as module
from deploy.judge import Judge, Prediction
from evaluation.calibration import Calibration
from evaluation.cross import CrossCalibration
from tests.conftest import write_image
from tests.deploy.brightness import Brightness, plain
from utils.errors import UserError


@pytest.mark.parametrize(
    ("image", "got"),
    [
        (np.zeros((0, 0, 3), np.uint8), "uint8 [0, 0, 3]"),
        (np.zeros((16, 0, 3), np.uint8), "uint8 [16, 0, 3]"),
        (np.zeros((16, 16), np.uint8), "uint8 [16, 16]"),
        (np.zeros((16, 16, 4), np.uint8), "uint8 [16, 16, 4]"),
        (np.zeros((3, 16, 16), np.uint8), "uint8 [3, 16, 16]"),
        (np.zeros((16, 16, 3)), "float64 [16, 16, 3]"),
        (np.zeros((16, 16, 3), ">u2"), ">u2 [16, 16, 3]"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_picture_is_refused(image, got):
    with pytest.raises(UserError) as error:
        Brightness()(image)
    assert str(error.value).endswith(f"an array [H,W,3], RGB, uint8 or uint16 (got {got})")


def test_the_fingerprint_is_that_of_what_decides():
    """The folder of a run stays the same when it is trained or calibrated again."""
    judges = [Brightness(batch_size) for batch_size in (1, 4)]
    assert len({judge.fingerprint for judge in judges}) == 1
    for calibration in (
        Calibration([0.5] * 9, 0.2),
        Calibration([0.5] * 9, 0.1, 0.2),
        CrossCalibration([np.full(2000, 0.5)] * 2, 0.1),
        CrossCalibration([np.r_[np.full(1999, 0.5), 0.6]] * 2, 0.1),
        None,
    ):
        judges.append(Brightness())
        judges[-1].calibration = calibration
    judges.append(Brightness())
    judges[-1].normal = judges[-1].normal | {"scores": [0.5] * 8 + [0.6]}  # trained again, decides nothing
    judges.append(Brightness())
    judges[-1].roi = Roi(np.ones((16, 16), bool), "roi.png")
    assert len({judge.fingerprint for judge in judges[1:]}) == len(judges) - 1


MODES = {
    "png": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    "tif": ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"],
    "jpg": ["L", "RGB", "CMYK"],
}


@pytest.mark.parametrize(("suffix", "mode"), [(suffix, mode) for suffix, modes in MODES.items() for mode in modes])
def test_a_pil_image_is_judged_as_its_file_is(tmp_path, suffix, mode):
    values = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    image = Image.fromarray(values[..., 0].astype(np.uint16) * 200 if mode == "I;16" else values)
    path, exif = tmp_path / f"a.{suffix}", Image.Exif()
    exif[0x0112] = 6  # to be rotated
    image.convert(mode).save(path, exif=exif)
    judge = Brightness()
    # Not from the file: Pillow maps gray TIFF files into memory and then rotates them wrongly.
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        found, expected = judge(image), judge(path)
    assert found.picture.dtype == expected.picture.dtype and (found.picture == expected.picture).all()
    assert found.picture.shape == (12, 8, 3) and found.score == expected.score


@pytest.mark.parametrize("image", [Image.new("F", (4, 4)), Image.new("RGB", (0, 4)), Image.new("I", (4, 4), -1)])
def test_a_pil_image_without_pixels_or_of_another_depth_is_refused(image):
    with pytest.raises(UserError, match="must have pixels of 8- or 16-bit integers"):
        Brightness()(image)


def test_a_pil_image_of_a_file_that_was_cut_off_is_refused(tmp_path):
    write_image(tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:500])
    with Image.open(tmp_path / "a.png") as image, pytest.raises(UserError, match="the PIL image cannot be read"):
        Brightness()(image)


def test_a_batch_has_a_limit_of_pixels_and_nothing_else_changes(tmp_path, monkeypatch):
    sides = [16, 16, 40, 16, 16, 16, 30, 16]
    paths = [tmp_path / f"{k}.png" for k in range(len(sides))]
    for k, (path, side) in enumerate(zip(paths, sides, strict=True)):
        write_image(path, plain(30 * k, side))
    paths[3].write_bytes(b"no picture")
    usual, limited = Brightness(4), Brightness(4)
    expected = list(usual.stream(paths))
    monkeypatch.setattr(module, "MOST_PIXELS", 2 * 16**2)
    found = list(limited.stream(paths))
    assert usual.batches == [3, 4] and limited.batches == [2, 1, 2, 1, 1]
    assert [path for path, _ in found] == paths and isinstance(found[3][1], UserError)
    assert [one.score for _, one in found if not isinstance(one, UserError)] == [
        one.score for _, one in expected if not isinstance(one, UserError)
    ]


def test_pictures_of_another_shape_than_the_good_ones_are_said(tmp_path):
    judge, sizes = Brightness(), [(40, 50), (20, 30), (9, 90), (90, 9)]  # height and width
    for k, size in enumerate(sizes):
        write_image(tmp_path / f"{k}.png", np.zeros((*size, 3), np.uint8))
    paths = sorted(tmp_path.iterdir())
    list(judge.stream(paths))
    assert judge.remarks == {}  # older students do not know the shapes
    judge.normal["aspect_ratios"] = aspect_ratios([(20, 20), (20, 25)])
    assert all(isinstance(found, Prediction) for _, found in judge.stream(paths))
    ((sentence, (first, count)),) = judge.remarks.items()
    assert "its aspect ratio differs from that of the good pictures (width / height: 1 to 1.25)" in sentence
    assert (first, count) == (paths[2], 2)


def test_a_picture_for_which_there_is_too_little_memory_is_one_that_cannot_be_read(monkeypatch, tmp_path):
    def read(path, remark):
        if path.stem == "large":
            raise MemoryError
        return plain(0)

    monkeypatch.setattr(module, "read_image", read)
    paths = [tmp_path / "large.png", tmp_path / "small.png"]
    for path in paths:
        write_image(path, plain(0))
    (_, large), (_, small) = Brightness().stream(paths)
    assert "large.png: there is too little memory" in str(large) and small.score >= 0


def test_a_picture_that_is_too_large_to_be_judged_does_not_end_the_rest(tmp_path):
    class Small(Brightness):
        def fitted(self, picture):
            if len(picture) > 20:
                raise MemoryError
            return super().fitted(picture)

    paths = [tmp_path / f"{k}.png" for k in range(6)]
    for k, path in enumerate(paths):
        write_image(path, plain(40 * k, 30 if k == 1 else 16))
    found = [result for _, result in Small().stream(paths)]
    assert str(found[1]) == f"{paths[1]}: there is too little memory for this picture"
    del found[1]
    assert [one.score for one in found] == pytest.approx([40 * k / 255 for k in (0, 2, 3, 4, 5)])


def test_too_little_memory_of_a_gpu_reduces_the_batch_and_is_an_error_if_that_does_not_help(tmp_path):
    class Gpu(Brightness):
        room = 1

        def maps_of(self, images):
            if len(images) > self.room:
                raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
            return super().maps_of(images)

    paths = [tmp_path / f"{k}.png" for k in range(3)]
    for k, path in enumerate(paths):
        write_image(path, plain(40 * k))
    judge = Gpu()
    assert [round(255 * found.score) for _, found in judge.stream(map(str, paths))] == [0, 40, 80]
    judge.room = 0  # no picture is too large: none would be judged
    with pytest.raises(RuntimeError, match="CUDA out of memory"):
        list(judge.stream(paths))


def test_another_error_of_the_networks_ends_it(tmp_path):
    class Broken(Brightness):
        def maps_of(self, images):
            raise RuntimeError("odd")

    write_image(tmp_path / "a.png", plain(0))
    with pytest.raises(RuntimeError, match="odd"):
        list(Broken().stream([tmp_path / "a.png"]))


@pytest.mark.parametrize("size", [(64, 64), (100, 37), (255, 300), (1, 1), (256, 256), (700, 40)])
def test_a_small_picture_loses_nothing_that_decided(size):
    """Two pixels of the map above the limit may be less than a pixel of the picture."""

    class Spot(Judge):
        def maps_of(self, images):
            maps = np.zeros((len(images), 256, 256), np.float32)
            maps[:, 101:103, 151:152] = 5
            return maps

    found = Spot(Fit((256, 256), (256, 256)), None, Calibration([0.1] * 19, 0.05), 4)(np.zeros((*size, 3), np.uint8))
    assert found.decision == "reject" and found.score == 5 and found.mask.any()
    assert found.anomaly_map.shape == found.mask.shape == size
    if size[0] <= 256 and size[1] <= 256:
        assert found.anomaly_map.max() == 5 and (found.mask == (found.anomaly_map == 5)).all()
    left, top, right, bottom = found.regions[0].box
    inside = np.zeros(size, bool)
    inside[top:bottom, left:right] = True
    assert not (found.mask & ~inside).any()


@pytest.mark.parametrize("size", [(32, 32), (37, 100), (9, 40), (16, 16), (8, 8)])
def test_a_map_has_its_score_at_the_rim_of_the_region_of_interest_too(size):
    """What is outside mixes with nothing, be it higher or lower."""

    class Rim(Judge):
        def maps_of(self, images):
            maps = np.ones((len(images), 16, 16), np.float32)
            maps[:, :, 7], maps[:, :, 8:] = 5, 9
            return maps

    mask = np.zeros(size, bool)
    mask[:, : size[1] // 2] = True
    judge = Rim(Fit((16, 16), (16, 16)), None, Calibration([4.9] * 19, 0.05), 4, roi=Roi(mask, "roi.png"))
    found = judge(np.zeros((*size, 3), np.uint8))
    assert found.score == 5 and found.decision == "reject" and found.mask.any()
    assert found.anomaly_map.max() == pytest.approx(5, rel=1e-6)
    assert found.anomaly_map[np.isfinite(found.anomaly_map)].min() == 1


def test_a_region_at_the_edge_ends_at_the_edge():
    """225 / 224, rounded and multiplied by 224, is a little more than 225."""
    part, picture = (np.array([223]), np.array([0])), (slice(0, 225), slice(10, 235))
    assert module._region(part, np.ones((224, 224)), picture).box == (10, 223, 12, 225)
