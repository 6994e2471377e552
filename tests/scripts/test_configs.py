"""Every shipped configuration is complete, uses only keys its method knows, and names a real method."""

from pathlib import Path

import pytest
import timm

from benchmarks.methods import METHODS
from tests.conftest import REPO
from trainer import TRAINERS, build_trainer
from utils.config import check_config, read_config

FILES = [REPO / "config.yaml", *sorted((REPO / "configs").glob("*.yaml"))]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_parses(path: Path):
    raw = read_config(path)
    method = TRAINERS[raw["distillType"]]
    config = check_config(raw, method.Config[method.Options], path.name)
    assert config.phase == "train"


@pytest.mark.parametrize("path", FILES[1:], ids=lambda p: p.name)
def test_an_example_spells_out_every_key_of_its_method(path: Path):
    raw = read_config(path)
    options = TRAINERS[raw["distillType"]].Options
    assert set(raw["TrainingData"]) == set(options.model_fields)


@pytest.mark.parametrize("path", [path for path in FILES if path.stem != "configEAD"], ids=lambda p: p.name)
def test_the_backbone_tag_has_weights(path: Path):
    """timm's default tags are other files than the papers'; a tag must be given and exist. A PDN has none."""
    backbones = read_config(path)["backbone"]
    for backbone in backbones if isinstance(backbones, list) else [backbones]:
        assert "." in backbone and timm.get_pretrained_cfg(backbone).hf_hub_id


def test_every_method_has_an_example():
    assert {read_config(path)["distillType"] for path in FILES[1:]} == set(TRAINERS)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_every_file_runs_with_bundled_teachers(path: Path, tiny_mvtec, tmp_path):
    """With the words that benchmarks/methods.py adds and the README names, nothing has to be downloaded."""
    words = [] if path.stem == "config" else METHODS[read_config(path)["distillType"]][1]
    readme = (REPO / "README.md").read_text(encoding="utf-8")
    assert all(word in readme for word in words)
    where = [f"data_path={tiny_mvtec}", "obj=part", f"save_path={tmp_path}"]
    trainer = build_trainer(path, [*words, *where, "weights=bundled"])
    assert set(trainer.record["weights"].values()) == {"bundled"}
