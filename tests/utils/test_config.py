import pytest
import yaml

from trainer.stpm import STPMTrainer
from utils.config import Config, check_config, read_config
from utils.errors import UserError

MINIMAL = {"data_path": "d", "distillType": "st", "backbone": "resnet18", "obj": "screw"}


def check(overrides=(), **keys):
    return check_config(read_config(MINIMAL | keys, overrides), Config[STPMTrainer.Options])


def test_defaults_are_the_papers():
    options = check().TrainingData
    assert (options.epochs, options.batch_size, options.lr, options.val_ratio) == (100, 32, 0.4, 0.2)
    assert options.img_size == options.crop_size == (256, 256)
    assert options.norm and options.sigma == 0


def test_overrides_are_yaml_and_win():
    config = check(["obj=zipper", "TrainingData.epochs=7", "out_indice=[2, 3]", "training_data.img_size=128"])
    assert (config.obj, config.TrainingData.epochs, config.out_indice) == ("zipper", 7, [2, 3])
    assert config.TrainingData.img_size == config.TrainingData.crop_size == (128, 128)


def test_training_data_alias():
    assert check(training_data={"epochs": 3}).TrainingData.epochs == 3
    with pytest.raises(UserError, match="another name"):
        check(training_data={"epochs": 3}, TrainingData={"epochs": 3})


@pytest.mark.parametrize("text", ["4e-4", "4.0e-4", "0.0004", "4E-4"])
def test_the_value_in_the_file_is_the_value_used(text):
    """YAML 1.1 reads 4e-4 as text; it means a number all the same."""
    assert check([f"TrainingData.lr={text}"]).TrainingData.lr == 0.0004


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("bakcbone=resnet18", ["bakcbone", "Did you mean 'backbone'"]),
        ("TrainingData.bachsize=3", ["TrainingData.bachsize", "'TrainingData.batch_size'"]),
        ("epochs=3", ["unknown key 'epochs'", "'TrainingData.epochs'"]),
        ("TrainingData.backbone=x", ["'backbone'"]),
        ("zzzzzz=1", ["Known keys", "data_path"]),
        ("TrainingData.epochs=ten", ["TrainingData.epochs", "'ten'"]),
        ("TrainingData.epochs=2.5", ["TrainingData.epochs", "2.5"]),
        ("TrainingData.epochs=true", ["TrainingData.epochs", "True"]),
        ("TrainingData.epochs=0", ["TrainingData.epochs", "greater than 0"]),
        ("TrainingData.lr=-0.4", ["TrainingData.lr", "greater than 0", "-0.4"]),
        ("TrainingData.lr=.nan", ["TrainingData.lr"]),
        ("TrainingData.lr=fast", ["TrainingData.lr", "'fast'"]),
        ("TrainingData.val_ratio=1", ["TrainingData.val_ratio", "less than 1"]),
        ("TrainingData.img_size=[256]", ["TrainingData.img_size"]),
        ("TrainingData.img_size=8", ["TrainingData.img_size", "32"]),
        ("TrainingData.crop_size=512", ["TrainingData", "larger than img_size"]),
        ("TrainingData.norm=maybe", ["TrainingData.norm"]),
        ("TrainingData=3", ["TrainingData"]),
        ("out_indice=2", ["out_indice", "list"]),
        ("out_indice=[]", ["out_indice"]),
        ("out_indice=[3, 1]", ["out_indice", "increasing"]),
        ("out_indice=[1, x]", ["out_indice"]),
        ("obj=[7]", ["obj", "string", "7"]),
        ("obj=../x", ["obj", "one folder"]),
        ("obj=", ["obj"]),
        ("phase=training", ["phase", "train"]),
        ("device=gpu", ["device"]),
        ("precision=int8", ["precision"]),
        ("seed=-1", ["seed"]),
        ("workers=-1", ["workers"]),
        ("resume=sometimes", ["resume"]),
        ("obj.x=1", ["no keys below"]),
        ("obj", ["key=value"]),
        ("obj=[", ["not valid YAML"]),
    ],
)
def test_a_wrong_key_or_value_is_one_sentence_that_names_it(override, words):
    with pytest.raises(UserError) as error:
        check([override])
    sentence = str(error.value)
    assert "\n" not in sentence
    for word in words:
        assert word in sentence


def test_a_dotted_key_in_a_file_is_explained():
    with pytest.raises(UserError, match="'TrainingData.epochs' must stand below 'TrainingData:'"):
        check(**{"TrainingData.epochs": 3})


def test_a_mistake_is_blamed_on_where_it_stands():
    raw = MINIMAL | {"seed": -1}
    with pytest.raises(UserError, match="^my.yaml: 'seed'"):
        check_config(raw, Config[STPMTrainer.Options], "my.yaml", ["obj=x"])
    with pytest.raises(UserError, match="^command line: 'seed'"):
        check_config(raw, Config[STPMTrainer.Options], "my.yaml", ["seed=-1"])


def test_a_category_of_digits_is_text():
    assert check(["obj=01"]).obj == "01"
    with pytest.raises(UserError, match="'obj'.*got 1; write it in quotes"):
        check(obj=1)


def test_missing_key_is_named():
    raw = {key: value for key, value in MINIMAL.items() if key != "obj"}
    with pytest.raises(UserError, match="key 'obj' is missing"):
        check_config(read_config(raw), Config[STPMTrainer.Options])


def test_file_problems_name_the_file(tmp_path):
    with pytest.raises(UserError, match="nowhere.yaml cannot be read"):
        read_config(tmp_path / "nowhere.yaml")
    bad = tmp_path / "bad.yaml"
    for content, words in {"a: [1": "not valid YAML", "- 1": "holds no keys", "": "holds no keys"}.items():
        bad.write_text(content)
        with pytest.raises(UserError, match=f"bad.yaml.*{words}"):
            read_config(bad)
    bad.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="bad.yaml"):
        read_config(bad)


def test_the_source_is_left_alone():
    raw = MINIMAL | {"TrainingData": {"epochs": 3}}
    read_config(raw, ["TrainingData.epochs=9", "obj=x"])
    assert raw == MINIMAL | {"TrainingData": {"epochs": 3}}


def test_a_written_config_reads_back_equal():
    config = check(["TrainingData.img_size=[64, 128]", "TrainingData.crop_size=[64, 96]"])
    again = check_config(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json"))), Config[STPMTrainer.Options])
    assert again == config and again.TrainingData.crop_size == (64, 96)
