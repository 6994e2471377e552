"""Look for faults in a data set before training on it; the exit code is 3 if there are any.

It reads everything and does not stop at the first fault. docs/check_data.md explains each finding.
"""

import contextlib
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from utils.command import run, run_flags
from utils.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasets.doctor.copies import Pair
    from datasets.doctor.facts import Facts
    from datasets.doctor.findings import Finding
    from datasets.doctor.layout import Picture
    from evaluation.check_report import Checked
    from evaluation.outliers import Stranger
    from models.teachers.features import Features
    from utils.config import RunConfig

SOMETHING_FOUND = 3  # exit code
OWN = ("obj", "unified", "calibration", "run", "phase")  # keys that the command for a run with folds sets itself


def main() -> None:
    parser = run_flags(__doc__)
    args = parser.parse_intermixed_args()

    from datasets.demo import ensure_demo
    from engine.categories import several
    from evaluation.check_report import text
    from trainer import read_run
    from utils.config_file import read_config
    from utils.console import note, say
    from utils.files import check_writable

    raw, found = read_config(args.config, args.overrides), 0
    names = raw["unified"] if isinstance(raw.get("unified"), list) else several(raw)  # a list: the file of a run
    words = [[*args.overrides, *([f"obj={name}", "unified=false"] if name else [])] for name in names or [None]]
    for config in [read_run(args.config, each)[1] for each in words]:
        ensure_demo(config)
        check_writable(Path(config.save_path, "check"))
        file = [] if args.config == parser.get_default("config") else ["--config", args.config]
        try:
            checked = check(config, training(file, args.overrides, config.obj))
        except UserError as error:
            if not names:
                raise
            note(f"{config.obj}: {error}")
            found += 1
            continue
        folder = write(checked, Path(config.save_path, "check", config.obj))
        say(text(checked))
        say(f"  tables and pictures: {folder}")
        found += len(checked.findings)
    if found:
        sys.exit(SOMETHING_FOUND)


def training(file: list[str], overrides: list[str], obj: str) -> str:
    """The command that trains a run with folds, beside other runs of the category."""
    kept = [word for word in overrides if word.partition("=")[0] not in OWN]
    words = [*file, *kept, f"obj={obj}", "calibration=cross", "run=cross"]
    return f"python3 trainNet.py {shlex.join(words)}"


def check(config: "RunConfig", command: str) -> "Checked":
    """Everything that is wrong with a category; `command` trains what is needed to find bad parts in train/good."""
    from datasets.doctor import copies, faults
    from datasets.doctor.facts import facts_of
    from datasets.doctor.layout import listing
    from evaluation import outliers, shortcuts
    from evaluation.check_report import Checked, remarks_of

    listed = listing(config)
    facts = list(facts_of(listed.pictures))
    pairs = other_parts([*copies.exact_pairs(facts), *copies.near_pairs(facts)], facts, config)
    scores = shortcuts.shortcuts(facts)
    found, remark = strangers(config, command)
    findings = [
        *listed.findings,
        *faults.findings(facts, listed.root),
        *copies.findings(facts, pairs, listed.root),
        *shortcuts.findings(scores),
        *outliers.findings(found, listed.root),
    ]
    findings += refusal(listed.pictures, config)
    remarks = [*remarks_of(facts), *shape_remarks(facts, config), remark]
    return Checked(listed.root, facts, findings, pairs, scores, found, remarks)


def refusal(pictures: "Sequence[Picture]", config: "RunConfig") -> "list[Finding]":
    """Too few good pictures to train on."""
    from datasets.doctor.findings import Finding
    from engine.splits import split_paths

    train = [each.path for each in pictures if each.split == "train"]
    try:
        if train:
            split_paths(train, config, any(each.split == "validation" for each in pictures))
    except UserError as error:
        return [Finding("folders", str(error), "until then, a training ends with this error")]
    return []


