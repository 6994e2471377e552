"""Set the threshold of a finished run with new good images, without training; or undo that."""

from pathlib import Path
from typing import TYPE_CHECKING

from utils.command import Flags, run
from utils.errors import UserError

if TYPE_CHECKING:
    from trainer.base import BaseTrainer

Rates = dict[str, float | None]

RATES = ("false_reject_rate", "review_rate")
CHANGED = 0.01  # p-value of the two-sample test below which the scores are said to have changed


def main() -> None:
    parser = Flags(description=__doc__)
    parser.add_argument("run", metavar="RUN", help="the folder of a finished run, such as results/st/screw")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--images", type=Path, metavar="FOLDER", help="good images, also in subfolders")
    source.add_argument("--restore", action="store_true", help="undo the last calibration")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as false_reject_rate=0.05")
    args = parser.parse_intermixed_args()
    if args.restore and args.overrides:
        raise UserError(
            f"--restore: '{args.overrides[0]}' cannot be given with it, because the earlier rates come back"
        )

    from trainer import open_run
    from utils.console import say

    trainer = open_run(args.run, args.overrides)
    with trainer.folder.locked(), trainer.folder.log():
        for line in restore(trainer) if args.restore else calibrate(trainer, args.images):
            say(line)


def calibrate(trainer: "BaseTrainer", folder: Path) -> list[str]:
    """Replace the calibration of a student, keep the earlier one in its file; returns what to tell the user.

    Raises UserError for settings that are not the student's, for a folder without images, for images that trained the
    student, and for too few of them.
    """
    from engine.decisions import pattern_of_new
    from engine.run import good_scores
    from engine.splits import other_good_images
    from evaluation.calibration import Calibration, described
    from evaluation.score import CALIBRATION
    from utils.config_file import read_config

    config = trainer.config
    _check_settings(trainer)
    dataset, of_test = other_good_images(config, folder, trainer.metadata)
    earlier = trainer.metadata.get("normal")
    by_pattern = config.model_copy(update={"part_pattern": pattern_of_new(config, trainer.metadata)})
    now = good_scores(trainer.detector, trainer.compute, by_pattern, dataset, CALIBRATION)
    now |= {"of_test": of_test} if of_test else {}
    calibration = Calibration.of(now, config.false_reject_rate, config.review_rate)
    lines = [*described(calibration.promise), *_comparison(earlier, now)]  # raises if there are too few
    if trainer.folds and not (earlier and earlier["source"] == CALIBRATION):
        lines.append("this threshold decides from now on, not the students of calibration=cross")
    if config.unified:
        lines.append(
            "this threshold is for all categories; the rate holds if later good parts are mixed as these images are"
        )
    kept = trainer.metadata.get("earlier_calibrations", [])
    if earlier:
        before = read_config(trainer.run_dir / "config.yaml")
        kept = [*kept, earlier | {"rates": {key: before.get(key) for key in RATES}}]
    return [*lines, *_replace(trainer, now, kept, {key: getattr(config, key) for key in RATES})]


def restore(trainer: "BaseTrainer") -> list[str]:
    """Put the earlier calibration of a student back in place of the last one; returns what to tell the user.

    Raises UserError if there is none, and for settings that are not the student's.
    """
    from engine.decisions import promised
    from evaluation.calibration import Calibration, described

    kept = trainer.metadata.get("earlier_calibrations")
    if not kept:
        raise UserError(f"--restore: {trainer.run_dir} has no earlier calibration")
    _check_settings(trainer)
    normal = dict(kept[-1])
    rates = normal.pop("rates", None) or {key: getattr(trainer.config, key) for key in RATES}
    calibration = Calibration.of(normal, rates["false_reject_rate"], rates["review_rate"])
    if calibration:
        found, reasons = promised(calibration)
        lines = described(found.promise) if found else reasons
    elif trainer.folds:
        lines = ["the students of calibration=cross decide again"]
    else:
        lines = ["this run decides nothing, as before: it was trained without a calibration"]
    return [*lines, *_replace(trainer, normal, kept[:-1], rates)]


def _replace(trainer: "BaseTrainer", normal: dict, earlier: list[dict], rates: Rates) -> list[str]:
    """Save the calibration that decides from now on and the earlier ones; returns what to tell the user."""
    from engine.retest import how_to_test
    from engine.unified import categories_apart

    trainer.metadata |= {"normal": normal, "earlier_calibrations": earlier}
    trainer.save()
    _keep_rates(trainer.run_dir / "config.yaml", rates)
    tested = [part.run_dir for part in categories_apart(trainer) if part.folder.metrics_file.exists()]
    for run_dir in tested:
        _forget_decisions(run_dir)
    if not tested:
        return []
    command = how_to_test(trainer.config, trainer.run_dir)
    return [f"the pages still show the earlier threshold; to update them: {command}"]


def _check_settings(trainer: "BaseTrainer") -> None:
    """Raises UserError if scores would be other ones than those of a test: the threshold would mean nothing there."""
    from engine.decisions import other_region
    from engine.folder import NOT_IN_SCORES
    from engine.student_file import changes
    from utils.config import result_settings

    settings = (trainer.metadata["settings"], result_settings(trainer.config))
    changed = changes(*({key: each[key] for key in each if key not in NOT_IN_SCORES} for each in settings))
    changed = changed or ", ".join(other_region(trainer.config, trainer.metadata.get("normal") or {}))
    if changed:
        raise UserError(f"calibrate.py cannot change settings that scores depend on ({changed}): train a run with them")


def _comparison(earlier: dict | None, now: dict) -> list[str]:
    """Whether the new scores are distributed as the earlier ones (two-sample Kolmogorov-Smirnov test)."""
    from scipy.stats import ks_2samp

    from evaluation.score import CALIBRATION, HELD_OUT

    if not earlier or earlier["source"] not in (CALIBRATION, HELD_OUT):
        return ["this run has no earlier scores of good images that did not train: nothing to compare with"]
    if earlier.get("unit") != now.get("unit"):
        return ["one of the two calibrations counts images and the other parts, so their scores are not compared"]
    scores = (earlier["scores"], now["scores"])
    before, after = (sorted(each)[len(each) // 2] for each in scores)
    p_value = ks_2samp(*scores).pvalue
    changed = "have changed" if p_value < CHANGED else "have not changed noticeably"
    return [
        f"the scores of good images {changed}: median {after:.4g}, before {before:.4g} "
        f"({len(earlier['scores'])} {earlier['source']}; two-sample test, p = {p_value:.2g})"
    ]


def _keep_rates(path: Path, rates: Rates) -> None:
    """In the run's config.yaml, so that tests and predictions use it, too."""
    import yaml

    from utils.config_file import read_config
    from utils.files import write_text

    write_text(path, yaml.safe_dump(read_config(path) | rates, sort_keys=False, allow_unicode=True))


def _forget_decisions(run_dir: Path) -> None:
    """The decisions in metrics.json are those of the earlier threshold."""
    from engine.cells import finished_report
    from utils.files import write_json

    report = finished_report(run_dir)
    if report:  # the next test replaces a damaged one
        write_json(run_dir / "metrics.json", report | {"decisions": None})


if __name__ == "__main__":
    run(main, sizes="cache_mb")
