"""Every shipped configuration is complete, uses only keys that its method has, and names an existing method."""

from pathlib import Path

import pytest
import timm

from engine.study import read_study
from pretraining import RECIPES
from tests.conftest import REPO
from trainer import TRAINERS, build_trainer
from utils.config import Config
from utils.config_file import check_config, read_config
from utils.errors import UserError

EXAMPLES = sorted((REPO / "configs").glob("*.yaml"))
OURS = {"st", "rd", "rdpp", "ead", "dbfad", "mixed", "rnst", "rnrd"}
FILES = [REPO / "config.yaml", *EXAMPLES]

# The published recipes (papers, their public code; RNST and RNRD: those of STPM and RD).
R18, WIDE = "resnet18.tv_in1k", "wide_resnet50_2.tv_in1k"
REVERSE = {"epochs": 200, "batch_size": 16, "lr": 0.005, "val_ratio": 0, "sigma": 4}
MEMORIES = {"embedDim": 50, "n_embed": 16, "lambda1": 0.1, "lambda2": 0.1, "temperature": 1, "layer_weight": "none"}
PUBLISHED = {
    "st": (R18, {"epochs": 100, "batch_size": 32, "lr": 0.4, "val_ratio": 0.2, "sigma": 0}),
    "rd": (WIDE, REVERSE | {"sspcab": False}),
    "rdpp": (WIDE, REVERSE | {"projection_lr": 0.001, "accumulate": 2, "sspcab": False}),
    "rnst": (R18, {"epochs": 100, "batch_size": 32, "lr": 0.4, "val_ratio": 0.2, "sigma": 4} | MEMORIES),
    "rnrd": (WIDE, REVERSE | MEMORIES | {"memories": [0, 1, 2]}),
    "dbfad": (
        "resnet34.bt_in1k",
        {"epochs": 100, "batch_size": 4, "lr": 0.005, "early_stop": 10, "val_ratio": 0.3, "sigma": 4, "residual": True},
    ),
    "mixed": (
        [R18, "efficientnet_b0.ra_in1k"],
        {"epochs": 100, "batch_size": 8, "lr": 0.004, "val_ratio": 0.2, "sigma": 4, "fusion": "reference"},
    ),
    "ead": ("small", {"steps": 70000, "batch_size": 1, "lr": 1e-4, "sigma": 0, "img_size": 256}),
}
LEVELS = {"dbfad": [0, 1, 2, 3], "mixed": [[1, 2], [3, 4]]}  # the others: [1, 2, 3]


def method_of(path: Path):
    return TRAINERS[read_config(path)["distillType"]]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_parses(path: Path):
    method = method_of(path)
    config = check_config(read_config(path), method.Config[method.Options], path.name)
    assert config.phase == "train"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_spells_out_every_key_of_its_method_but_the_crop(path: Path):
    assert {"crop_size", *read_config(path)["TrainingData"]} == set(method_of(path).Options.model_fields)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_has_the_published_recipe_and_so_have_the_defaults(path: Path):
    method = method_of(path)
    config = check_config(read_config(path), method.Config[method.Options])
    if config.distillType not in OURS:
        pytest.skip("no published recipe is known here")
    assert config.TrainingData == method.Options()
    backbone, recipe = PUBLISHED[config.distillType]
    assert config.backbone == backbone
    assert config.TrainingData.model_dump(include=set(recipe)) == recipe
    if config.distillType != "ead":
        assert config.out_indice == LEVELS.get(config.distillType, [1, 2, 3])


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_another_img_size_in_an_example_crops_nothing(path: Path):
    raw, method = read_config(path), method_of(path)
    raw["TrainingData"]["img_size"] = [640, 256]
    options = check_config(raw, method.Config[method.Options]).TrainingData
    assert options.crop_size == options.img_size == (640, 256)


@pytest.mark.parametrize("path", sorted((REPO / "configs/teachers").glob("*.yaml")), ids=lambda path: path.name)
def test_a_teachers_file_parses(path: Path):
    raw = read_config(path)
    check_config(raw, RECIPES[raw["recipe"]].Options, path.name)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_backbone_tag_has_weights(path: Path):
    """timm's default tags are other weights than the papers'; a tag must be given and exist."""
    if not issubclass(method_of(path).Config, Config):
        pytest.skip("its backbone is none of timm's")
    backbones = read_config(path)["backbone"]
    for backbone in backbones if isinstance(backbones, list) else [backbones]:
        assert "." in backbone and timm.get_pretrained_cfg(backbone).hf_hub_id


def test_every_method_has_an_example():
    assert {read_config(path)["distillType"] for path in EXAMPLES} == set(TRAINERS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_runs_with_bundled_teachers(path: Path, tiny_mvtec, tmp_path):
    """With the words that benchmarks/methods.yaml adds and the pages name, nothing has to be downloaded."""
    method = read_config(path)["distillType"]
    study = read_study(str(REPO / "benchmarks/methods.yaml"), {}, [])
    rules = [rule for rule in study.where if rule.teachers == ["bundled"] and method in rule.methods]
    words = [word for rule in rules for word in rule.words]
    pages = "".join(page.read_text(encoding="utf-8") for page in (REPO / "README.md", *REPO.glob("docs/*.md")))
    assert all(word in pages for word in words)
    where = [f"data_path={tiny_mvtec}", "obj=part", f"save_path={tmp_path}"]
    try:
        trainer = build_trainer(path, [*words, *where, "weights=bundled"])
    except UserError as error:
        if method not in OURS and "nothing is bundled" in str(error):
            pytest.skip(f"{error}; a rule in benchmarks/methods.yaml can name another backbone")
        raise
    assert {teacher["weights"] for teacher in trainer.metadata["teachers"]} == {"bundled"}
