"""The keys of a configuration: their defaults, and the values that they take."""

import pytest
import yaml

from tests.utils.configs import check, mistake, short
from trainer.stpm import STPMTrainer
from utils.config import Config, result_settings
from utils.config_file import check_config


def test_defaults_are_the_papers():
    options = check().TrainingData
    assert (options.epochs, options.batch_size, options.lr, options.val_ratio) == (100, 32, 0.4, 0.2)
    assert options.img_size == options.crop_size == (256, 256)
    assert options.norm and options.sigma == 0


@pytest.mark.parametrize("text", ["4e-4", "4.0e-4", "0.0004", "4E-4"])
def test_the_value_in_the_file_is_the_value_used(text):
    """YAML 1.1 reads 4e-4 as text, but it means a number."""
    assert check([f"TrainingData.lr={text}"]).TrainingData.lr == 0.0004


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("TrainingData.epochs=ten", "'TrainingData.epochs' must be a whole number (got 'ten')"),
        ("TrainingData.epochs=2.5", "'TrainingData.epochs' must be a whole number (got 2.5)"),
        ("TrainingData.epochs=true", "'TrainingData.epochs' must be a whole number (got true)"),
        ("TrainingData.epochs=0", "'TrainingData.epochs' must be greater than 0 (got 0)"),
        ("TrainingData.batch_size=1" + "0" * 20, "'TrainingData.batch_size' must be at most 1,000,000,000"),
        ("TrainingData.batch_size=0x" + "f" * 5000, "'TrainingData.batch_size' must be at most 1,000,000,000"),
        ("TrainingData.batch_size=" + "9" * 5000, "'TrainingData.batch_size' must be a whole number"),
        ("TrainingData.lr=-0.4", "'TrainingData.lr' must be greater than 0 (got -0.4)"),
        ("TrainingData.lr=.nan", "'TrainingData.lr' must be a finite number"),
        ("TrainingData.lr=fast", "'TrainingData.lr' must be a number (got 'fast')"),
        ("TrainingData.lr=1e300", "'TrainingData.lr' must be at most 1,000 (got '1e300')"),
        ("TrainingData.lr=1" + "0" * 400, "'TrainingData.lr' must be a finite number"),
        ("TrainingData.val_ratio=1", "'TrainingData.val_ratio' must be less than 1 (got 1)"),
        ("TrainingData.sigma=1e9", "'TrainingData.sigma' must be at most 1,000,000"),
        ("TrainingData.sigma=300", "'TrainingData': sigma 300 is wider than the image (img_size 256)"),
        ("TrainingData.img_size=64px", "must be pixels from 32 to 8192: a whole number, or a list [height, width]"),
        ("TrainingData.img_size=[256]", "'TrainingData.img_size' must be pixels from 32 to 8192"),
        ("TrainingData.img_size=8", "'TrainingData.img_size' must be pixels from 32 to 8192"),
        ("TrainingData.img_size=", "(got nothing)"),
        ("TrainingData.img_size.x=8", "'TrainingData.img_size' must be pixels from 32 to 8192"),
        ("TrainingData.crop_size=512", "'TrainingData': crop_size 512 x 512 is larger than img_size 256 x 256"),
        ("TrainingData.norm=maybe", "'TrainingData.norm' must be true or false (got 'maybe')"),
        ("TrainingData=3", "'TrainingData' must have keys of its own"),
        ("out_indice=2", "'out_indice' must be a list, such as [1, 2, 3] (got 2)"),
        ("out_indice=[]", "'out_indice' must have at least 1 value"),
        ("out_indice=[3, 1]", "'out_indice' must be increasing"),
        ("out_indice=[1, 100]", "'out_indice' (value 2) must be at most 99 (got 100)"),
        ("out_indice=[-1, 2]", "'out_indice' (value 1) must be at least 0 (got -1)"),
        ("out_indice=[1, x]", "'out_indice' (value 2) must be a whole number (got 'x')"),
        ("obj=../x", "'obj' must be the name of one folder, not a path (got '../x')"),
        ("obj=", "'obj' must not be empty"),
        ("obj=" + "x" * 300, "'obj' is too long"),
        ('obj="a\\0b"', "'obj' must not contain control characters, such as \\n or \\t in double quotes"),
        ("obj=caf\udce9", "'obj' must be text in UTF-8"),
        ("save_path=/x/" + "y" * 300, "'save_path' is too long"),
        ("save_path=" + "/x" * 2000, "'save_path' is too long"),
        ("phase=training", "'phase' must be train or test (got 'training')"),
        ("device=tpu", "'device' must be auto, cpu, cuda, or one of several GPUs by its number: cuda:0, cuda:1"),
        ("precision=int8", "'precision' must be auto, fp32, bf16 or fp16 (got 'int8')"),
        ("seed=-1", "'seed' must be at least 0 (got -1)"),
        ("workers=-1", "'workers' must be at least 0 or auto (got -1)"),
        ("threads=0", "'threads' must be greater than 0 or auto (got 0)"),
        ("threads=many", "'threads' must be a whole number or auto (got 'many')"),
        ("compile=1", "'compile' must be true or false (got 1)"),
        ("calibration=some", "'calibration' must be a number between 0 and 1, none or cross (got 'some')"),
        ("calibration=1.5", "'calibration' must be a number between 0 and 1, none or cross (got '1.5')"),
        ("calibration=0", "'calibration' must be a number between 0 and 1, none or cross (got '0')"),
        ("calibration=5/2", "'calibration' must be a number between 0 and 1, none or cross (got '5/2')"),
        ("calibration=0/5", "'calibration' must be a number between 0 and 1, none or cross (got '0/5')"),
        ("resume=sometimes", "'resume' must be true or false"),
    ],
    ids=short,
)
def test_a_value_that_a_key_does_not_take_is_one_sentence_that_says_so(override, said):
    assert said in mistake(override)


@pytest.mark.parametrize(
    ("words", "key"),
    [("img_size=64", "img_size"), ("crop_size=64", "crop_size"), ("tile=64", "tile")],
)
def test_a_size_that_does_not_fit_is_blamed_on_the_key_that_was_given(words, key):
    assert check([f"TrainingData.{words}"]).TrainingData.input_key == key


def test_a_home_folder_in_a_file_is_the_users(monkeypatch):
    """A run went to a folder with the name ~."""
    monkeypatch.setenv("HOME", "/home/me")
    config = check(["save_path=~/results"], data_path="~/data", folder={"good": "~/parts"})
    assert (config.data_path, config.save_path, config.folder.good) == (
        "/home/me/data",
        "/home/me/results",
        ["/home/me/parts"],
    )


def test_a_written_config_reads_back_equal():
    config = check(["TrainingData.img_size=[64, 128]", "TrainingData.crop_size=[64, 96]"])
    again = check_config(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json"))), Config[STPMTrainer.Options])
    assert again == config and again.TrainingData.crop_size == (64, 96)


def test_what_says_where_and_how_fast_is_no_setting_of_the_result():
    words = ["device=cuda:1", "threads=2", "compile=true", "workers=3", "cache_mb=0", "resume=false", "run=x"]
    assert result_settings(check(words)) == result_settings(check())
    assert result_settings(check(["seed=1"])) != result_settings(check())
