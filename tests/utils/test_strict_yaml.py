"""Text that is not strict YAML, in a file and in a word of the command line."""

import pytest

from tests.utils.configs import mistake, short
from utils.config_file import read_config
from utils.strict_yaml import parse, parse_word


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: [1", "line 1: "),
        ("a: 1\n\tb: 2", "line 2: "),
        ("seed: 1\nobj: x\nseed: 2", "line 3: key 'seed' is given twice, first in line 1"),
        (
            "TrainingData:\n  lr: 1\nTrainingData:\n  epochs: 2",
            "line 3: key 'TrainingData' is given twice, first in line 1",
        ),
        ("TrainingData: {lr: 1, lr: 2}", "line 1: key 'lr' is given twice"),
        ("seed: " + "9" * 5000, "line 1: this number is too long"),
        ("seed: " + "[" * 5000, "it is nested too deeply"),
        ("seed: *x", "line 1: found undefined alias"),
        ("seed: !!python/name:os.system x", "line 1: "),
        ("obj: 'a\0b'", "special characters are not allowed"),
    ],
    ids=short,
)
def test_text_that_is_not_strict_yaml_is_one_line_that_says_where(content, said):
    with pytest.raises(ValueError) as error:
        parse(content)
    assert str(error.value).startswith(said) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("TrainingData.epochs=10 # ten", "'TrainingData.epochs' must be a whole number (got '10 # ten')"),
        ("out_indice=[1, 2", "'out_indice' must be a list, such as [1, 2, 3] (got '[1, 2')"),
        ("out_indice=" + "[" * 3000, "'out_indice' must be a list"),
        ("seed=2024-13-45", "'seed' must be a whole number (got '2024-13-45')"),
    ],
    ids=short,
)
def test_a_word_that_is_not_one_yaml_value_is_text(override, said):
    assert said in mistake(override)


def test_a_date_in_a_file_is_text(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("obj: 2024-01-15\nrun: 2024-13-45")
    assert read_config(path) == {"obj": "2024-01-15", "run": "2024-13-45"}


@pytest.mark.parametrize("name", ["01", "007", "2024_01", "0b11", "1:30"])
def test_a_name_of_digits_that_is_not_a_plain_number_is_text(name):
    """YAML 1.1 has numbers to the bases 8, 2 and 60, and with underscores."""
    assert parse(f"obj: [{name}, 12, -3, 0]") == {"obj": [name, 12, -3, 0]}
    assert parse_word(f"[{name}]") == [name]
