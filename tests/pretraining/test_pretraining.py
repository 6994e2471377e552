"""pretrain.py and its recipes: from formula-made pictures to a teacher's file that trainNet.py can use."""

import csv
import hashlib
import json
import math
import shlex
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from datasets import sources
from engine.prefetch import Prefetch
from models.teachers.weights import read_tensors
from pretraining import RECIPES
from pretraining.classify import info_nce, random_affine, views
from pretraining.formula import FormulaImages
from pretraining.formula.store import rendered
from pretraining.job import warm_cosine
from tests.conftest import (
    REPO,
    assert_one_sentence,
    draw_good,
    killed_at_the_first_checkpoint,
    run_script,
    write_image,
)
from trainer import build_trainer
from utils.config import check_config, read_config
from utils.errors import UserError

SMALL = {
    "classify": {
        "backbone": "resnet18",
        "classes": 3,
        "per_class": 4,
        "img_size": 48,
        "crop_size": 32,
        "batch_size": 4,
    },
    "distil": {"pdn": "small", "backbone": "resnet18", "weights": "random", "pictures": 4, "statistics": 4}
    | {"img_size": 32, "batch_size": 2},
}
every_recipe = pytest.mark.parametrize("recipe", RECIPES)


def job(recipe, folder, **keys):
    raw = {"recipe": recipe, "save_path": str(folder), "steps": 4, "log_every": 2, "precision": "fp32"}
    return RECIPES[recipe](check_config(raw | SMALL[recipe] | keys, RECIPES[recipe].Options))


@every_recipe
def test_every_shipped_recipe_is_complete(recipe):
    """The file says everything, so that it is the record of how a teacher was made."""
    files = [path for path in (REPO / "configs/teachers").glob("*.yaml") if read_config(path)["recipe"] == recipe]
    assert files
    without = {"device", "precision", "seed", "resume", "log_every"}
    for path in files:
        options = check_config(read_config(path), RECIPES[recipe].Options, path.name)
        assert set(read_config(path)) | without == set(type(options).model_fields)


@every_recipe
def test_an_interrupted_run_ends_like_an_uninterrupted_one(recipe, tmp_path, monkeypatch):
    straight = job(recipe, tmp_path / "straight").run()
    with killed_at_the_first_checkpoint(monkeypatch):
        job(recipe, tmp_path / "broken").run()
    assert not list((tmp_path / "broken").rglob("*.safetensors"))
    resumed = job(recipe, tmp_path / "broken").run()
    one, other = load_file(straight), load_file(resumed)
    assert one and all(torch.equal(one[key], other[key]) for key in one)
    rows = list(csv.DictReader((resumed.parent / "log.csv").open()))
    assert [row["step"] for row in rows] == ["2", "4"]
    assert not (resumed.parent / "checkpoint.pt").exists()


@every_recipe
def test_other_settings_do_not_go_on_with_an_interrupted_run(recipe, tmp_path, monkeypatch):
    with killed_at_the_first_checkpoint(monkeypatch):
        job(recipe, tmp_path).run()
    with pytest.raises(UserError, match="lr was .*, is 0.5"):
        job(recipe, tmp_path, lr=0.5).run()


