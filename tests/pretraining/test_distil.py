"""A PDN that imitates a backbone, and the teacher made from it."""

import json

import numpy as np
import pytest
import torch

from models.teachers.pdn import build_pdn, find_pdn
from tests.conftest import (
    draw_good,
    write_image,
)
from tests.pretraining.jobs import job, rows_of
from trainer import build_trainer
from utils.errors import UserError


def test_a_distilled_pdn_is_a_teacher(tmp_path, config):
    start = job("distil", tmp_path)
    path = start.run()
    assert path.name == "pdn_small.safetensors"
    trained = build_trainer(config("ead", weights=str(path)))
    (made,) = trained.metadata["teachers"]
    assert (made["backbone"], made["weights"]) == ("small", str(path))
    assert torch.equal(trained.teacher.net.pdn.conv4.weight, start.net.pdn.conv4.weight.half().float())
    manifest = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert len(manifest["target"]) == 64 and len(manifest["target_mean"]) == len(manifest["target_std"]) == 384


@pytest.mark.slow
def test_distilling_approaches_the_target(tmp_path):
    """A PDN with output 0 has a loss of 1, because the target has mean 0 and deviation 1."""
    keys = {"steps": 40, "log_every": 10, "lr": 1e-3, "pictures": 2, "statistics": 20, "gray": 0.0}
    distilling = job("distil", tmp_path, **keys)
    distilling.prepare()
    for parameter in distilling.net.pdn[-1].parameters():
        torch.nn.init.zeros_(parameter)
    assert distilling.loss(0)[0].item() == pytest.approx(1, rel=0.1)
    job("distil", tmp_path, **keys).run()
    assert float(rows_of(tmp_path / "pdn_small")[-1]["loss"]) < 0.8


def test_a_mistake_in_the_start_values_names_their_key(tmp_path):
    """Not `weights`, which is the backbone's key here."""
    with pytest.raises(UserError, match="^start: bundeld is not a file"):
        job("distil", tmp_path, start="bundeld")
    (tmp_path / "damaged.pth").write_bytes(b"nothing")
    with pytest.raises(UserError, match="^start: .*damaged.pth "):
        job("distil", tmp_path, start=str(tmp_path / "damaged.pth"))


def test_distilling_takes_a_folder_of_images(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(3):
        write_image(tmp_path / f"images/{i}/a.png", draw_good(rng))
    distilling = job("distil", tmp_path / "t", images=str(tmp_path / "images"), gray=0.0)
    distilling.prepare()
    large = distilling.draw(0, 0)
    assert large.shape == (2, 3, 64, 64) and large.dtype == torch.uint8 and torch.equal(large, distilling.draw(0, 0))
    assert not all(torch.equal(large, distilling.draw(0, step)) for step in range(1, 5))
    assert distilling.wanted(distilling.normalised(large)).shape == (2, 384, 8, 8)
    assert not list((tmp_path / "t").glob("*.npy"))
    before = distilling.origin["files"]
    (tmp_path / "images/1/a.png").rename(tmp_path / "images/b.png")  # an index may now mean another image
    again = job("distil", tmp_path / "t", images=str(tmp_path / "images"))
    assert before.startswith("3 ") and again.origin["files"] not in ("", before)


def test_a_share_of_a_distillations_images_is_gray(tmp_path):
    distilling = job("distil", tmp_path, gray=0.3, batch_size=100)
    distilling.images = [np.full((64, 64, 3), (200, 100, 50), np.uint8)]
    coloured = (distilling.draw(0, 0).float().std(dim=1) > 1).flatten(1)
    assert (coloured.all(dim=1) == coloured.any(dim=1)).all()
    assert 55 <= coloured.all(dim=1).sum() <= 85


@pytest.mark.parametrize("keys", [{"backbone": "inception_v3"}, {"backbone": "convnext_atto", "out_indice": [1, 2]}])
def test_maps_that_do_not_fit_a_pdn_are_refused(tmp_path, keys):
    """Before anything is drawn: a network without padding, and a size that is rounded in another way."""
    with pytest.raises(UserError, match="backbone: .* positions per side for 260 px, a PDN 33 for half"):
        job("distil", tmp_path, img_size=130, **keys)
    assert not list(tmp_path.iterdir())


def test_a_share_of_a_distillations_images_are_photographs(tmp_path):
    keys = {"photographs": "scikit-image", "photographs_share": 0.3, "gray": 0.0, "batch_size": 100}
    distilling = job("distil", tmp_path, **keys)
    distilling.images = [np.full((64, 64, 3), 7, np.uint8)]
    drawn = distilling.draw(0, 0)
    assert 15 <= sum(len(image.unique()) > 1 for image in drawn) <= 45
    assert torch.equal(drawn, distilling.draw(0, 0)) and not torch.equal(drawn, distilling.draw(1, 0))
    assert "coffee.png" in distilling.origin["photographs"]


def test_a_distillation_can_start_from_a_pdn(tmp_path):
    first = job("distil", tmp_path).run()
    again = job("distil", tmp_path / "again", start=str(first))
    before = job("distil", tmp_path / "other")
    trained = build_pdn("small", find_pdn("small", str(first)), 0).net.pdn
    assert torch.equal(again.net.pdn.conv1.weight, trained.conv1.weight)
    assert not torch.equal(before.net.pdn.conv1.weight, trained.conv1.weight)
