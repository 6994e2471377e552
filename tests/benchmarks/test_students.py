"""The protocol that chooses a teacher, with a tiny data set and few steps."""

import numpy as np
import pytest
from safetensors.torch import save_file

import benchmark
from benchmarks import students, teachers
from benchmarks.students import Candidate, compare, mean_ranks, planned, verdict
from engine.cells import plan
from engine.study import read_study
from models.teachers.weights import Source, build_teacher
from tests.conftest import REPO, killed_at_the_first_checkpoint, write_mvtec
from utils.errors import UserError


def test_a_teacher_is_weights_or_a_network_with_its_weights(tmp_path, monkeypatch):
    assert teachers.named("bundled", "resnet18") == ("resnet18", "bundled")
    assert teachers.named("tf_efficientnet_lite0=imagenet", "resnet18") == ("tf_efficientnet_lite0", "imagenet")
    assert teachers.named("pdn_small=bundled", "resnet18") == ("pdn_small", "bundled")
    assert teachers.named("resnet81=bundled", "resnet18") == ("resnet81", "bundled")  # timm has no such model
    file = tmp_path / "a=b.pth"
    assert teachers.named(str(file), "resnet18") == ("resnet18", str(file))
    monkeypatch.chdir(tmp_path)
    file.touch()
    assert teachers.named("a=b.pth", "resnet18") == ("resnet18", "a=b.pth")


def test_ranks_are_means_over_sets_and_metrics():
    values = np.array([[[3.0, 1, 2], [9, 9, 9]], [[1, 1, 3], [8, 8, 8]]])  # of two teachers on two sets
    assert mean_ranks(values).tolist() == pytest.approx([(1 + 1.5 + 2 + 3) / 6, (2 + 1.5 + 1 + 6) / 6])


def test_the_verdict_names_the_teacher_with_the_lowest_mean_rank():
    assert verdict(["a", "b", "c"], np.array([2.5, 1.5, 2])).splitlines()[1:] == [
        "b: mean rank 1.50 of 3",
        "c: mean rank 2.00 of 3",
        "chosen: b",
    ]
    assert verdict(["a", "b"], np.array([0.1 + 0.2, 0.3])).endswith("chosen: a or b")  # equal but for rounding


@pytest.mark.slow
def test_students_are_trained_once_and_compared(tmp_path, monkeypatch, capsys):
    write_mvtec(tmp_path / "data", train=9)
    fast = ["TrainingData.img_size=64", "TrainingData.crop_size=64"]
    monkeypatch.setattr(Candidate, "network", property(lambda c: ["backbone=resnet18", f"weights={c.weights}", *fast]))
    candidates = [Candidate("resnet18", "random"), Candidate("resnet18", "bundled")]
    arguments = (candidates, {"part": str(tmp_path / "data")}, tmp_path / "save")
    with killed_at_the_first_checkpoint(monkeypatch):
        compare(*arguments, steps=5, seeds=2)
    capsys.readouterr()
    compare(*arguments, steps=3, seeds=2)
    table = capsys.readouterr().out
    assert table.count("| resnet18, random |") == table.count("| resnet18, bundled |") == 1
    assert (
        table.count("mean rank") == 2
        and table.splitlines()[-1].startswith("chosen: resnet18, ")
        and table.count("half of the spread") == 2
    )
    rows = (tmp_path / "save/rd/part-resnet18-random-3-1/training.csv").read_text().splitlines()
    assert len(rows) == 1 + 2  # 9 images are two batches of 8, so 3 steps need two epochs
    monkeypatch.setattr(students, "build_trainer", lambda *_: pytest.fail("trained a finished student again"))
    compare(*arguments, steps=3, seeds=2)
    assert capsys.readouterr().out == table