@every_recipe
def test_the_manifest_says_where_the_teacher_comes_from(recipe, tmp_path):
    path = job(recipe, tmp_path, seed=3).run()
    manifest = json.loads(path.with_suffix(".json").read_text())
    assert manifest["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert manifest["recipe"]["recipe"] == recipe and manifest["recipe"]["seed"] == 3
    assert manifest["last"]["step"] == 4 and math.isfinite(manifest["last"]["loss"])
    assert {"date", "seconds", "hardware", "precision", "versions"} <= set(manifest)
    assert all(tensor.dtype == torch.float16 for tensor in load_file(path).values())


@pytest.mark.parametrize(
    ("recipe", "changed"),
    [("classify", {"backbone": "resnet34", "out_indice": [1, 2]}), ("distil", {"pdn": "medium", "weights": "random"})],
)
def test_the_manifest_says_how_to_make_more_of_it(recipe, changed, tmp_path):
    """A command that works, of this very recipe but for what a GPU affords."""
    made = job(recipe, tmp_path, **changed)
    program, script, flag, file, *words = shlex.split(made.with_a_gpu)
    assert (program, script, flag) == ("python3", "pretrain.py", "--config")
    options = check_config(read_config(REPO / file, words), made.Options)
    assert all(getattr(options, key) == value for key, value in (changed | made.on_a_gpu).items())
    assert options.steps >= 20000


def test_a_pretrained_backbone_is_a_teacher(tmp_path, config):
    """Up to the last level asked for, in the names torchvision gives them."""
    start = job("classify", tmp_path / "a")
    path = start.run()
    tensors = read_tensors(path)
    assert "conv1.weight" in tensors and "layer3.1.bn2.running_var" in tensors
    assert not any(key.startswith(("layer4", "fc", "classes", "embedding")) for key in tensors)
    trained = build_trainer(config("st", weights=str(path)))
    learned = start.net.trunk.net.layer3[1].conv2.weight
    assert torch.equal(trained.teacher.net.net.layer3[1].conv2.weight, learned.half().float())
    again = job("classify", tmp_path / "b", weights=str(path))  # what the file lacks starts at random
    assert torch.equal(again.net.trunk.net.conv1.weight, start.net.trunk.net.conv1.weight.half().float())


def test_a_distilled_pdn_is_a_teacher(tmp_path, config):
    start = job("distil", tmp_path)
    path = start.run()
    assert path.name == "pdn_small.safetensors"
    trained = build_trainer(config("ead", weights=str(path)))
    assert trained.record["weights"] == {"small": str(path)}
    assert torch.equal(trained.teacher.net.pdn.conv4.weight, start.net.pdn.conv4.weight.half().float())
    manifest = json.loads(path.with_suffix(".json").read_text())
    assert len(manifest["target"]) == 64 and len(manifest["target_mean"]) == len(manifest["target_std"]) == 384


def test_distilling_approaches_the_target(tmp_path):
    """A PDN that says nothing has a loss of 1, the target having mean 0 and deviation 1."""
    keys = {"steps": 40, "log_every": 10, "lr": 1e-3, "pictures": 2, "statistics": 20, "gray": 0.0}
    distilling = job("distil", tmp_path, **keys)
    distilling.prepare()
    for parameter in distilling.net.pdn[-1].parameters():
        torch.nn.init.zeros_(parameter)
    assert distilling.loss(0)[0].item() == pytest.approx(1, rel=0.1)
    job("distil", tmp_path, **keys).run()
    rows = list(csv.DictReader((tmp_path / "pdn_small/log.csv").open()))
    assert float(rows[-1]["loss"]) < 0.8


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


@pytest.mark.parametrize("keys", [{"backbone": "inception_v3"}, {"backbone": "convnext_atto", "out_indice": [1, 2]}])
def test_maps_that_do_not_fit_a_pdn_are_refused(tmp_path, keys):
    """Before anything is drawn: a network that does not pad, and a size that is rounded otherwise."""
    with pytest.raises(UserError, match="backbone: .* positions a side of 260 px, a PDN 33 of half"):
        job("distil", tmp_path, img_size=130, **keys)
    assert not list(tmp_path.iterdir())


def test_a_share_of_a_distillations_images_is_gray(tmp_path):
    distilling = job("distil", tmp_path, gray=0.3, batch_size=100)
    distilling.images = [np.full((64, 64, 3), (200, 100, 50), np.uint8)]
    coloured = (distilling.draw(0, 0).float().std(dim=1) > 1).flatten(1)
    assert (coloured.all(dim=1) == coloured.any(dim=1)).all()
    assert 55 <= coloured.all(dim=1).sum() <= 85


def test_the_views_of_a_picture(tmp_path):
    """Crops, turned and flipped; nothing about light or colour, but for those without any."""
    theta = random_affine(np.random.default_rng(0), 2000)
    area = theta[:, :, :2].det().abs()
    assert 0.44 < area.min() < 0.47 and 0.98 < area.max() <= 1
    assert 0.4 < (theta[:, :, :2].det() > 0).float().mean() < 0.6  # one of two is mirrored
    picture = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    upright = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]])
    std, mean = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.229, 0.224, 0.225), (0.485, 0.456, 0.406)))
    same = views(picture, upright, torch.tensor([False]), 32) * std + mean
    torch.testing.assert_close(same * 255, picture.float(), rtol=0, atol=1e-3)
    gray = views(picture, upright, torch.tensor([True]), 32) * std + mean
    assert gray.std(dim=1).max() < 1e-5


