"""The frozen-feature check, with random networks on tiny pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from benchmarks import teachers
from datasets.dataset import Sample
from models.pdn import PDN
from tests.conftest import write_mvtec
from utils.errors import UserError


@pytest.fixture(scope="module")
def grid():
    return teachers.feature_grid("resnet18", "random", seed=0)


@pytest.fixture
def image():
    """Two 8-bit images."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 224, 224), dtype=np.uint8)
    return torch.from_numpy(pixels)


def test_a_grid_joins_the_levels_and_follows_the_seed(grid, image):
    found = grid(image)
    assert found.shape == (2, 64 + 128 + 256, 28, 28) and found.dtype == torch.float32
    assert (found.split([64, 128, 256], dim=1)[1].norm(dim=1) <= 1.0001).all()  # a mean of unit vectors
    assert torch.equal(found, teachers.feature_grid("resnet18", "random", seed=0)(image))
    assert not torch.equal(found, teachers.feature_grid("resnet18", "random", seed=1)(image))


def test_a_grid_has_no_border_of_its_own_and_halving_is_a_mean():
    level = torch.ones(1, 4, 56, 56)
    assert torch.allclose(teachers.on_grid(level), torch.full((1, 4, 28, 28), 0.5))


def test_a_pdn_can_come_from_a_file_or_be_random(tmp_path):
    image = torch.rand(1, 3, 256, 256)
    path = tmp_path / "pdn.safetensors"
    save_file(PDN("small").state_dict(), path)
    from_file = teachers.feature_grid("pdn_small", str(path), seed=0)(image)
    assert from_file.shape == (1, 384, 28, 28)
    assert torch.equal(from_file, teachers.feature_grid("pdn_small", str(path), seed=1)(image))
    assert not torch.equal(from_file, teachers.feature_grid("pdn_small", "random", seed=0)(image))
    with pytest.raises(UserError, match="nowhere.pth is not a file"):
        teachers.feature_grid("pdn_small", "nowhere.pth", seed=0)


def test_a_network_that_is_no_cnn_is_refused():
    with pytest.raises(UserError, match="choose a CNN"):
        teachers.build("swin_tiny_patch4_window7_224", "random", 0)


def test_distances_are_to_the_nearest():
    grid, memory = torch.rand(2, 5, 3, 4), torch.rand(7, 5)
    by_hand = (grid[:, None] - memory[None, :, :, None, None]).norm(dim=2).amin(dim=1, keepdim=True)
    assert torch.allclose(teachers.distances(grid, memory), by_hand, atol=1e-4)


@pytest.mark.parametrize(("side", "at"), [(224, 84), (256, 100)])
def test_a_map_lies_where_the_grid_looks(side, at):
    """Position 10 of an image of 224 px is pixels 80 to 87; of a PDN's 256 px, the pixels two positions later."""
    near = torch.zeros(1, 1, 28, 28)
    near[..., 10, 10] = 1
    found = teachers.final_map(near, side)
    assert found.shape == (1, 1, side, side)
    rows = found.sum(dim=(0, 1, 3))
    assert float((rows * torch.arange(side)).sum() / rows.sum()) == pytest.approx(at - 0.5, abs=0.1)


def test_a_limit_takes_the_same_of_each_defect_type():
    samples = [Sample(None, None, name) for name in ["good"] * 9 + ["hole"] * 3 + ["stain"] * 5]
    types = [sample.defect_type for sample in teachers.choose(samples, 4)]
    assert types == ["good"] * 4 + ["hole"] * 3 + ["stain"] * 4


def test_memory_holds_what_was_drawn_once(tiny_mvtec, grid, monkeypatch):
    monkeypatch.setattr(teachers, "MEMORY", 100)
    monkeypatch.setattr(teachers, "BATCH", 3)  # of 4 images: positions of the second batch count from the first
    train = teachers.find_set(str(tiny_mvtec), "part", "resnet18", limit=4).train
    memory = teachers.fill_memory(grid, train)
    assert memory.shape == (100, 448)
    assert torch.equal(memory, teachers.fill_memory(grid, train))


def test_the_check_sees_a_defect(tmp_path, grid, monkeypatch):
    monkeypatch.setattr(teachers, "CATEGORIES", {})
    write_mvtec(tmp_path)
    write_mvtec(tmp_path, "unmasked", masks=False)
    sets = teachers.find_sets(tmp_path, None, "resnet18", limit=3)
    assert [(each.name, len(each.train), len(each.test)) for each in sets] == [("part", 3, 6)]
    values = teachers.measure(grid, sets, "random")
    assert values.shape == (2, 2) and (values > 95).all()
    assert np.array_equal(values[0], values[1])  # one set is its own mean


def test_a_wanted_set_must_be_there_and_have_what_is_measured(tmp_path):
    write_mvtec(tmp_path, train=1, good=1, bad=1)
    write_mvtec(tmp_path, "unmasked", train=1, good=1, bad=1, masks=False)
    assert [each.name for each in teachers.find_sets(tmp_path, ["part", "part"], "resnet18", 1)] == ["part"]
    with pytest.raises(UserError, match=r"no set 'nosuch' in .* \(there are: weave, washer, part, unm"):
        teachers.find_sets(tmp_path, ["part", "nosuch"], "resnet18", 1)
    with pytest.raises(UserError, match="--sets: 'unmasked' cannot be used, because it has no good test images, or"):
        teachers.find_sets(tmp_path, ["part", "unmasked"], "resnet18", 1)
    for wanted in (None, ["part"]):
        with pytest.raises(UserError, match="--data: there is no folder .*nowhere; .* --sets weave washer"):
            teachers.find_sets(tmp_path / "nowhere", wanted, "resnet18", 1)


def test_a_set_with_the_name_of_a_demo_set_is_read_from_its_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_mvtec(tmp_path / "data", "weave", train=2, good=1, bad=1)
    write_mvtec(tmp_path / "demo_data", "washer", train=2, good=1, bad=1)
    sets = teachers.find_sets(Path("data"), None, "resnet18", 1)
    assert [(each.name, each.root) for each in sets] == [("weave", "data"), ("washer", "demo_data")]
    assert [each.root for each in teachers.find_sets(Path("none"), ["washer"], "resnet18", 1)] == ["demo_data"]


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ([60, 90], ["a: chosen", "75.0, is the highest", "worst set y, -5.0"]),
        ([56, 96], ["a: not chosen", "76.0, is the highest", "worst set y, -9.0"]),
        ([62, 60], ["a: not chosen", "61.0, is not the highest", "worst set x, -5.0"]),
    ],
)
def test_a_verdict_needs_the_mean_and_every_set(own, words):
    images = {"random": [65, 65], "a": own, "b": [66, 66]}
    rows = {name: np.array([[v, 0] for v in (*values, np.mean(values))], float) for name, values in images.items()}
    sentence = teachers.verdict("a", rows, ["y", "x"])
    assert all(word in sentence for word in words), sentence
