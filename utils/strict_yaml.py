"""Strict YAML: a key that is given twice is an error, and a date or a name such as 01 is text."""

import re
from typing import Any

import yaml

DATE, WHOLE = "tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:int"
PLAIN = re.compile("[-+]?(0|[1-9][0-9]*|0x[0-9a-fA-F]+)$")  # not 01 (base 8), 2024_01, 1:30 (base 60) of YAML 1.1


def parse(text: str) -> Any:
    """The value of `text`. Raises ValueError with one line that says what is wrong and where."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not readable"
        raise ValueError(f"{where}{problem}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse_word(text: str) -> Any:
    """The value of one command-line argument; the text itself if it is not YAML or contains more, such as a #."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        whole = node is None or node.end_mark.index == len(text.rstrip())
        return loader.construct_document(node) if node and whole else text or None
    except (yaml.YAMLError, RecursionError):
        return text


class _Loader(yaml.SafeLoader):  # a loader is a class to PyYAML
    # No key takes a date, a category may be called 2024-01-15 or 01, and PyYAML fails on 2024-13-45.
    yaml_implicit_resolvers = {
        first: [(tag, PLAIN if tag == WHOLE else pattern) for tag, pattern in resolvers if tag != DATE]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in lines:
                problem = f"key '{key.value}' is given twice, first in line {lines[key.value]}"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                lines[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError:  # Python cannot read more than 4,300 digits
            raise yaml.constructor.ConstructorError(None, None, "this number is too long", node.start_mark) from None
