import pytest
import yaml

from trainer.mixed import MixedTrainer
from trainer.stpm import STPMTrainer
from utils.config import Config, result_settings
from utils.config_file import check_config, read_config
from utils.errors import UserError

MINIMAL = {"data_path": "d", "distillType": "st", "backbone": "resnet18", "obj": "screw"}
PAIR = MINIMAL | {"distillType": "mixed", "backbone": ["resnet18", "resnet18"]}


def check(overrides=(), **keys):
    return check_config(read_config(MINIMAL | keys, overrides), Config[STPMTrainer.Options], "my.yaml", overrides)


def check_pair(*overrides):
    model = MixedTrainer.Config[MixedTrainer.Options]
    return check_config(read_config(PAIR, overrides), model, "my.yaml", overrides)


def test_defaults_are_the_papers():
    options = check().TrainingData
    assert (options.epochs, options.batch_size, options.lr, options.val_ratio) == (100, 32, 0.4, 0.2)
    assert options.img_size == options.crop_size == (256, 256)
    assert options.norm and options.sigma == 0


def test_overrides_are_yaml_and_win():
    config = check(["obj=zipper", "TrainingData.epochs=7", "out_indice=[2, 3]", "training_data.img_size=128"])
    assert (config.obj, config.TrainingData.epochs, config.out_indice) == ("zipper", 7, [2, 3])
    assert config.TrainingData.img_size == config.TrainingData.crop_size == (128, 128)


def test_training_data_is_another_name_of_the_section():
    assert check(training_data={"epochs": 3}).TrainingData.epochs == 3
    with pytest.raises(UserError, match="another name"):
        check(training_data={"epochs": 3}, TrainingData={"epochs": 3})


@pytest.mark.parametrize("text", ["4e-4", "4.0e-4", "0.0004", "4E-4"])
def test_the_value_in_the_file_is_the_value_used(text):
    """YAML 1.1 reads 4e-4 as text, but it means a number."""
    assert check([f"TrainingData.lr={text}"]).TrainingData.lr == 0.0004


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("bakcbone=resnet18", "unknown key 'bakcbone'. Did you mean 'backbone'?"),
        ("TrainingData.bachsize=3", "unknown key 'TrainingData.bachsize'. Did you mean 'TrainingData.batch_size'?"),
        ("epochs=3", "unknown key 'epochs'. Did you mean 'TrainingData.epochs'?"),
        ("TrainingData.backbone=x", "unknown key 'TrainingData.backbone'. Did you mean 'backbone'?"),
        ("zzzzzz=1", "unknown key 'zzzzzz'. Known keys: data_path, "),
        ("TrainingData.epochs=ten", "'TrainingData.epochs' must be a whole number (got 'ten')"),
        ("TrainingData.epochs=2.5", "'TrainingData.epochs' must be a whole number (got 2.5)"),
        ("TrainingData.epochs=true", "'TrainingData.epochs' must be a whole number (got true)"),
        ("TrainingData.epochs=10 # ten", "'TrainingData.epochs' must be a whole number (got '10 # ten')"),
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
        ("TrainingData.sigma=300", "'TrainingData': sigma 300 is wider than the image (crop_size 256)"),
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
        ("out_indice=[1, 2", "'out_indice' must be a list, such as [1, 2, 3] (got '[1, 2')"),
        ("out_indice=" + "[" * 3000, "'out_indice' must be a list"),
        ("obj=../x", "'obj' must be the name of one folder, not a path (got '../x')"),
        ("obj=", "'obj' must not be empty"),
        ("obj=" + "x" * 300, "'obj' is too long"),
        ('obj="a\\0b"', "'obj' must not contain line breaks or other control characters"),
        ("obj=caf\udce9", "'obj' must be text in UTF-8"),
        ("save_path=/x/" + "y" * 300, "'save_path' is too long"),
        ("save_path=" + "/x" * 2000, "'save_path' is too long"),
        ("phase=training", "'phase' must be train or test (got 'training')"),
        ("device=tpu", "'device' must be auto, cpu, cuda, or one of several GPUs by its number: cuda:0, cuda:1"),
        ("precision=int8", "'precision' must be auto, fp32, bf16 or fp16 (got 'int8')"),
        ("seed=-1", "'seed' must be at least 0 (got -1)"),
        ("seed=2024-13-45", "'seed' must be a whole number (got '2024-13-45')"),
        ("workers=-1", "'workers' must be at least 0 or auto (got -1)"),
        ("threads=0", "'threads' must be greater than 0 or auto (got 0)"),
        ("threads=many", "'threads' must be a whole number or auto (got 'many')"),
        ("compile=1", "'compile' must be true or false (got 1)"),
        ("resume=sometimes", "'resume' must be true or false"),
        ("obj.x=1", "'obj' has no keys of its own"),
        ("obj", "'obj' is not of the form key=value, such as TrainingData.epochs=10"),
        ("=3", "'=3' is not of the form key=value"),
    ],
    ids=lambda text: text[:40].encode("ascii", "replace").decode(),
)
def test_a_mistake_on_the_command_line_is_one_sentence_that_says_so(override, said):
    with pytest.raises(UserError) as error:
        check([override])
    sentence = str(error.value)
    assert sentence.startswith("command line: ") and said in sentence
    assert "\n" not in sentence and len(sentence) < 600


