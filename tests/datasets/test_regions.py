"""Regions of interest: which file is an image's mask, and what an image is like outside."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import readers
from datasets.dataset import ImageDataset
from datasets.fit import Fit
from datasets.regions import GRAY, Roi, RoiFiles, common_roi, grayed, lowest_outside, read_roi
from tests.conftest import write_image, write_mvtec
from utils.config import CommonData, RunConfig
from utils.errors import UserError

LEFT = np.zeros((64, 64), bool)
LEFT[:, :32] = True


def config_of(root, roi, **values):
    data = CommonData(batch_size=4, lr=0.1, img_size=64, roi=roi, **values)
    return RunConfig[CommonData](
        data_path=str(root), obj="part", distillType="st", backbone="resnet18", TrainingData=data
    )


@pytest.fixture
def root(tmp_path):
    """Ten good images to train on, one good and one defective one to test, and a mask: the left half."""
    write_mvtec(tmp_path, good=1, bad=1)
    write_image(tmp_path / "part/roi.png", LEFT.astype(np.uint8) * 255)
    return tmp_path


def test_one_mask_is_that_of_all_images(root):
    for roi in ("roi.png", str(root / "part/roi.png")):
        config = config_of(root, roi)
        samples = readers.train_samples(config) + readers.test_samples(config)
        assert {sample.roi for sample in samples} == {root / "part/roi.png"} == {common_roi(config)}
    config = config_of(root, None)
    assert {sample.roi for sample in readers.train_samples(config)} == {None} and common_roi(config) is None


def test_a_folder_has_a_mask_for_each_image_at_the_same_place(root):
    config = config_of(root, "masks")
    with pytest.raises(UserError, match=r"TrainingData.roi: there is no file or folder .*part/masks"):
        readers.train_samples(config)
    paths = [path.relative_to(root / "part") for path in (root / "part").glob("t*/*/*.png")]
    for path in paths:
        write_image(root / "part/masks" / path.with_suffix(".bmp"), LEFT.astype(np.uint8) * 255)
    for sample in readers.train_samples(config) + readers.test_samples(config):
        there = sample.path.relative_to(root / "part").with_suffix(".bmp")
        assert sample.roi == root / "part/masks" / there
    (root / "part/masks/test/square/000.bmp").unlink()
    with pytest.raises(UserError, match=r"TrainingData.roi: .*test/square/000.png has no mask .*masks/test/square/000"):
        readers.test_samples(config)
    with pytest.raises(UserError, match=r"give one mask for all: TrainingData.roi=FILE"):
        common_roi(config)


def test_an_image_by_its_absolute_path_has_its_mask_and_one_from_elsewhere_has_none(root, monkeypatch):
    write_image(root / "part/masks/ok/000.png", LEFT.astype(np.uint8) * 255)
    monkeypatch.chdir(root)
    files = RoiFiles(Path("part"), "masks")
    assert files.of(root / "part/ok/000.png") == files.of(Path("part/ok/000.png")) == Path("part/masks/ok/000.png")
    with pytest.raises(UserError, match=r"TrainingData.roi: part/masks has masks for the images in part only, and /x"):
        files.of(Path("/x/ok/000.png"))


def test_outside_images_are_gray_and_masks_empty(root):
    mask = np.zeros((64, 64), np.uint8)
    mask[10:20, 20:50] = 255  # on both sides of the edge
    write_image(root / "part/ground_truth/square/000_mask.png", mask)
    samples = readers.test_samples(config_of(root, "roi.png"))
    options = config_of(root, "roi.png").TrainingData
    cut, whole = (ImageDataset(each, options) for each in (samples, [sample._replace(roi=None) for sample in samples]))
    for k in range(2):
        image, region = cut[k]["image"].numpy(), cut[k]["region"]
        assert (region == LEFT).all() and whole[k]["region"] is None
        assert (image[:, LEFT] == whole[k]["image"].numpy()[:, LEFT]).all()
        assert (image[:, ~LEFT] == round(255 * GRAY)).all()
    assert cut[1]["mask"].sum() == 10 * 12 and whole[1]["mask"].sum() == 10 * 30
    cut.read_all(2**20)
    whole.read_all(2**20)
    assert cut.nbytes == whole.nbytes + 2 * LEFT.nbytes and (cut[1]["region"] == LEFT).all()
    assert cut.fingerprint() != whole.fingerprint()  # another region is another training


def test_gray_is_the_same_in_8_and_16_bits():
    eight = np.zeros((3, 64, 64), np.uint8)
    assert (grayed(eight, LEFT).astype(int) * 257 == grayed(eight.astype(np.uint16), LEFT)).all()


@pytest.mark.parametrize(
    "fit",
    [Fit((64, 64), (64, 64)), Fit((64, 64), (64, 64), True), Fit((64, 96), (48, 32)), Fit((64, 64), (32, 48), True)],
)
@pytest.mark.parametrize("shape", [(64, 64), (100, 200), (128, 96)])
def test_a_region_goes_the_way_of_its_picture(fit, shape):
    """Drawn into a picture, it is found where the resized picture is white, whatever its own size."""
    for size in (shape, (2 * shape[0], 2 * shape[1])):
        mask = np.zeros(size, bool)
        mask[int(0.3 * size[0]) : int(0.8 * size[0]), int(0.2 * size[1]) : int(0.7 * size[1])] = True
        roi = Roi(mask, "roi.png")
        picture = (roi.whole(shape)[..., None] * 255).repeat(3, axis=2).astype(np.uint8)
        found, expected = roi.fitted(fit, shape), fit.image(picture)[0] > 127
        edges = sum(np.count_nonzero(np.diff(expected, axis=axis)) for axis in (0, 1))
        assert np.count_nonzero(found != expected) <= edges


def test_a_region_that_does_not_fit_its_picture_is_named(root):
    write_image(root / "part/roi.png", np.full((64, 80), 255, np.uint8))
    dataset = ImageDataset(readers.test_samples(config_of(root, "roi.png")), config_of(root, "roi.png").TrainingData)
    with pytest.raises(UserError, match=r"roi.png: this region .* 80 x 64 px, but .*test/good/000.png has 64 x 64 px"):
        dataset.read_all(0)


def test_a_region_of_which_nothing_is_left_is_named(tmp_path):
    mask = np.zeros((64, 64), np.uint8)
    mask[:4] = 255
    write_image(tmp_path / "edge.png", mask)
    roi = read_roi(tmp_path / "edge.png")
    assert roi.fitted(Fit((64, 64), (64, 64)), (64, 64)).any()
    with pytest.raises(UserError, match=r"edge.png: this region of interest is empty at the given img_size and crop"):
        roi.fitted(Fit((64, 64), (32, 32)), (64, 64))


def test_a_region_can_be_written_as_text(monkeypatch):
    mask = np.random.default_rng(0).random((37, 65)) < 0.5
    text = Roi(mask, "roi.png").text()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # a line camera's picture has more than Pillow allows
    again = Roi.of_text(text, "exported")
    assert again.mask.dtype == bool and (again.mask == mask).all() and again.source == "exported"
    assert text.isascii() and len(Roi(np.ones((4000, 4000), bool), "").text()) < 20_000  # characters


def test_a_map_is_lowest_outside():
    found = lowest_outside(np.arange(-6, 6).reshape(3, 4), np.array([[0, 1, 1, 0]] * 3, bool))
    assert found.tolist() == [[-5, -5, -4, -5], [-5, -1, 0, -5], [-5, 3, 4, -5]]


def test_a_category_without_a_region_needs_no_files(tmp_path):
    assert RoiFiles(tmp_path, None).of(tmp_path / "train/good/000.png") is None