def shape_remarks(facts: "Sequence[Facts]", config: "RunConfig") -> list[str]:
    """What a training would say about the shapes of its pictures."""
    from engine.loading import size_advice
    from models.teachers.features import outline

    def networks() -> "list[Features]":
        if not hasattr(config, "out_indice"):  # a PDN takes any size
            return []
        one = isinstance(config.backbone, str)
        levels = [(config.backbone, config.out_indice)] if one else zip(config.backbone, config.out_indice, strict=True)
        return [outline(*each) for each in levels]

    shapes = [each.shape for each in facts if each.picture.split == "train" and each.error is None]
    advice = size_advice(shapes, config.TrainingData, networks) if shapes else None
    return [advice] if advice else []


def other_parts(pairs: "Sequence[Pair]", facts: "Sequence[Facts]", config: "RunConfig") -> "list[Pair]":
    """The pairs, without those of train/good that show one part by `part_pattern`, which a training keeps together."""
    from datasets.parts import parts_of

    train = [place for place, each in enumerate(facts) if each.picture.split == "train"]
    parts = dict(zip(train, parts_of([facts[i].picture.path for i in train], config.part_pattern), strict=True))
    return [pair for pair in pairs if pair.second not in parts or parts[pair.first] != parts[pair.second]]


def strangers(config: "RunConfig", command: str) -> "tuple[list[Stranger], str]":
    """The good training images by how strange they are to a student that did not see them, and a remark on it."""
    from evaluation import outliers

    folders = crossed_runs(config)
    if not folders:
        return [], f"bad parts in train/good are only found after a run with calibration=cross: {command}"
    for folder in folders:
        try:
            found = outliers.strangers(fold_scores(folder, config))
        except UserError as error:
            reason = f"train/good was not scored by the students of {folder}: {error}"
        else:
            return found, f"train/good was scored by the students of {folder}: outliers.png shows the strangest"
    return [], reason


def crossed_runs(config: "RunConfig") -> list[Path]:
    """The finished runs of this category with `calibration: cross`, the newest first."""
    from utils.config_file import read_config

    found = []
    for path in Path(config.save_path).glob("*/*/folds/*/student.safetensors"):
        with contextlib.suppress(UserError):
            run = read_config(path.parents[2] / "config.yaml")
            if (run.get("obj"), run.get("calibration")) == (config.obj, "cross"):  # or the folds are of an earlier run
                found.append((path.stat().st_mtime, path.parents[2]))
    return list(dict.fromkeys(folder for _, folder in sorted(found, reverse=True)))


def fold_scores(folder: Path, config: "RunConfig") -> list[list[tuple[Path, float]]]:
    """The images that each student of a run's folds left out, with its scores.

    Raises UserError for a missing student, and if the training images are no longer those of the run.
    """
    from engine.run import scoring
    from engine.splits import train_datasets
    from evaluation.score import image_score
    from trainer import open_run

    folds = []
    for fold in open_run(folder).folds.folders.values():
        student = open_run(fold, [f"data_path={config.data_path}", f"cache_mb={config.cache_mb}"])
        _, _, images = train_datasets(student.config)
        images.read_all(config.cache_mb * 2**20)
        if not student.metadata["origin"]["good images (hash)"].endswith(images.fingerprint()):
            raise UserError("the pictures in train/good have changed since that run; train it again")
        results = scoring(student.detector, student.compute, student.config, images, "scoring train/good")
        folds.append([(images.samples[each.index].path, image_score(each.anomaly_map)) for each in results])
    return folds


def write(checked: "Checked", folder: Path) -> Path:
    """Write the tables and pictures of a check, in place of an earlier one; returns the folder."""
    from evaluation import check_pictures, check_report, outliers
    from utils.files import replacing

    with replacing(folder) as fresh:
        check_report.write(fresh, checked)
        if checked.pairs:
            check_pictures.draw_copies(fresh / "copies.png", checked.facts, checked.pairs, checked.root)
        if checked.shortcuts:
            check_pictures.draw_shortcuts(fresh / "shortcuts.png", checked.facts)
        if checked.strangers:
            far = len([each for each in checked.strangers if each.times > outliers.limit(checked.strangers)])
            check_pictures.draw_strangers(fresh / "outliers.png", checked.strangers, far, checked.root)
    return folder


if __name__ == "__main__":
    run(main)
