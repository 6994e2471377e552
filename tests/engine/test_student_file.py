"""student.safetensors: its metadata, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from engine.student_file import FORMAT, changes, check_metadata, fingerprint, load_student, read_metadata, save_student
from utils.errors import UserError

METADATA = {"distillType": "st", "backbone": "resnet18", "out_indice": [1], "teacher": "a", "settings": {"seed": 0}}
METADATA["teachers"] = [{"backbone": "resnet18", "weights": "random"}]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "student.safetensors"


def test_what_was_saved_comes_back(path):
    first, second = nn.Linear(2, 3), nn.Linear(2, 3)
    save_student(path, first, METADATA)
    load_student(path, second)
    assert torch.equal(first.weight, second.weight)
    assert read_metadata(path) == METADATA | {"format": FORMAT}


def with_metadata(path, record):
    save_file(nn.Linear(2, 3).state_dict(), path, {"record": json.dumps(record)})


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({k: v for k, v in METADATA.items() if k != "settings"} | {"format": FORMAT}, "not complete"),
        (METADATA | {"format": FORMAT, "settings": {}}, "not complete"),
        (METADATA | {"format": FORMAT, "teachers": []}, "not complete"),
        (METADATA | {"format": FORMAT, "normal": {"source": "x", "scores": []}}, "not complete"),
        (METADATA | {"format": FORMAT, "normal": {"source": "x", "scores": ["a"]}}, "not complete"),
        (METADATA | {"format": FORMAT, "origin": 3}, "not complete"),
        (METADATA, "another version"),
        (METADATA | {"format": 1}, "another version"),
        ([1, 2], "another version"),
    ],
)
def test_metadata_of_another_version_or_with_gaps_are_a_sentence(path, record, words):
    with_metadata(path, record)
    with pytest.raises(UserError, match=words):
        read_metadata(path)


@pytest.mark.parametrize("content", [b"", b"rubbish" * 10, b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_a_file_of_something_else_is_a_sentence(path, content):
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a student file of this toolkit"):
        read_metadata(path)


def test_a_missing_file_says_train_first(path):
    with pytest.raises(UserError, match="train first"):
        read_metadata(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(path, value):
    student = nn.Linear(2, 3)
    with torch.no_grad():
        student.bias[1] = value
    save_student(path, student, METADATA)
    with pytest.raises(UserError, match="is damaged: bias has infinite values or NaN"):
        load_student(path, nn.Linear(2, 3))


def test_integers_in_the_place_of_weights_are_refused(path):
    save_file({"weight": torch.ones(3, 2, dtype=torch.int32), "bias": torch.ones(3)}, path)
    with pytest.raises(UserError, match="is damaged: weight is torch.int32, not torch.float32"):
        load_student(path, nn.Linear(2, 3))


def test_another_network_is_named_by_its_keys_and_sizes(path):
    save_student(path, nn.Linear(2, 4), METADATA)
    with pytest.raises(UserError, match=r"another network .* \(weight is \[4, 2\], not \[3, 2\], bias"):
        load_student(path, nn.Linear(2, 3))
    with pytest.raises(UserError, match=r"another network .* \(0.bias, 0.weight, bias \.\.\."):
        load_student(path, nn.Sequential(nn.Linear(2, 4)))


@pytest.mark.parametrize(("key", "value"), [("distillType", "rd"), ("out_indice", [1, 2]), ("teacher", "b")])
def test_another_method_level_or_teacher_is_refused(path, key, value):
    with pytest.raises(UserError, match="trained with"):
        check_metadata(path, METADATA, METADATA | {key: value})


def test_a_fingerprint_knows_values_and_shapes_but_no_names():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    renamed = nn.ModuleDict({"conv": net[0], "norm": net[1]})
    assert fingerprint(net) == fingerprint(renamed)
    before = fingerprint(net)
    net[1].num_batches_tracked += 1
    assert fingerprint(net) == before
    with torch.no_grad():
        net[0].weight[0, 0, 0, 0] += 1
    assert fingerprint(net) != before
    assert fingerprint(nn.ParameterList([torch.zeros(2, 3)])) != fingerprint(nn.ParameterList([torch.zeros(3, 2)]))


def test_changes_name_settings_and_leave_hashes_out():
    before, now = {"seed": 0, "images (hash)": "ab", "lr": 1}, {"seed": 1, "images (hash)": "cd", "lr": 1}
    assert changes(before, now) == "seed was 0, is 1, images changed"
    assert changes(now, now) == ""
    # An earlier version of the toolkit may lack a key; what the run did then is not known.
    assert changes(before, before | {"new": 1}) == "new was None, is 1"


def test_a_student_of_zeros_is_refused(path):
    student = nn.Linear(2, 3)
    nn.init.zeros_(student.weight), nn.init.zeros_(student.bias)
    save_student(path, student, METADATA)
    with pytest.raises(UserError, match="all its values are zero"):
        load_student(path, nn.Linear(2, 3))


def test_a_student_of_another_category_is_refused(path):
    part, screw = (METADATA | {"settings": {"seed": 0, "obj": obj}} for obj in ("part", "screw"))
    with pytest.raises(UserError, match="trained on obj part, the config says screw"):
        check_metadata(path, part, screw)