@pytest.mark.slow
def test_students_of_a_teacher_file_made_again_are_trained_again(tmp_path, monkeypatch, capsys):
    """An interrupted training with the file's earlier contents is not in the way."""
    data = write_mvtec(tmp_path / "data", train=9)
    fast = ["TrainingData.img_size=64", "TrainingData.crop_size=64"]
    network = Candidate.network.fget
    monkeypatch.setattr(Candidate, "network", property(lambda candidate: [*network(candidate), *fast]))
    file = tmp_path / "teacher.safetensors"
    arguments = ([Candidate("resnet18", str(file))], {"part": str(data)}, tmp_path / "save")
    tables = []
    for seed in (0, 1):
        save_file(build_teacher("resnet18", [1, 2, 3], Source("random", None), seed).net.net.state_dict(), file)
        with killed_at_the_first_checkpoint(monkeypatch):
            compare(*arguments, steps=3, seeds=1)
        capsys.readouterr()
        compare(*arguments, steps=3, seeds=1)
        tables.append(capsys.readouterr().out)
    assert tables[0] != tables[1] and "spread" not in tables[0]  # of a single seed


def test_each_teacher_file_and_number_of_steps_has_its_own_folder(tmp_path):
    data = write_mvtec(tmp_path, train=2)
    long, wide = f"{'x' * 150}.safetensors", f"{'教' * 70}.safetensors"  # the second has 3 bytes a character
    for name, content in (
        ("a/resnet18.safetensors", b"a"),
        ("b/resnet18.safetensors", b"b"),
        (long, b"c"),
        (wide, b"d"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    files = [str(tmp_path / name) for name in ("a/resnet18.safetensors", "b/resnet18.safetensors", long, wide)]
    runs = [(file, steps, seed) for file in ("bundled", *files) for steps in (3, 4) for seed in (0, 1)]
    cells = [planned(Candidate("resnet18", file), "part", str(data), tmp_path, *rest) for file, *rest in runs]
    assert len({cell.folder for cell in cells}) == len(runs)


@pytest.mark.parametrize(
    ("teacher", "expected"),
    [
        ("tf_efficientnet_lite0=imgnet", "imgnet is not a file"),
        ("resnet81=bundled", "timm has no model 'resnet81'; did you mean"),
    ],
)
def test_a_mistake_in_the_last_teacher_is_found_before_the_first_training(tmp_path, monkeypatch, teacher, expected):
    data = write_mvtec(tmp_path, train=1)
    monkeypatch.setattr(students, "measured", lambda _: pytest.fail("trained"))
    candidates = [Candidate(*teachers.named(each, "resnet18")) for each in ("random", teacher)]
    with pytest.raises(UserError, match=expected):
        compare(candidates, {"part": str(data)}, tmp_path / "save", steps=1, seeds=1)


def test_students_have_the_border_and_the_arithmetic_of_the_study_of_all_methods(tmp_path):
    data = write_mvtec(tmp_path, train=1)
    for backbone, weights, teacher in (
        ("tf_efficientnet_lite0", "imagenet", "lite0"),
        ("resnet18", "bundled", "bundled"),
    ):
        study = read_study(str(REPO / "benchmarks/methods.yaml"), {"methods": ["rd"], "teachers": [teacher]}, [])
        wanted = plan(study, ["weave"], benchmark.checked)[0].config
        found = planned(Candidate(backbone, weights), "part", str(data), tmp_path, 1, 0).config
        assert found["TrainingData"]["border"] == wanted["TrainingData"]["border"] == (teacher == "lite0")
        assert found["precision"] == wanted["precision"] == "fp32"


def test_a_pdn_is_not_compared_with_a_network_of_levels():
    """Without --students, a PDN's map would be shifted in the images of the other network."""
    with pytest.raises(UserError, match="a PDN can only be compared with other PDNs"):
        teachers.common_kind(["resnet18", "pdn_small"])
    assert teachers.common_kind(["pdn_small", "pdn_medium"]) == "pdn_small"
    assert Candidate("pdn_small", "bundled").length(7, 100) == ["TrainingData.steps=7"]
