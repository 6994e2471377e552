"""Three hundred generated mistakes: each ends in exit code 2 and one sentence, and the finished run is not touched."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, UnionType
from typing import Annotated, Literal, NamedTuple, Union, get_args, get_origin

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import calibrate
import makeDemo
import predict
import pretrain
import trainNet
import visualization
from pretraining import RECIPES
from tests.conftest import REPO, run_script
from tests.scripts.conftest import Said, Workplace
from trainer import TRAINERS
from utils.command import recipes

pytestmark = pytest.mark.slow

CASES = 300
AS_PROCESS = 43  # one in so many runs as a process of its own

ODD = ["", "null", "true", "[", "{a: 1}", "*x", "&x", "!!python/name:os.system x", "2024-13-45", "10 # ten", "²", "١"]
ODD += ["9" * 5000, "0x" + "f" * 5000, "[" * 2000, "a: b", "'", "%s", "- 1", "\udce9"]
BAD = {
    int: [*ODD, "ten", "2.5", "-1", "1e300", str(10**20), "[1]", ".nan", "1e1"],
    float: [
        *(word for word in ODD if word != "١"),
        "fast",
        "-1",
        "-1e-9",
        ".nan",
        ".inf",
        "-.inf",
        "1e300",
        "1" + "0" * 400,
        "[0.1]",
        "1,5",
    ],
    bool: [*(word for word in ODD if word != "true"), "maybe", "1", "0.0", "[]", "truee"],
    tuple: [*ODD, "64px", "8", "31", "8193", "[64]", "[64, 64, 64]", "[64, x]", "64x64", "-64", "64.0", "[]"],
    list: [*ODD, "2", "[]", "[3, 1]", "[1, 1]", "[1, x]", "[1.5, 2]", "[[[1]]]", "[null]"],
    Literal: [*(word for word in ODD if word != "true"), "x", "[auto]", "0"],
    str: ["a\0b", "\udce9"],
}
NONE = ("", "null", "&x")  # YAML for no value
TEXT = {
    "data_path": ["", "nowhere", "config.yaml", "x" * 300, "a\0b", "a\nb", "\udce9", "/proc/1/nothing"],
    "obj": ["", ".", "..", "a/b", "../data/part", "x" * 300, "a\0b", "prat", "PART", "\udce9", "test"],
    "backbone": ["", "resnet81", "*x", "x" * 300, "a\0b", "resnet18.nobody", "[resnet18]", "../resnet18", "null"],
    "save_path": ["", "config.yaml", "config.yaml/x", "/proc/nothing", "x" * 300, "/x" * 3000, "a\0b", "\udce9"],
    "weights": ["", "nowhere.pth", "data", "config.yaml", "x" * 300, "a\0b", "\udce9", "Imagenet", "[random]"],
    "run": ["", "..", "a/b", "x" * 300, "a\0b", "\\", "\udce9"],
    "reader": ["", "mvtek", "x" * 300, "a\0b", "\udce9"],
    "distillType": ["", "stpm", "ST", "null", "*x", "[st]", "\udce9"],
    "device": ["", "tpu", "cuda:", "cuda:-1", "cuda:x", "cuda:77", "cuda:" + "9" * 30, "CPU", "²"],
    "penalty_path": ["", "x" * 300, "a\0b", "\udce9"],
}
JOB_TEXT = {
    "images": ["", "nowhere", "a\0b", "\udce9"],
    "backbone": TEXT["backbone"],
    "weights": ["", "nowhere.pth", "a\0b", "\udce9"],
    "save_path": TEXT["save_path"],
    "device": TEXT["device"],
    "recipe": ["", "paint", "null", "\udce9"],
}
FLAGS = {
    trainNet: [["--epochs", "3"], ["-x"], ["--config"], ["word"], ["=3"], [".=3"], ["--config", "data"]],
    visualization: [
        *(
            ["--images", word]
            for word in ("0", "-1", "²", "square/404", "x", "a,b", "9" * 5000, "square/000,", "\udce9")
        ),
        *(["--layers", word] for word in ("0", "3", "x", "²", "1,,2", "9" * 5000, "1-2", "", "\udce9")),
        *(["--channels", word] for word in ("0", "17", "x", "²", "1.5", "9" * 5000, "", "\udce9")),
    ],
    pretrain: [["--steps", "3"], ["--config", "config.yaml"], ["--config", "nowhere.yaml"], ["word"]],
    makeDemo: [
        *(["--size", word] for word in ("0", "31", "1000000", "x", "²", "1e3", "9" * 5000, "-64", "")),
        *(["--train", word] for word in ("-1", "x", "9" * 5000, "1000000000")),
        *(["--categories", word] for word in ("leather", "..", "", "\udce9", "weave/..")),
        *(["--root", word] for word in ("config.yaml", "config.yaml/x", "/proc/nothing", "x" * 300, "a\0b")),
        ["--colour", "red"],
        ["word"],
    ],
}


RUN, GOOD = "results/st/part", "data/part/test/good"
# For predict.py and calibrate.py: runs, folders of images, and other words.
NO_RUN = ["nowhere", "results", "config.yaml", "data/part", "x" * 300, "a\0b", "\udce9", "9" * 5000]
NO_IMAGES = ["nowhere", "results/none", "x" * 300, "a\0b", "\udce9", "9" * 5000]
NO_OUT = ["config.yaml", "config.yaml/x", "/proc/nothing", "x" * 300]
JUDGING_FLAGS = {
    predict: [
        *(["--out", word] for word in NO_OUT),
        *(["--pictures", word] for word in ("some", "", "\udce9")),
        *(["--maps", word] for word in ("png", "", "\udce9")),
        ["--watch", "config.yaml"],
        ["--watch", "--out", GOOD],
        ["--steps", "3"],
    ],
    calibrate: [["--image"], ["--out", "x"], ["--images"], ["word"]],
}


class Case(NamedTuple):
    script: ModuleType
    words: list[str | Path]
    names: list[str]  # the sentence must contain one of them
    damage: Callable[[Workplace], None] = lambda workplace: None


def pick_value(rng: random.Random, field, key: str, texts: dict[str, list[str]]) -> str:
    """Values that `key` cannot have."""
    if key in texts:
        return rng.choice(texts[key])
    kinds = kinds_of(field.annotation)
    words = next(BAD[kind] for kind in (bool, tuple, list, float, int, Literal, str) if kind in kinds)
    return rng.choice([word for word in words if type(None) not in kinds or word not in NONE])


def kinds_of(annotation) -> set:
    """The types that a field may have, such as int and list."""
    origin = get_origin(annotation)
    if origin in (Annotated, Union, UnionType):
        return set().union(*map(kinds_of, get_args(annotation)))
    return {origin or annotation}


def wrong_value(rng: random.Random) -> Case:
    """A wrong value of any key of any method, on the command line."""
    script = rng.choice([trainNet, visualization])
    method, file, _ = rng.choice(list(recipes("configs", "distillType")))
    trainer = TRAINERS[method]
    left_out = {"TrainingData", "folder", *(["phase"] if script is visualization else [])}  # it sets the phase
    fields = {key: field for key, field in trainer.Config.model_fields.items() if key not in left_out}
    below = {f"TrainingData.{key}": field for key, field in trainer.Options.model_fields.items()}
    key = rng.choice(list(fields | below))
    value = pick_value(rng, (fields | below)[key], key.rpartition(".")[2], TEXT)
    words = [f"{key}={value}"]
    if method != "st" and key not in ("data_path", "reader", "obj", "save_path", "weights", "device"):
        words = ["--config", REPO / file, *words]  # otherwise of the existing run, so that it gets that far
    return Case(script, words, [key.rpartition(".")[2], value or key])


def misspelt(rng: random.Random, word: str) -> str:
    place = rng.randrange(len(word))
    return word[:place] + rng.choice(["", "x", word[place].swapcase() + "_", "  "]) + word[place + 1 :]


def wrong_key(rng: random.Random) -> Case:
    method = TRAINERS["st"]
    key = rng.choice([*method.Config.model_fields, *(f"TrainingData.{key}" for key in method.Options.model_fields)])
    head, _, last = key.rpartition(".")
    wrong = f"{head}.{misspelt(rng, last)}" if head and rng.random() < 0.7 else misspelt(rng, key.replace(".", ""))
    return Case(rng.choice([trainNet, visualization]), [f"{wrong}=1"], [wrong.strip(), "form key=value"])


def wrong_flag(rng: random.Random) -> Case:
    script = rng.choice(list(FLAGS))
    words = rng.choice(FLAGS[script])
    names = [words[0].strip("-")[:6], words[-1][:40] or words[0]]
    return Case(script, words, [name.encode("ascii", "backslashreplace").decode() for name in names])


def wrong_job(rng: random.Random) -> Case:
    """A wrong value in a recipe for a teacher."""
    recipe = rng.choice(list(RECIPES))
    file = next(file for name, file, _ in recipes("configs/teachers", "recipe") if name == recipe)
    fields = RECIPES[recipe].Options.model_fields
    key = rng.choice(list(fields))
    value = pick_value(rng, fields[key], key, JOB_TEXT)
    words = ["--config", f"{REPO}/{file}", f"{key}={value}"]
    return Case(pretrain, words, [key, value or key])


def wrong_judging(rng: random.Random) -> Case:
    """A wrong run, images, rate or flag of predict.py and calibrate.py."""
    script = rng.choice([predict, calibrate])
    what = rng.choice(["run", "images", "rate", "key", "flag"])
    run, images, words, names = RUN, GOOD, [], []
    if what == "run":
        run = rng.choice(NO_RUN)
        names = [run[:40]]
    elif what == "images":
        images = rng.choice(NO_IMAGES)
        names = [images[:40]]
    elif what == "rate":
        key = rng.choice(["false_reject_rate", "review_rate"])
        words = [f"{key}={rng.choice([word for word in BAD[float] if word not in NONE])}"]
        names = [key]
    elif what == "key":
        words = [f"{misspelt(rng, 'false_reject_rate')}=0.1"]
        names = [words[0].partition("=")[0].strip()]
    else:
        words = rng.choice(JUDGING_FLAGS[script])
        names = [words[0], words[-1][:40] or words[0]]
    words = [run, *([images] if script is predict else ["--images", images]), *words]
    return Case(script, words, [name.encode("ascii", "backslashreplace").decode() for name in names])


def wrong_file(rng: random.Random) -> Case:
    """A config.yaml with an editing mistake."""

    def twice(lines):
        line = rng.choice([line for line in lines if ":" in line])
        return [*lines[: lines.index(line)], line, *lines[lines.index(line) :]]

    def second_section(lines):
        return [*lines, "TrainingData:", "  lr: 0.1"]

    def without(lines):
        key = rng.choice(["data_path", "obj", "backbone"])
        return [line for line in lines if not line.startswith(key)]

    def tab(lines):
        return [*lines, "\tepochs: 3"]

    def no_colon(lines):
        return [line.replace(":", "", 1) if line.startswith("obj") else line for line in lines]

    def unclosed(lines):
        return [*lines[:2], "out_indice: [1, 2", *lines[2:]]

    def deep(lines):
        return [*lines, "x: " + "[" * 3000]

    def unindented(lines):
        return [line.strip() for line in lines]

    def dotted(lines):
        return [*lines, "TrainingData.sigma: 3"]

    def alias(lines):
        return [*lines, "training_data: {lr: 1}"]

    def nothing(lines):
        return []

    def a_list(lines):
        return [f"- {line.strip()}" for line in lines]

    def value(lines):
        key = rng.choice(["epochs", "batch_size", "img_size"])
        return [
            f"  {key}: {rng.choice(['many', '-3', '[x]', '1e9', '&a [*a]'])}" if key in line else line for line in lines
        ]

    change = rng.choice(
        [
            twice,
            second_section,
            without,
            tab,
            no_colon,
            unclosed,
            deep,
            unindented,
            dotted,
            alias,
            nothing,
            a_list,
            value,
        ]
    )
    junk = rng.random() < 0.15

    def damage(workplace: Workplace) -> None:
        path = workplace.path / "config.yaml"
        if junk:
            path.write_bytes(rng.randbytes(200))
        else:
            path.write_text("\n".join(change(path.read_text().splitlines())))

    return Case(rng.choice([trainNet, visualization]), [], ["config.yaml"], damage)


def wrong_data(rng: random.Random) -> Case:
    """A data set with a fault."""
    where = rng.choice(["train/good", "test/good", "test/square", "ground_truth/square"])
    what = rng.choice(["zero", "half", "text", "random", "size", "float", "gone", "twice", "no folder", "empty"])
    if what in ("size", "twice") or (what == "gone" and where != "ground_truth/square"):
        where = {"size": "ground_truth/square", "twice": "test/square", "gone": "test/square"}[what]
    if what in ("no folder", "empty"):
        where = "train/good"
    number = rng.randrange(2) if where != "test/good" else 0
    name = f"00{number}_mask.png" if where.startswith("ground") else f"00{number}.png"

    def damage(workplace: Workplace) -> None:
        folder = workplace.path / "data/part" / where
        path = folder / name
        content = path.read_bytes()
        if what in ("no folder", "empty"):
            shutil.rmtree(folder)
            if what == "empty":
                folder.mkdir()
        elif what == "gone":
            path.unlink()
        elif what == "twice":
            cv2.imwrite(str(path.with_suffix(".bmp")), cv2.imread(str(path)))
        elif what == "size":
            cv2.imwrite(str(path), np.zeros((32, 48), np.uint8))
        elif what == "float":
            path.unlink()
            cv2.imwrite(str(path.with_suffix(".tif")), np.zeros((64, 64), np.float32))
        else:
            other = {"zero": b"", "half": content[: len(content) // 2], "text": b"hello", "random": rng.randbytes(99)}
            path.write_bytes(other[what])

    words = (
        rng.choice([[], ["phase=test"], ["cache_mb=0"]]) if where != "train/good" else rng.choice([[], ["cache_mb=0"]])
    )
    return Case(trainNet, words, [name.partition(".")[0].removesuffix("_mask"), where], damage)


def wrong_run(rng: random.Random) -> Case:
    """A run folder with a fault."""

    def student(change):
        def damage(workplace: Workplace) -> None:
            path = workplace.run / "student.safetensors"
            tensors, record = load_file(path), json.loads(_metadata(path)["record"])
            change(path, tensors, record)

        return damage

    def write(path, tensors, record):
        save_file(tensors, path, metadata={"record": json.dumps(record)})

    def cut(path, tensors, record):
        path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])

    def junk(path, tensors, record):
        path.write_bytes(rng.randbytes(500))

    def without_record(path, tensors, record):
        save_file(tensors, path)

    def other_record(path, tensors, record):
        write(path, tensors, rng.choice([[], 3, None, {}, {"format": 2}, {"a": record}, record | {"format": 1}]))

    def lacks_a_key(path, tensors, record):
        del record[rng.choice(sorted({"distillType", "backbone", "out_indice", "teachers", "teacher", "settings"}))]
        write(path, tensors, record)

    def wrong_record(path, tensors, record):
        write(path, tensors, record | {rng.choice(["teachers", "settings"]): rng.choice([3, "x", None, [], [3]])})

    def not_finite(path, tensors, record):
        tensors[rng.choice(sorted(key for key in tensors if key.endswith("weight")))].fill_(float("nan"))
        write(path, tensors, record)

    def whole_numbers(path, tensors, record):
        write(path, {key: tensor.to(torch.int64) for key, tensor in tensors.items()}, record)

    def other_network(path, tensors, record):
        del tensors[rng.choice(sorted(tensors))]
        write(path, tensors, record)

    def scores(content):
        return lambda workplace: (workplace.run / "scores.csv").write_bytes(content)

    if rng.random() < 0.25:
        rows = [
            b"",
            b"path,label,score\n",
            b"a;b;c\n1;2;3\n",
            b"path,label,score\nx/good/000.png,0,much\n",
            b"\xff\x00\xff",
        ]
        return Case(visualization, [], ["scores.csv"], scores(rng.choice(rows)))
    if rng.random() < 0.2:
        content = rng.choice([b"", b"rubbish", rng.randbytes(999)])

        def checkpoint(workplace: Workplace) -> None:
            (workplace.run / "checkpoint.pt").write_bytes(content)

        return Case(trainNet, ["overwrite=true"], ["checkpoint.pt"], checkpoint)
    changes = [
        cut,
        junk,
        without_record,
        other_record,
        lacks_a_key,
        wrong_record,
        not_finite,
        whole_numbers,
        other_network,
    ]
    change = student(rng.choice(changes))
    scripts = {trainNet: ["phase=test"], visualization: [], predict: [RUN, GOOD], calibrate: [RUN, "--images", GOOD]}
    script, words = rng.choice(list(scripts.items()))
    return Case(script, words, ["student.safetensors"], change)


def _metadata(path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return file.metadata()


KINDS = [
    wrong_value,
    wrong_value,
    wrong_value,
    wrong_key,
    wrong_flag,
    wrong_file,
    wrong_data,
    wrong_job,
    wrong_run,
    wrong_data,
    wrong_judging,
]


@pytest.mark.parametrize("number", range(CASES))
def test_a_mistake_is_one_sentence_and_leaves_the_run_as_it_is(number, workplace, call):
    rng = random.Random(number)
    case = KINDS[number % len(KINDS)](rng)
    case.damage(workplace)
    before = workplace.kept()
    assert before
    if number % AS_PROCESS == 0 and not any("\0" in str(word) for word in case.words):
        process = run_script(REPO / f"{case.script.__name__}.py", *case.words, cwd=workplace.path)
        said = Said(process.returncode, process.stdout, process.stderr)
    else:
        said = call(case.script, *case.words)
    context = (case.script.__name__, [str(word)[:60] for word in case.words], said)
    assert said.code == 2 and "Traceback" not in said.err, context
    assert said.last.startswith("error: ") and said.err.count("error: ") == 1 and len(said.last) < 1000, context
    assert any(name in said.last for name in case.names), (context, case.names)
    assert workplace.kept() == before, context
