"""Set the threshold of a finished run with new good images, without training."""

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from utils.command import Flags, run

if TYPE_CHECKING:
    from trainer.base import BaseTrainer

CHANGED = 0.01  # p-value of the two-sample test below which the scores are said to have changed


def main() -> None:
    parser = Flags(description=__doc__)
    parser.add_argument("run", metavar="RUN", help="the folder of a finished run, such as results/st/screw")
    parser.add_argument("--images", required=True, type=Path, metavar="FOLDER", help="good images, also in subfolders")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as false_reject_rate=0.05")
    args = parser.parse_intermixed_args()

    from trainer import open_run
    from utils.console import say

    trainer = open_run(args.run, args.overrides)
    with trainer.folder.locked(), trainer.folder.log():
        for line in calibrate(trainer, args.images):
            say(line)


def calibrate(trainer: "BaseTrainer", folder: Path) -> list[str]:
    """Replace the calibration of a student, keep the earlier one in its file; returns what to tell the user.

    Raises UserError for a folder without images, for images that trained the student, and for too few of them.
    """
    from engine.loading import other_good_images
    from engine.run import parts, scoring
    from evaluation.calibration import Calibration, described
    from evaluation.score import CALIBRATION, yardstick

    config, dataset = trainer.config, other_good_images(trainer.config, folder)
    earlier = trainer.metadata.get("normal")
    results = scoring(trainer.detector, trainer.compute, config, dataset, "calibration")
    now = yardstick(results, CALIBRATION, parts(dataset, config))
    calibration = Calibration.of(now, config.false_reject_rate, config.review_rate)
    lines = [*described(calibration.promise), *_comparison(earlier, now["scores"])]  # raises if there are too few
    kept = trainer.metadata.get("earlier_calibrations", [])
    trainer.metadata |= {"normal": now, "earlier_calibrations": [*kept, *([earlier] if earlier else [])]}
    trainer.save()
    rates = {"false_reject_rate": config.false_reject_rate, "review_rate": config.review_rate}
    _keep_rates(trainer.run_dir / "config.yaml", rates)
    if trainer.folder.metrics_file.exists():
        _forget_decisions(trainer.folder.metrics_file)
        test = f"python3 trainNet.py --config {trainer.run_dir}/config.yaml phase=test"
        lines.append(f"the pages still show the earlier threshold; this test updates them: {test}")
    return lines


def _comparison(earlier: dict | None, scores: list[float]) -> list[str]:
    """Whether the new scores are distributed as the earlier ones (two-sample Kolmogorov-Smirnov test)."""
    from scipy.stats import ks_2samp

    from evaluation.score import CALIBRATION, HELD_OUT

    if not earlier or earlier["source"] not in (CALIBRATION, HELD_OUT):
        return ["this run has no earlier scores of good images that did not train: nothing to compare with"]
    before, after = (sorted(each)[len(each) // 2] for each in (earlier["scores"], scores))
    p_value = ks_2samp(earlier["scores"], scores).pvalue
    changed = "have changed" if p_value < CHANGED else "have not changed noticeably"
    return [
        f"the scores of good images {changed}: median {after:.4g}, before {before:.4g} "
        f"({len(earlier['scores'])} {earlier['source']}; two-sample test, p = {p_value:.2g})"
    ]


def _keep_rates(path: Path, rates: dict[str, float | None]) -> None:
    """In the run's config.yaml, so that tests and predictions use it, too."""
    import yaml

    from utils.config_file import read_config
    from utils.files import write_text

    write_text(path, yaml.safe_dump(read_config(path) | rates, sort_keys=False, allow_unicode=True))


def _forget_decisions(path: Path) -> None:
    """The decisions in metrics.json are those of the earlier threshold."""
    from utils.files import write_json

    with contextlib.suppress(OSError, ValueError, TypeError):  # the next test replaces a damaged report
        report = json.loads(path.read_text(encoding="utf-8"))
        write_json(path, report | {"decisions": None})


if __name__ == "__main__":
    run(main)
