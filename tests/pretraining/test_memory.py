"""What cannot fit into memory is refused before anything is built."""

import os
import time

import pytest
import torch

from models.pdn import PDN
from pretraining import RECIPES, memory
from tests.conftest import REPO
from tests.pretraining.jobs import job
from utils.config_file import check_config, read_config
from utils.errors import UserError


@pytest.fixture
def small_machine(monkeypatch):
    """One of 16 GB."""
    monkeypatch.setattr(memory, "total_memory", lambda device: 16 * 10**9)


@pytest.mark.parametrize(
    ("recipe", "keys", "named"),
    [
        ("classify", {"batch_size": 10**9}, "batch_size"),
        ("classify", {"classes": 10**9}, "classes"),
        ("classify", {"img_size": 8192, "batch_size": 64}, "img_size"),
        ("classify", {"img_size": 4096, "crop_size": 4096, "batch_size": 8}, "crop_size"),
        ("distil", {"batch_size": 10**6}, "batch_size"),
        ("distil", {"img_size": 8192}, "img_size"),
    ],
)
def test_what_cannot_fit_into_memory_is_refused_before_it_is_built(small_machine, recipe, keys, named, tmp_path):
    begin = time.monotonic()
    said = r"a step needs at least [0-9.,]+ GB of memory and this \w+ has 16.0 GB: lower .*" + named
    with pytest.raises(UserError, match=said):
        job(recipe, tmp_path, **keys)
    assert not list(tmp_path.iterdir()) and time.monotonic() - begin < 10


@pytest.mark.parametrize("path", sorted((REPO / "configs/teachers").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_recipes_fit_into_a_small_machine(small_machine, path):
    raw = read_config(path) | {"device": "cpu"}
    made = RECIPES[raw["recipe"]](check_config(raw, RECIPES[raw["recipe"]].Options, path.name))
    assert 5e7 < made.memory() < 8e9


def test_what_is_kept_of_an_image_is_what_its_convolutions_give_out():
    with torch.device("meta"):
        net = PDN("small", padding=True)
    assert memory.kept_values(net, 64) == 128 * 67**2 + 256 * 37**2 + 256 * 19**2 + 384 * 16**2


def test_total_memory_is_that_of_the_machine_or_less():
    found = memory.total_memory(torch.device("cpu"))
    assert 10**8 < found <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
