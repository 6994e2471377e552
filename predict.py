"""Judge pictures with a finished run: scores, decisions and regions."""

import contextlib
import csv
import glob
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.command import Flags, run
from utils.errors import UserError

if TYPE_CHECKING:
    from deploy.judge import Judge, Prediction

COLUMNS = ["path", "score", "p_value", "decision", "milliseconds", "regions", "error"]
SOME_FAILED = 3  # exit code


def main() -> None:
    parser = Flags(description=__doc__)
    parser.add_argument("run", metavar="RUN", help="the folder of a finished run, such as results/st/screw")
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGES",
        help="files, folders (with their subfolders), patterns such as 'a/*.png', text files with a path per line; "
        "and key=value words such as false_reject_rate=0.05",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("predictions"), metavar="DIR", help="a new folder (default: %(default)s)"
    )
    parser.add_argument(
        "--pictures",
        choices=["none", "rejected", "all"],
        default="rejected",
        help="which pictures are drawn (default: %(default)s)",
    )
    args = parser.parse_intermixed_args()
    overrides = [word for word in args.images if "=" in word and not Path(word).exists()]
    paths = images_of(word for word in args.images if word not in overrides)
    if (args.out / "predictions.csv").exists():
        raise UserError(f"--out: {args.out} already has predictions; give another folder")

    from deploy.predictor import Predictor
    from utils.console import note, say

    predictor = Predictor(args.run, overrides)
    if not predictor.calibration:
        note(f"this run has no calibration, so nothing is decided: python3 calibrate.py {args.run} --images FOLDER")
    counts = write_predictions(predictor, paths, args.out, args.pictures)
    say(f"{', '.join(f'{count} {what}' for what, count in counts.items())}: {args.out / 'predictions.csv'}")
    if counts["failed"]:
        sys.exit(SOME_FAILED)


def images_of(words: Iterable[str]) -> list[Path]:
    """The image files that files, folders, patterns and text files name, each once, in their order.

    Raises UserError naming a word without images.
    """
    from datasets.listing import SUFFIXES, is_folder, list_images_below

    found: dict[Path, None] = {}
    for word in words:
        path = Path(word)
        if is_folder(path):
            paths = list_images_below(path)
        elif path.suffix.lower() == ".txt" and path.is_file():
            paths = _listed(path)
        elif path.is_file():
            paths = [path]
        else:
            paths = [Path(name) for name in sorted(glob.glob(word, recursive=True))]
            paths = [path for path in paths if path.suffix.lower() in SUFFIXES]
        if not paths:
            raise UserError(f"IMAGES: there are no images (png, jpg, bmp, tif, webp) at {word}")
        found |= dict.fromkeys(paths)
    if not found:
        raise UserError("IMAGES: give files, folders or patterns")
    return list(found)


def _listed(path: Path) -> list[Path]:
    """The paths in a text file, one per line."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"IMAGES: {path} cannot be read as a list of paths: {error}") from None
    return [Path(line) for line in lines if line.strip()]


def write_predictions(judge: "Judge", paths: list[Path], out: Path, pictures: str) -> Counter:
    """predictions.csv and predictions.jsonl, line by line, and the pictures; returns how many of which decision."""
    from deploy.pictures import write_pictures
    from utils.files import check_writable
    from utils.progress import progress

    check_writable(out, "--out")
    out.mkdir(parents=True, exist_ok=True)
    root = os.path.commonpath([path.absolute().parent for path in paths])
    counts: Counter = Counter()
    with _lines(out) as write, progress(None, "predicting", len(paths)) as bar:
        for path, result in judge.stream(paths):
            row = described(path, result)
            write(row)
            what = "failed" if row["error"] else row["decision"] or "scored"
            counts[what] += 1
            if not row["error"] and (pictures == "all" or pictures == "rejected" and what in ("review", "reject")):
                write_pictures(judge, result, out, path.absolute().relative_to(root))
            bar.update()
    return counts


def described(path: Path, result: "Prediction | UserError") -> dict[str, Any]:
    """A line of the results."""
    row = dict.fromkeys(COLUMNS) | {"path": str(path), "regions": []}
    if isinstance(result, UserError):
        return row | {"error": str(result)}
    regions = [region.as_dict() for region in result.regions]
    found = {key: getattr(result, key) for key in ("score", "p_value", "decision")}
    return row | found | {"milliseconds": round(result.milliseconds, 2), "regions": regions}


@contextlib.contextmanager
def _lines(out: Path) -> "Iterator":
    """A function that writes a row to both files, so that what is finished survives whatever happens."""
    with (
        (out / "predictions.csv").open("w", newline="", encoding="utf-8", errors="surrogateescape") as table,
        (out / "predictions.jsonl").open("w", encoding="utf-8", errors="surrogateescape") as lines,
    ):
        writer = csv.DictWriter(table, COLUMNS)
        writer.writeheader()

        def write(row: dict[str, Any]) -> None:
            writer.writerow(row | {"regions": len(row["regions"])})
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
            table.flush()
            lines.flush()

        yield write


if __name__ == "__main__":
    run(main)
