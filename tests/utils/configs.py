"""Checked configurations, and what is said about a mistake in one."""

import pytest

from trainer.mixed import MixedTrainer
from trainer.stpm import STPMTrainer
from utils.config import Config
from utils.config_file import check_config, read_config
from utils.errors import UserError

MINIMAL = {"data_path": "d", "distillType": "st", "backbone": "resnet18", "obj": "screw"}
PAIR = MINIMAL | {"distillType": "mixed", "backbone": ["resnet18", "resnet18"]}


def check(overrides=(), **keys):
    return check_config(read_config(MINIMAL | keys, overrides), Config[STPMTrainer.Options], "my.yaml", overrides)


def check_pair(*overrides):
    model = MixedTrainer.Config[MixedTrainer.Options]
    return check_config(read_config(PAIR, overrides), model, "my.yaml", overrides)


def mistake(override):
    """The sentence about a mistake on the command line."""
    with pytest.raises(UserError) as error:
        check([override])
    sentence = str(error.value)
    assert sentence.startswith("command line: ")
    assert "\n" not in sentence and len(sentence) < 600
    return sentence


def short(text):
    """The name of a test with this parameter."""
    return text[:40].encode("ascii", "replace").decode()
