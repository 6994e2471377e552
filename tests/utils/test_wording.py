"""What is said about a wrong key or value, and what is possible instead."""

import pytest

from pretraining import RECIPES
from tests.conftest import REPO
from tests.utils.configs import MINIMAL, check, check_pair, mistake
from trainer.stpm import STPMTrainer
from utils.config import Config
from utils.config_file import check_config, read_config
from utils.errors import UserError


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("bakcbone=resnet18", "unknown key 'bakcbone'. Did you mean 'backbone'?"),
        ("TrainingData.bachsize=3", "unknown key 'TrainingData.bachsize'. Did you mean 'TrainingData.batch_size'?"),
        ("epochs=3", "unknown key 'epochs'. Did you mean 'TrainingData.epochs'?"),
        ("TrainingData.backbone=x", "unknown key 'TrainingData.backbone'. Did you mean 'backbone'?"),
        ("zzzzzz=1", "unknown key 'zzzzzz'. Known keys: data_path, "),
    ],
)
def test_an_unknown_key_is_told_the_most_similar_one(override, said):
    assert said in mistake(override)


def test_what_else_a_key_may_be_is_said_too():
    with pytest.raises(UserError, match="'weights' must be text or a list of two, one for each pair .got ..a... *$"):
        check_pair("weights=[a]")
    with pytest.raises(UserError, match="'backbone' .value 2. must be text .got 3; write it in quotes"):
        check_pair("backbone=[a, 3]")


def test_a_dotted_key_in_a_file_is_explained():
    with pytest.raises(UserError, match="'TrainingData.epochs' must be below 'TrainingData:'"):
        check(**{"TrainingData.epochs": 3})


def test_a_number_in_a_file_where_text_is_wanted_asks_for_quotes():
    with pytest.raises(UserError, match="'obj' must be text .got 1; write it in quotes"):
        check(obj=1)


def test_missing_key_is_named():
    raw = {key: value for key, value in MINIMAL.items() if key != "obj"}
    with pytest.raises(UserError, match="key 'obj' is missing"):
        check_config(read_config(raw), Config[STPMTrainer.Options])


def test_a_misspelt_key_is_named_rather_than_the_one_that_is_missing():
    raw = {"bakcbone" if key == "backbone" else key: value for key, value in MINIMAL.items()}
    with pytest.raises(UserError, match="unknown key 'bakcbone'. Did you mean 'backbone'?"):
        check_config(read_config(raw), Config[STPMTrainer.Options])


def test_a_mistake_about_several_keys_at_the_top_names_them():
    raw = read_config(REPO / "configs/teachers/resnet18.yaml") | {"img_size": 32, "crop_size": 64}
    with pytest.raises(UserError, match="^config: crop_size 64 is larger than img_size 32$"):
        check_config(raw, RECIPES[raw["recipe"]].Options)
