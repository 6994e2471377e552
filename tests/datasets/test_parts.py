"""Which pictures show the same part."""

from pathlib import Path

import pytest

from datasets.parts import parts_of
from utils.errors import UserError

FILES = [Path("a/12_left.png"), Path("a/12_right.png"), Path("a/7_left.png")]


def test_a_match_or_its_first_group_names_the_part():
    assert parts_of(FILES, r"^\d+") == parts_of(FILES, r"^(\d+)_(left|right)") == ["12", "12", "7"]


def test_without_a_pattern_each_file_is_a_part():
    assert parts_of(FILES, None) == ["a/12_left.png", "a/12_right.png", "a/7_left.png"]


def test_a_file_without_a_match_and_a_wrong_expression_are_named():
    with pytest.raises(UserError, match="part_pattern: 'x' finds nothing in the name of a/12_left.png"):
        parts_of(FILES, "x")
    with pytest.raises(UserError, match=r"part_pattern: '\(' is not a regular expression"):
        parts_of(FILES, "(")
