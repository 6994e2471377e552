"""Reading a configuration: the file, what the command line changes, and where a mistake is."""

import pytest

from tests.utils.configs import MINIMAL, check, check_pair, mistake
from utils.config_file import read_config
from utils.errors import UserError


def test_overrides_are_yaml_and_win():
    config = check(["obj=zipper", "TrainingData.epochs=7", "out_indice=[2, 3]", "training_data.img_size=128"])
    assert (config.obj, config.TrainingData.epochs, config.out_indice) == ("zipper", 7, [2, 3])
    assert config.TrainingData.img_size == config.TrainingData.crop_size == (128, 128)


def test_training_data_is_another_name_of_the_section():
    assert check(training_data={"epochs": 3}).TrainingData.epochs == 3
    with pytest.raises(UserError, match="another name"):
        check(training_data={"epochs": 3}, TrainingData={"epochs": 3})


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("obj.x=1", "'obj' has no keys of its own"),
        ("obj", "'obj' is not of the form key=value, such as TrainingData.epochs=10"),
        ("=3", "'=3' is not of the form key=value"),
    ],
)
def test_an_override_that_cannot_be_applied_is_one_sentence_that_says_so(override, said):
    assert said in mistake(override)


@pytest.mark.parametrize(
    "name", ["01", "2024-01-15", "2024-13-45", "null", "true", "*x", "a: b", "[7]", "{x}", "run #3"]
)
def test_a_key_that_is_text_takes_the_words_as_they_are(name):
    assert check([f"obj={name}"]).obj == name
    assert check([f"save_path=/x/{name}"]).save_path == f"/x/{name}"
    assert check([f"run={name}"]).run == (None if name == "null" else name)


def test_null_leaves_out_a_key_that_may_be_left_out():
    section = {"roi": "roi.png"}
    config = check(["part_pattern=~", "TrainingData.roi=null"], part_pattern="^a", TrainingData=section)
    assert config.part_pattern is None and config.TrainingData.roi is None
    assert check(["run='null'"]).run == "null"


def test_quotes_around_a_text_are_not_part_of_it():
    assert check(["obj='01'"]).obj == "01"
    assert check(['obj="screw"']).obj == "screw"


def test_a_text_that_may_be_a_list_is_one_in_brackets():
    assert check_pair("weights=[a, b #1]").weights == "[a, b #1]"  # no YAML
    assert check_pair("weights=[a, 'b #1']").weights == ["a", "b #1"]
    assert check_pair("weights=/x/run #3").weights == "/x/run #3"


@pytest.mark.parametrize("same", [256, [256, 256]])
def test_what_was_the_whole_image_stays_the_whole_image(same):
    section = {"img_size": 256, "crop_size": same}
    options = check(["TrainingData.img_size=64"], TrainingData=section).TrainingData
    assert options.img_size == options.crop_size == (64, 64)
    options = check(["TrainingData.img_size=512", "TrainingData.crop_size=256"], TrainingData=section).TrainingData
    assert (options.img_size, options.crop_size) == ((512, 512), (256, 256))
    options = check(["TrainingData.crop_size=128"], TrainingData=section).TrainingData
    assert (options.img_size, options.crop_size) == ((256, 256), (128, 128))


def test_a_crop_of_the_middle_is_not_moved():
    section = {"img_size": 256, "crop_size": 224}
    assert check(["TrainingData.img_size=512"], TrainingData=section).TrainingData.crop_size == (224, 224)
    with pytest.raises(UserError, match="^command line: 'TrainingData': crop_size 224 x 224 is larger than img_size"):
        check(["TrainingData.img_size=128"], TrainingData=section)


def test_a_mistake_is_blamed_on_where_it_stands():
    with pytest.raises(UserError, match="^my.yaml: 'seed'"):
        check(["obj=x"], seed=-1)
    with pytest.raises(UserError, match="^command line: 'seed'"):
        check(["seed=-1"])
    section = {"img_size": 64, "crop_size": 96}
    with pytest.raises(UserError, match="^my.yaml: 'TrainingData': crop_size"):
        check(["TrainingData.epochs=3"], TrainingData=section)
    with pytest.raises(UserError, match="^my.yaml: 'TrainingData.lr'"):
        check(["TrainingData.epochs=3"], TrainingData={"lr": -1})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: [1", "is not valid YAML: line 1: "),
        ('data_path: "C:\\data"', "has a special meaning in double quotes: use single quotes"),
        ("- 1", "has no keys"),
        ("", "has no keys"),
        (b"\xff\xfe\x00", "cannot be read: it is not UTF-8 text"),
    ],
    ids=lambda text: text[:20] if isinstance(text, str) else None,
)
def test_a_file_that_cannot_be_used_is_named_with_the_line(content, said, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        read_config(path)
    sentence = str(error.value)
    assert sentence.startswith(f"config file {path} ") and said in sentence and "\n" not in sentence


def test_a_file_that_is_not_there_is_named(tmp_path, monkeypatch):
    for path in (tmp_path / "nowhere.yaml", tmp_path, tmp_path / ("x" * 300)):
        with pytest.raises(UserError, match="^config file .* cannot be read: "):
            read_config(path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="did you mean /.*/configs/configRD.yaml"):
        read_config("configs/configRD.yaml")


def test_the_source_is_left_alone():
    raw = MINIMAL | {"TrainingData": {"epochs": 3}}
    read_config(raw, ["TrainingData.epochs=9", "obj=x"])
    assert raw == MINIMAL | {"TrainingData": {"epochs": 3}}
