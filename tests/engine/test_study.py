"""What a comparison compares: files, flags, and rules for some of its runs."""

import pytest
import yaml

from engine.cells import plan
from engine.study import read_study
from tests.conftest import REPO
from trainer import TRAINERS, read_run
from utils.errors import UserError

METHODS = str(REPO / "benchmarks/methods.yaml")


def words_of(study, method, teacher, category="weave"):
    """The key=value words of the runs with this method and teacher, without those that every run has."""
    cells = plan(study, [category], lambda *_: {})
    (words,) = {cell.words[5:] for cell in cells if (cell.method, cell.teacher) == (method, teacher)} or {None}
    return words


@pytest.fixture
def written(tmp_path):
    def write(**content):
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        return str(tmp_path / "study.yaml")

    return write


def test_the_study_of_all_methods_has_each_of_them():
    study = read_study(METHODS, {}, [])
    assert set(study.methods) == set(TRAINERS) and list(study.teachers) == ["bundled", "lite0"] and study.seeds == 3
    assert len(plan(study, study.obj, lambda *_: {})) == (8 * 2 - 1) * 6 * 3


def test_the_study_of_stpm_with_lite0_has_the_first_run_among_its_runs():
    study = read_study(str(REPO / "benchmarks/stpm.yaml"), {}, [])
    cells = {cell.teacher: read_run(cell.file, cell.words)[1] for cell in plan(study, ["weave"], lambda *_: {})}
    of_study = cells["border"].model_dump() | {"weights": "auto", "precision": "auto"}
    of_study["TrainingData"]["sigma"] = 2  # the study does not blur
    first = read_run(REPO / "config.yaml", [])[1].model_dump()
    assert {key for key in first if of_study[key] != first[key]} == {"run", "save_path", "seed"}
    assert len(cells) == 5 and cells["no_norm"].TrainingData.norm is False


@pytest.mark.parametrize("path", sorted(REPO.glob("benchmarks/*.yaml")), ids=lambda path: path.stem)
def test_every_study_has_keys_and_values_that_exist(path):
    study = read_study(str(path), {}, [])
    cells = plan(study, study.obj[:1], lambda *_: {})
    assert cells and all(read_run(cell.file, cell.words) for cell in cells)


def test_rules_give_words_to_some_runs_and_leave_others_out():
    study = read_study(METHODS, {}, [])
    assert words_of(study, "ead", "bundled") == (
        "weights=bundled",
        "precision=fp32",
        "data_path=demo_data",
        "TrainingData.steps=2000",
    )
    assert words_of(study, "ead", "lite0") is None
    assert words_of(study, "st", "bundled", "magnetic_tile") == (
        "weights=bundled",
        "precision=fp32",
        "backbone=resnet18.tv_in1k",
        "TrainingData.epochs=4",
    )
    assert "backbone=[tf_efficientnet_lite0.in1k,tf_efficientnet_lite0.in1k]" in words_of(study, "mixed", "lite0")


def test_flags_replace_the_values_of_the_file_and_words_come_last():
    study = read_study(METHODS, {"teachers": ["lite0"], "methods": ["rd"], "seeds": None}, ["TrainingData.epochs=1"])
    assert study.methods == ["rd"] and list(study.teachers) == ["lite0"] and study.seeds == 3
    assert words_of(study, "rd", "lite0")[-1] == "TrainingData.epochs=1"
    other = read_study(METHODS, {"teachers": ["resnet34=random"]}, [])
    assert words_of(other, "rd", "resnet34=random")[:2] == ("backbone=resnet34", "weights=random")


@pytest.mark.parametrize("teachers", [["lite"], ["resnet34=random", "lite"], ["lite0", "resnet34=random"]])
def test_where_a_file_names_teachers_another_name_is_a_mistake(teachers):
    expected = rf"'{teachers[-1]}' is not among those that .*methods.yaml names \(bundled, lite0\)"
    with pytest.raises(UserError, match=expected):
        read_study(METHODS, {"teachers": teachers}, [])


def test_without_a_file_the_flags_are_enough():
    study = read_study(None, {"methods": ["st"]}, [])
    assert (study.obj, study.teachers, study.data_path) == ("all", ["default"], "demo_data")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"methods": ["xy"]}, "there is no method 'xy' .*rnst"),
        ({"methods": ["st"], "where": [{"methods": ["xy"]}]}, "there is no method 'xy'"),
        ({"methods": ["st"], "teachers": {"a": []}, "where": [{"teachers": ["b"]}]}, "there is no teacher 'b' .*: a"),
        ({"methods": ["st"], "seed": 3}, "unknown key 'seed'. Did you mean 'seeds'"),
        ({"methods": ["st"], "words": ["epochs"]}, "'words'.* must be key=value, such as .*'epochs'"),
        ({"methods": ["st"], "seeds": 0}, "'seeds' must be at least 1"),
        ({"obj": ["a"]}, "such as --methods st rd"),
        ({"methods": ["st"], "words": ["seed=3"]}, "seed=3: a benchmark sets seed for each run; use --seeds"),
        ({"methods": ["st"], "where": [{"words": ["run=mine"]}]}, "run=mine: a benchmark sets run for each run"),
        ({"methods": ["st"], "teachers": {"a": ["save_path=b"]}}, "save_path=b: .* use --save_path"),
    ],
)
def test_a_mistake_in_the_file_is_named(written, content, expected):
    with pytest.raises(UserError, match=expected):
        read_study(written(**content), {}, [])


def test_a_rule_may_name_the_data_of_a_category(written):
    rule = {"obj": ["weave"], "words": ["data_path=demo_data"]}
    study = read_study(written(methods=["st"], where=[rule]), {}, [])
    assert words_of(study, "st", "default") == ("data_path=demo_data",)
    with pytest.raises(UserError, match="data_path=there: .* use --data_path"):
        read_study(None, {"methods": ["st"]}, ["data_path=there"])
