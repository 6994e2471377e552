"""What all recipes share: a training that can be interrupted, its log, and the finished teacher's files."""

import hashlib
import json
import math
import os
import re
import shlex

import pytest
import torch
from safetensors.torch import load_file

from pretraining import RECIPES
from pretraining.job import warm_cosine
from tests.conftest import (
    REPO,
    assert_one_sentence,
    killed_at_the_first_checkpoint,
    run_script,
)
from tests.pretraining.jobs import job, rows_of
from utils.config_file import check_config, read_config
from utils.errors import UserError
from utils.files import locked

every_recipe = pytest.mark.parametrize("recipe", RECIPES)


@every_recipe
def test_every_shipped_recipe_is_complete(recipe):
    """The file has all keys, so that it documents how a teacher was made."""
    files = [path for path in (REPO / "configs/teachers").glob("*.yaml") if read_config(path)["recipe"] == recipe]
    assert files
    without = {"device", "precision", "seed", "threads", "resume", "log_every"}
    for path in files:
        options = check_config(read_config(path), RECIPES[recipe].Options, path.name)
        assert set(read_config(path)) | without == set(type(options).model_fields)


@pytest.mark.slow
@every_recipe
def test_an_interrupted_run_ends_like_an_uninterrupted_one(recipe, tmp_path, monkeypatch):
    straight = job(recipe, tmp_path / "straight").run()
    with killed_at_the_first_checkpoint(monkeypatch):
        job(recipe, tmp_path / "broken").run()
    assert not list((tmp_path / "broken").rglob("*.safetensors"))
    resumed = job(recipe, tmp_path / "broken").run()
    one, other = load_file(straight), load_file(resumed)
    assert one and all(torch.equal(one[key], other[key]) for key in one)
    assert [row["step"] for row in rows_of(resumed.parent)] == ["2", "4"]
    assert not (resumed.parent / "checkpoint.pt").exists()


@every_recipe
def test_other_settings_do_not_go_on_with_an_interrupted_run(recipe, tmp_path, monkeypatch):
    with killed_at_the_first_checkpoint(monkeypatch):
        job(recipe, tmp_path).run()
    with pytest.raises(UserError, match="lr was .*, is 0.5"):
        job(recipe, tmp_path, lr=0.5).run()


def test_whoever_interrupts_a_training_is_told_what_is_kept(tmp_path, monkeypatch, capsys):
    with killed_at_the_first_checkpoint(monkeypatch):
        job("distil", tmp_path).run()
    assert "resumes this training from its last checkpoint" in capsys.readouterr().err


def test_one_process_at_a_time_makes_a_teacher_in_a_folder(tmp_path):
    making = job("distil", tmp_path)
    making.folder.mkdir()
    said = rf"pdn_small: process {os.getpid()} is working there"
    with locked(making.folder), pytest.raises(UserError, match=said):
        making.run()
    assert making.run().exists()  # the folder is free again


@every_recipe
def test_a_finished_teacher_is_not_replaced(recipe, tmp_path):
    path = job(recipe, tmp_path).run()
    before = {file: file.read_bytes() for file in path.parent.iterdir()}
    with pytest.raises(UserError, match=f"{path} is a finished teacher"):
        job(recipe, tmp_path, seed=1).run()
    assert before == {file: file.read_bytes() for file in path.parent.iterdir()}


@every_recipe
def test_the_manifest_says_where_the_teacher_comes_from(recipe, tmp_path):
    path = job(recipe, tmp_path, seed=3).run()
    manifest = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert (manifest["mean"], manifest["std"]) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
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
    """A command that works, for this recipe except for the keys that a GPU changes."""
    made = job(recipe, tmp_path, **changed)
    program, script, flag, file, *words = shlex.split(made.with_a_gpu)
    assert (program, script, flag) == ("python3", "pretrain.py", "--config")
    options = check_config(read_config(REPO / file, words), made.Options)
    assert all(getattr(options, key) == value for key, value in (changed | made.on_a_gpu).items())
    assert options.steps >= 20000


def test_the_learning_rate_rises_and_falls():
    rates = [warm_cosine(step, 100, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 11) and rates[10] == 1 == max(rates)
    assert rates[55] == pytest.approx(0.5) and rates[99] < 1e-3
    assert warm_cosine(0, 100, 0.0) == 1


@pytest.mark.slow
def test_pretrain_says_mistakes_in_a_sentence(tmp_path):
    where = f"save_path={tmp_path}"
    assert_one_sentence(run_script("pretrain.py", "recipe=guess", where), "'recipe' must be classify or distil")


def refused(recipe, folder, **keys):
    """The error that a user gets instead of a teacher."""
    with pytest.raises(UserError) as error:
        job(recipe, folder, **keys).run()
    assert not list(folder.rglob("*.safetensors"))
    return str(error.value)


@pytest.mark.parametrize(
    ("recipe", "keys", "said"),
    [
        ("distil", {"images": "nowhere"}, "images: there is no folder nowhere"),
        ("distil", {"out_indice": [1, 2]}, "strides 8 and 16"),
        ("classify", {"backbone": "resnet19"}, "no .*'resnet19'; did you mean"),
        ("classify", {"backbone": "resnet19", "weights": "imagenet"}, "no .*'resnet19'; did you mean"),
        ("distil", {"backbone": "resnet19", "weights": "imagenet"}, "no .*'resnet19'; did you mean"),
        ("classify", {"lr": 1000.0, "steps": 50, "log_every": 50, "weight_decay": 1e6}, "lower lr"),
    ],
)
def test_mistakes_name_a_key_that_the_recipe_has(recipe, keys, said, tmp_path):
    message = refused(recipe, tmp_path, **keys)
    assert re.search(said, message)
    assert set(re.findall(r"[A-Za-z_]+", message)) & set(RECIPES[recipe].Options.model_fields)
    assert "TrainingData" not in message
