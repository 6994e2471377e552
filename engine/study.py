"""What a comparison compares: methods, categories, teachers and seeds, from a YAML file or from flags."""

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from utils.command import recipes
from utils.config import FilePath, Section, Text
from utils.config_file import check_config, read_config
from utils.errors import UserError

Names = Annotated[list[Text], Field(min_length=1)]


def _word(text: str) -> str:
    if not text.partition("=")[0] or "=" not in text:
        raise ValueError("must be key=value, such as TrainingData.epochs=50")
    return text


Words = list[Annotated[str, AfterValidator(_word)]]  # as after the command trainNet.py
SET_BY_STUDY = {  # keys that each run gets from its study, and what sets them
    "distillType": "use --methods, or methods in the file",
    "obj": "use --obj, or obj in the file",
    "seed": "use --seeds, or seeds in the file",
    "data_path": "use --data_path, or data_path in the file or in words of a rule",
    "save_path": "use --save_path, or save_path in the file",
    "run": "each run has a name from its teacher and its seed",
    "phase": "each run is trained and tested",
}


class Rule(Section):
    """Words for some runs, or runs that are left out; a key that is not given means all of its kind."""

    methods: Names | None = None
    obj: Names | None = None
    teachers: Names | None = None
    words: Words = []
    skip: bool = False

    def holds(self, method: str, category: str, teacher: str) -> bool:
        """Whether it is about this run."""
        pairs = ((self.methods, method), (self.obj, category), (self.teachers, teacher))
        return all(names is None or name in names for names, name in pairs)


class Study(Section):
    """A teacher is `default`, that of the method's file, or BACKBONE=WEIGHTS, or only one of both, or has words.

    Later words win: those of the teacher, `words`, then those of each rule in `where` that holds for the run.
    """

    methods: Names
    obj: Names | Literal["all"] = "all"
    teachers: Names | Annotated[dict[Text, Words], Field(min_length=1)] = ["default"]
    seeds: Annotated[int, Field(ge=1, le=1000)] = 3  # 0, 1, ...
    data_path: FilePath = "demo_data"
    save_path: FilePath = "results/benchmark"
    words: Words = []
    where: list[Rule] = []


def read_study(file: str | None, flags: Mapping[str, Any], words: Sequence[str]) -> Study:
    """The study of a YAML file, if one is given, with the values of flags in place of its own, and then `words`.

    `--teachers` may choose among those that the file names, or replace them by BACKBONE=WEIGHTS.
    Raises UserError naming the wrong key or flag, and methods or teachers that do not exist.
    """
    raw = read_config(file) if file else {}
    given = {key: value for key, value in flags.items() if value is not None}
    named = raw.get("teachers")
    if "teachers" in given and isinstance(named, dict):
        given["teachers"] = _chosen(given["teachers"], named, file)
    if "methods" not in raw | given:
        raise UserError("methods: give the methods to compare, such as --methods st rd")
    study = check_config(raw | given, Study, file or "command line")
    known = [method for method, *_ in recipes("configs", "distillType")]
    for names in (study.methods, *(rule.methods or () for rule in study.where)):
        _check_known(names, known, "methods")
    teachers = study.teachers.values() if isinstance(study.teachers, dict) else ()
    for each in (words, study.words, *teachers):
        _check_free(each, SET_BY_STUDY)
    for rule in study.where:
        _check_free(rule.words, SET_BY_STUDY.keys() - {"data_path"})
    if isinstance(named, dict):
        for rule in study.where:
            _check_known(rule.teachers or (), list(named), "teachers")
    return study.model_copy(update={"where": [*study.where, Rule(words=list(words))]})


def _chosen(teachers: list[str], named: dict[str, Any], file: str) -> dict[str, Any] | list[str]:
    unknown = [teacher for teacher in teachers if teacher not in named]
    if not unknown:
        return {teacher: named[teacher] for teacher in teachers}
    mixed = unknown if len(unknown) < len(teachers) else []
    if wrong := [teacher for teacher in unknown if "=" not in teacher] or mixed:
        raise UserError(
            f"teachers: '{wrong[0]}' is not among those that {file} names ({', '.join(map(str, named))}); give only "
            "these, or only BACKBONE=WEIGHTS"
        )
    return teachers


def _check_free(words: Sequence[str], keys: Collection[str]) -> None:
    for word in words:
        if (key := word.partition("=")[0]) in keys:
            raise UserError(f"{word}: a benchmark sets {key} for each run; {SET_BY_STUDY[key]}")


def _check_known(names: Any, known: list[str], key: str) -> None:
    for name in names:
        if name not in known:
            raise UserError(f"{key}: there is no {key.removesuffix('s')} '{name}' (there are: {', '.join(known)})")