def test_info_nce_by_hand():
    """Two pairs that agree exactly and are orthogonal to each other: -log(e / (e + 1)) at temperature 1."""
    embedding = 5 * torch.eye(2)
    assert info_nce(embedding, embedding, 1.0).item() == pytest.approx(math.log(1 + math.exp(-1)))
    assert info_nce(embedding, embedding.flip(0), 1.0).item() == pytest.approx(math.log(1 + math.e))


def test_the_learning_rate_rises_and_falls():
    rates = [warm_cosine(step, 100, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 11) and rates[10] == 1 == max(rates)
    assert rates[55] == pytest.approx(0.5) and rates[99] < 1e-3
    assert warm_cosine(0, 100, 0.0) == 1


def test_classification_learns(tmp_path):
    learning = job("classify", tmp_path, steps=40, log_every=10, lr=0.02, batch_size=8, contrast=0.0)
    learning.run()
    rows = list(csv.DictReader((tmp_path / "resnet18/log.csv").open()))
    assert float(rows[-1]["accuracy"]) > 0.7 > float(rows[0]["accuracy"])


def test_two_processes_want_the_same_pictures(tmp_path, monkeypatch):
    """The second waits; it would empty the file that the first one is filling."""
    images, drawn = FormulaImages(32, 5), []
    draw = sources._render
    monkeypatch.setattr(sources, "_render", lambda *given: drawn.append(time.sleep(0.2)) or draw(*given))
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda _: rendered(images, 3, tmp_path / "p.npy"), range(2))
    assert len(drawn) == 1 and np.array_equal(one, other)


def test_a_full_disk_is_said_before_drawing(tmp_path):
    with pytest.raises(UserError, match="p.npy: needs [0-9.]+ GB, [0-9.]+ GB are free there"):
        rendered(FormulaImages(32, 5), 2**45, tmp_path / "p.npy")
    assert not (tmp_path / "p.npy").exists()


def test_drawn_pictures_are_the_streams(tmp_path):
    images = FormulaImages(32, 5, 4)
    pictures = rendered(images, 300, tmp_path / "p.npy")  # more than one process draws
    assert pictures.shape == (300, 32, 32, 3)
    for index in (0, 255, 256, 299):
        assert np.array_equal(pictures[index], images[index])
    assert not np.load(tmp_path / "p.npy", mmap_mode="r").flags.writeable


def test_ahead_makes_each_step_once():
    made = []
    ahead = Prefetch(lambda step: made.append(step) or 10 * step, last=5, depth=3)
    assert [ahead(step) for step in range(2, 6)] == [20, 30, 40, 50]
    assert sorted(made) == [2, 3, 4, 5]


def test_ahead_hands_on_errors():
    def fail(step):
        raise UserError("a damaged file")

    with pytest.raises(UserError, match="damaged"):
        Prefetch(fail, last=3)(0)


def test_mistakes_are_said_in_a_sentence(tmp_path):
    recipe = REPO / "configs/teachers/pdn_small.yaml"
    where = f"save_path={tmp_path}"
    assert_one_sentence(run_script("pretrain.py", "recipe=guess", where), "'recipe' must be one of classify, distil")
    assert_one_sentence(run_script("pretrain.py", "epochs=3", where), "unknown key 'epochs'", "Known keys")
    assert_one_sentence(
        run_script("pretrain.py", "--config", recipe, "images=nowhere", where), "images: there is no folder nowhere"
    )
    words = ("out_indice=[1, 2]", where)
    assert_one_sentence(run_script("pretrain.py", "--config", recipe, *words), "strides 8 and 16")
    assert_one_sentence(run_script("pretrain.py", "backbone=resnet19", where), "timm knows no 'resnet19'")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"crop_size": 64}, "crop_size 64 is larger than img_size 48"),
        ({"classes": 1}, "'classes': .* greater than or equal to 2"),
        ({"backbone": "vit_base_patch16_224", "out_indice": [0]}, "cannot take crop_size"),
    ],
)
def test_impossible_values_are_refused(changed, said, tmp_path):
    with pytest.raises(UserError, match=said):
        job("classify", tmp_path, **changed)
    assert not list(tmp_path.iterdir())


@every_recipe
def test_a_finished_teacher_is_not_replaced(recipe, tmp_path):
    path = job(recipe, tmp_path).run()
    before = {file: file.read_bytes() for file in path.parent.iterdir()}
    with pytest.raises(UserError, match=f"{path} is a finished teacher"):
        job(recipe, tmp_path, seed=1).run()
    assert before == {file: file.read_bytes() for file in path.parent.iterdir()}
