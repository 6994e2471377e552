"""Judge pictures with a finished run, or with an exported model: scores, decisions and regions."""

import argparse
import glob
import os
import shlex
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from utils.command import SOME_FAILED, Flags, run
from utils.errors import UserError

if TYPE_CHECKING:
    from deploy.judge import Judge
    from deploy.results import Results


def main() -> None:
    args = flags().parse_intermixed_args()
    if args.run is None:
        raise UserError("give a RUN, or --model EXPORTED, and IMAGES; --help shows what is possible")
    given = args.images if args.model is None else [args.run, *args.images]
    if args.model and Path(args.run, "student.safetensors").exists():
        raise UserError(f"--model: give it in place of RUN, not with it; {args.run} is a run")
    overrides = [word for word in given if "=" in word and not Path(word).exists() and not _matching(word)]
    words = [word for word in given if word not in overrides]
    paths = folders_of(words, args.out) if args.watch else images_of(words)
    if not args.watch and (args.out / "predictions.csv").exists():  # and again when it is created
        raise UserError(f"--out: {args.out} already has predictions; give another folder")

    from deploy.judge import open_judge
    from deploy.results import Results
    from utils.console import note, say

    judge = open_judge(args.run, args.model, overrides)
    if not judge.calibration and not judge.explained:
        how = (
            "python3 export.py RUN ... --images FOLDER"
            if args.model
            else f"python3 calibrate.py {shlex.quote(args.run)} --images FOLDER"
        )
        note(f"there is no calibration, so nothing is decided; to set a threshold: {how}")
    write = watched if args.watch else predicted
    model = os.path.abspath(args.model or args.run)
    counts = write(judge, paths, Results(args.out, args.pictures, args.maps, model, judge.fingerprint))
    summary = ", ".join(f"{count} {what}" for what, count in counts.items()) or "no pictures"
    say(f"{summary}: {args.out / 'predictions.csv'}")
    if counts["failed"] or counts["not drawn"]:
        sys.exit(SOME_FAILED)


def flags() -> argparse.ArgumentParser:
    parser = Flags(description=__doc__)
    parser.add_argument("run", nargs="?", metavar="RUN", help="the folder of a finished run, such as results/st/screw")
    parser.add_argument(
        "images",
        nargs="*",
        metavar="IMAGES",
        help="files, folders (with their subfolders), patterns such as 'a/*.png', text files with a path per line; "
        "and key=value words such as false_reject_rate=0.05",
    )
    parser.add_argument(
        "--model", type=Path, metavar="EXPORTED", help="a folder that export.py wrote, in place of RUN; needs no torch"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("predictions"), metavar="DIR", help="a new folder (default: %(default)s)"
    )
    parser.add_argument(
        "--pictures",
        choices=["none", "rejected", "all"],
        default="rejected",
        help="which pictures are drawn; rejected: also those to be reviewed (default: %(default)s)",
    )
    parser.add_argument(
        "--maps",
        choices=["npy", "tiff"],
        help="also write every anomaly map, as 32-bit floats in its picture's size, below DIR/raw_maps; "
        "where crop_size cut the picture off, and outside of roi, it is -inf",
    )
    parser.add_argument(
        "--watch",
        action="store_true",
        help="IMAGES are folders: judge what is there, then what arrives, until Ctrl-C; "
        "the predictions that DIR already has are continued",
    )
    return parser


def images_of(words: Iterable[str]) -> list[Path]:
    """The image files that files, folders, patterns and text files name, each once, in their order.

    Raises UserError naming a word without images.
    """
    from datasets.listing import is_folder, list_given_images

    found: dict[str, Path] = {}
    for word in words:
        path = Path(word)
        if is_folder(path):
            paths = list_given_images(path)
        elif path.suffix.lower() == ".txt" and path.is_file():
            paths = _listed(path)
        else:
            paths = [path] if path.is_file() else _matching(word)
        if not paths:
            raise UserError(f"IMAGES: there are no images (png, jpg, bmp, tif, webp) at {word}")
        for path in paths:
            found.setdefault(os.path.abspath(path), path)
    if not found:
        raise UserError("IMAGES: give files, folders or patterns")
    return list(found.values())


def _listed(path: Path) -> list[Path]:
    """The files that a text file names, a path per line, and the images of the folders."""
    from datasets.listing import list_given_images

    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"IMAGES: {path} cannot be read as a list of paths: {error}") from None
    found = []
    for line in filter(None, map(str.strip, lines)):
        found += list_given_images(Path(line)) if os.path.isdir(line) else [Path(line)]
    return found


def _matching(pattern: str) -> list[Path]:
    """The image files that a pattern matches. Folders at its beginning may have characters such as [ in their names."""
    from datasets.listing import SUFFIXES

    names, path = glob.glob(pattern, recursive=True), Path(pattern)
    if not names:
        folder = next((parent for parent in path.parents if os.path.isdir(parent)), None)
        if folder is None:  # a drive that is not there
            return []
        rest = path.relative_to(folder)
        names = glob.glob(os.path.join(glob.escape(str(folder)), rest), recursive=True)
    return [path for path in map(Path, sorted(names)) if path.suffix.lower() in SUFFIXES]


def folders_of(words: Iterable[str], out: Path) -> list[Path]:
    """The folders to watch, each once. Raises UserError naming a word that is none."""
    from datasets.listing import is_folder

    folders = list({os.path.abspath(word): Path(word) for word in words}.values())
    for folder in folders:
        if not is_folder(folder):
            raise UserError(f"IMAGES: with --watch, give folders; there is no folder {folder}")
        if folder.resolve() == out.resolve():
            raise UserError(f"--out: {out} is watched, so the pictures drawn there would be judged; give another one")
    if not folders:
        raise UserError("IMAGES: give folders")
    return folders


def folder_of_all(folders: Iterable[str]) -> str:
    """The lowest folder that all of them, absolute paths, are in. Raises UserError if there is none (two drives)."""
    try:
        return os.path.commonpath(list(folders))
    except ValueError:
        raise UserError("IMAGES: they are on several drives; give those of one drive at a time") from None


def predicted(judge: "Judge", paths: list[Path], results: "Results") -> Counter:
    """Judge files; returns how many have which decision."""
    root = folder_of_all(os.path.dirname(os.path.abspath(path)) for path in paths)
    return results.write(judge, judge.stream(paths), root, len(paths))


def watched(judge: "Judge", folders: list[Path], results: "Results") -> Counter:
    """Judge what is in folders and what arrives there, until Ctrl-C; as `predicted`, for this session."""
    from deploy.watch import Arrivals, until_interrupted, watch
    from utils.console import note
    from utils.files import check_writable, locked

    root = folder_of_all(map(os.path.abspath, folders))
    check_writable(results.folder, "--out")
    # The lock is inside the folder: the one above it need not be writable.
    with locked(results.folder / "predictions"), until_interrupted() as stopped:
        done = results.finished(root)
        note(f"watching {', '.join(map(str, folders))}; {len(done)} pictures are finished; Ctrl-C ends it")
        arrivals = Arrivals(folders, done, results.folder)
        return results.write(judge, watch(judge, arrivals, stopped), root, mode="a", files=arrivals.finished)


if __name__ == "__main__":
    run(main)
