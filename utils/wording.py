"""Values in words: an error of pydantic as a sentence that says which values are possible."""

import difflib
from collections.abc import Sequence
from typing import Any

# Type of a pydantic error -> which values are possible. The words in braces come from the error.
RULES = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a smaller number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "string_unicode": "must be text in UTF-8",
    "string_too_short": "must not be empty",
    "string_pattern_mismatch": "is not of the right form",
    "list_type": "must be a list, such as [1, 2, 3]",
    "tuple_type": "must be a list, such as [1, 2, 3]",
    "too_short": "must have at least {min_length} value",
    "too_long": "must have at most {max_length} values",
    "greater_than": "must be greater than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:,.15g}",
    "literal_error": "must be {expected}",
    "none_required": "must be empty",
    "model_type": "must have keys of its own, one a line below it",
    "dict_type": "must have keys of its own, one a line below it",
    "recursion_loop": "must not contain itself",
}


def sentence(errors: Sequence[dict[str, Any]], known: Sequence[str], methods: Sequence[str] = ()) -> str:
    """The first of pydantic's `errors` and the values its key may have, as a sentence.

    `known` are all dotted keys, and `methods` are the other methods that have the key of this error.
    """
    error = errors[0]
    path = dotted(error)
    key = next((start for start in _starts(path) if start in known), path)
    if error["type"] == "invalid_key":
        return f"'{key}' is not a key: keys are text"
    if error["type"] == "extra_forbidden" and path in known and len(error["loc"]) == 1:
        return f"key '{path}' must be below '{path.partition('.')[0]}:', indented and without the prefix"
    if error["type"] == "extra_forbidden" and methods:
        return f"unknown key '{path}' for this method (it is a key of {', '.join(methods)}).{_beside(path, known)}"
    if error["type"] == "extra_forbidden":
        return f"unknown key '{path}'.{_nearest(path, known)}"
    if error["type"] == "missing":
        return f"key '{path}' is missing"
    if not path:  # about several keys, which the rule names
        return _rule(error)
    rules = [_rule(each) for each in errors if dotted(each) == key or dotted(each).startswith(f"{key}.")]
    place = next((f" (value {part + 1})" for part in error["loc"] if isinstance(part, int)), "")
    colon = "" if rules[0].startswith(("must ", "is ")) else ":"
    got = "" if isinstance(error["input"], dict) else f" (got {shown(error['input'])}{_quotes(error)})"
    return f"'{key}'{place}{colon} {_either(rules)}{got}"


def joined(backbone: str | list[str]) -> str:
    """The backbones of a run, such as resnet18 + efficientnet_b0."""
    return backbone if isinstance(backbone, str) else " + ".join(backbone)


def dotted(error: dict[str, Any]) -> str:
    """The place of an error, such as TrainingData.img_size.0."""
    return ".".join(map(str, error["loc"]))


def shown(value: Any) -> str:
    """The given value, cut to a readable length."""
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, lists in lists
        return "too long to show"
    return text if len(text) <= 80 else f"{text[:60]}... of {len(text)} characters"


def _starts(path: str) -> list[str]:
    """a.b.c, a.b, a: candidates for a known key, without positions in a list and branches of a union."""
    words = path.split(".")
    return [".".join(words[:n]) for n in range(len(words), 0, -1)]


def _rule(error: dict[str, Any]) -> str:
    """The possible values by one error; our own validators raise the complete sentence."""
    if error["type"] == "value_error":
        return error["msg"].removeprefix("Value error, ")
    rule = RULES.get(error["type"], error["msg"])
    words = dict(error.get("ctx", {}))
    if "expected" in words:  # 'a', 'b' or True
        words["expected"] = words["expected"].replace("'", "").replace("True", "true").replace("False", "false")
    return rule.format(**words)


def _either(rules: Sequence[str]) -> str:
    """The rules joined with "or": must be a whole number or auto."""
    rules = list(dict.fromkeys(rules))
    if all(rule.startswith("must be ") for rule in rules):
        either = ", or " if any("," in rule for rule in rules[:-1]) else " or "
        return either.join([rules[0], *(rule.removeprefix("must be ") for rule in rules[1:])])
    return rules[0]


def _quotes(error: dict[str, Any]) -> str:
    is_scalar = isinstance(error["input"], int | float)
    return "; write it in quotes" if error["type"] == "string_type" and is_scalar else ""


def _nearest(key: str, known: Sequence[str]) -> str:
    """The known key most similar to a misspelt one; a key in the wrong section is found by its last word."""
    last = key.rpartition(".")[2].lower()
    words = {name.rpartition(".")[2].lower(): name for name in known}
    close = difflib.get_close_matches(last, words, n=1)
    return f" Did you mean '{words[close[0]]}'?" if close else _beside(key, known)


def _beside(key: str, known: Sequence[str]) -> str:
    """The known keys of the section of an unknown one."""
    beside = [name for name in known if name.rpartition(".")[0] == key.rpartition(".")[0]]
    return f" Known keys: {', '.join(beside or known)}."