def test_what_else_a_key_may_be_is_said_too():
    with pytest.raises(UserError, match="'weights' must be text or a list of two, one for each pair .got ..a... *$"):
        check_pair("weights=[a]")
    with pytest.raises(UserError, match="'backbone' .value 2. must be text .got 3; write it in quotes"):
        check_pair("backbone=[a, 3]")


@pytest.mark.parametrize(
    "name", ["01", "2024-01-15", "2024-13-45", "null", "true", "*x", "a: b", "[7]", "{x}", "run #3"]
)
def test_a_key_that_is_text_takes_the_words_as_they_are(name):
    assert check([f"obj={name}"]).obj == name
    assert check([f"save_path=/x/{name}"]).save_path == f"/x/{name}"
    assert check([f"run={name}"]).run == name


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


def test_a_dotted_key_in_a_file_is_explained():
    with pytest.raises(UserError, match="'TrainingData.epochs' must be below 'TrainingData:'"):
        check(**{"TrainingData.epochs": 3})


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


def test_a_number_in_a_file_where_text_is_wanted_asks_for_quotes():
    with pytest.raises(UserError, match="'obj' must be text .got 1; write it in quotes"):
        check(obj=1)


def test_missing_key_is_named():
    raw = {key: value for key, value in MINIMAL.items() if key != "obj"}
    with pytest.raises(UserError, match="key 'obj' is missing"):
        check_config(read_config(raw), Config[STPMTrainer.Options])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: [1", "is not valid YAML: line 1: "),
        ("a: 1\n\tb: 2", "is not valid YAML: line 2: "),
        ("- 1", "has no keys"),
        ("", "has no keys"),
        (b"\xff\xfe\x00", "cannot be read: it is not UTF-8 text"),
        ("seed: 1\nobj: x\nseed: 2", "is not valid YAML: line 3: key 'seed' is given twice, first in line 1"),
        (
            "TrainingData:\n  lr: 1\nTrainingData:\n  epochs: 2",
            "is not valid YAML: line 3: key 'TrainingData' is given twice, first in line 1",
        ),
        ("TrainingData: {lr: 1, lr: 2}", "is not valid YAML: line 1: key 'lr' is given twice"),
        ("seed: " + "9" * 5000, "is not valid YAML: line 1: this number is too long"),
        ("seed: " + "[" * 5000, "is not valid YAML: it is nested too deeply"),
        ("seed: *x", "is not valid YAML: line 1: found undefined alias"),
        ("seed: !!python/name:os.system x", "is not valid YAML: line 1: "),
        ("obj: 'a\0b'", "is not valid YAML"),
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


def test_a_date_in_a_file_is_text(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("obj: 2024-01-15\nrun: 2024-13-45")
    assert read_config(path) == {"obj": "2024-01-15", "run": "2024-13-45"}


def test_the_source_is_left_alone():
    raw = MINIMAL | {"TrainingData": {"epochs": 3}}
    read_config(raw, ["TrainingData.epochs=9", "obj=x"])
    assert raw == MINIMAL | {"TrainingData": {"epochs": 3}}


def test_a_written_config_reads_back_equal():
    config = check(["TrainingData.img_size=[64, 128]", "TrainingData.crop_size=[64, 96]"])
    again = check_config(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json"))), Config[STPMTrainer.Options])
    assert again == config and again.TrainingData.crop_size == (64, 96)


def test_what_says_where_and_how_fast_is_no_setting_of_the_result():
    words = ["device=cuda:1", "threads=2", "compile=true", "workers=3", "cache_mb=0", "resume=false", "run=x"]
    assert result_settings(check(words)) == result_settings(check())
    assert result_settings(check(["seed=1"])) != result_settings(check())
