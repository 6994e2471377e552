"""What is written of predictions: a line each in predictions.csv and predictions.jsonl, pictures, and raw maps."""

import contextlib
import csv
import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from datasets.listing import DRAWN, TABLE
from deploy.judge import Judge, Prediction
from deploy.pictures import write_pictures
from deploy.watch import Signature
from utils.console import note
from utils.errors import UserError, reason
from utils.files import check_writable, write_bytes
from utils.progress import progress

COLUMNS = ["path", "part", "score", "p_value", "decision", "milliseconds", "regions", "error"]
LINES = "predictions.jsonl"
NAMED = 5  # failed files whose reasons are also printed
LONGEST = 250  # bytes of a file's name, before .tiff is added

Found = Iterable[tuple[Path, Prediction | UserError]]


class Results(NamedTuple):
    """The folder that predictions are written into, and which pictures and raw maps go there."""

    folder: Path
    pictures: str = "none"  # or rejected, all
    raw_maps: str | None = None  # npy or tiff
    model: str = ""  # absolute path of the run or exported model
    fingerprint: str = ""  # of its judge: the path stays when it is trained or calibrated again

    def write(
        self,
        judge: Judge,
        found: Found,
        root: str,
        total: int | None = None,
        mode: str = "x",
        files: Mapping[Path, Signature] | None = None,
    ) -> Counter:
        """Everything that is found, as it comes; returns how many have which decision, failed, or were not drawn.

        Names of pictures and maps are those of the images, relative to `root`. `mode` is that of the two files: "x",
        or "a" to continue them. With `files`, lines also say which file was judged, for `finished`. Raises UserError
        if there are predictions already.
        """
        check_writable(self.folder, "--out")
        counts: Counter = Counter()
        failed: set[str] = set()  # with the --watch flag, a file that is written slowly may be read later
        undrawn: set[str] = set()
        with _lines(self.folder, mode) as write, progress(None, "predicting", total) as bar:
            for path, result in found:
                row, absolute = described(judge, str(path), result), os.path.abspath(path)
                name = _short(Path(absolute).relative_to(root))
                if files is not None:
                    row["file"] = {"path": absolute, "below": root, "model": self.model}
                    row["file"] |= {"fingerprint": self.fingerprint} | files[path]._asdict()
                    self._forget(name)  # it may have been written again
                if row["error"]:
                    failed.add(absolute)
                    if len(failed) <= NAMED:
                        note(row["error"])
                else:
                    failed.discard(absolute)
                    counts[row["decision"] or "scored"] += 1
                    why = self._draw(judge, result, name)
                    if why and not undrawn:
                        note(f"{path} is judged, but not drawn: {why}; others that are not drawn are counted")
                    (undrawn.add if why else undrawn.discard)(absolute)
                write(row)  # last: an image with a line is finished
                bar.update()
        if len(failed) > NAMED:
            note(f"{len(failed) - NAMED} more files failed; {self.folder / TABLE} says why")
        for sentence, (first, count) in judge.remarks.items():
            note(f"{first}: {sentence}" + (f"; the same for {count - 1} other file(s)" if count > 1 else ""))
        return counts + Counter({"failed": len(failed), "not drawn": len(undrawn)})  # without a count of 0

    def _draw(self, judge: Judge, prediction: Prediction, name: Path) -> str | None:
        """Why not all that is wanted could be drawn; None if it was. The decision counts all the same."""
        wanted = self.pictures == "all" or self.pictures == "rejected" and prediction.decision in ("review", "reject")
        try:
            if wanted:
                write_pictures(judge, prediction, self.folder, name)
            if self.raw_maps:
                file = self.folder / "raw_maps" / f"{name}.{self.raw_maps}"
                file.parent.mkdir(parents=True, exist_ok=True)
                write_bytes(file, raw_map(prediction.anomaly_map, self.raw_maps))
        except MemoryError:
            return "there is too little memory"
        except (OSError, UserError) as error:  # such as a full disk
            return reason(error)
        return None

    def _forget(self, name: Path) -> None:
        """Remove what was drawn of an earlier file of this name: it is no evidence for a later one."""
        for kind, ending in product(DRAWN, ("png", "npy", "tiff")):
            with contextlib.suppress(OSError):
                (self.folder / kind / f"{name}.{ending}").unlink()

    def finished(self, root: str) -> dict[str, Signature]:
        """The images that earlier lines describe, by their absolute paths.

        Lines of failed ones are removed from the files. A process that was killed may have left an incomplete last
        line; it is removed, too. Raises UserError for files that were not written here or without `files`, for those of
        another model or another state of it, and for images whose pictures have names relative to another folder than
        `root`: others could replace them.
        """
        if not any((self.folder / name).exists() for name in (TABLE, LINES)):
            return {}
        found = {}
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".") as fresh:
            with _lines(Path(fresh), "w") as write:
                for row in _rows(self.folder / LINES):
                    write(row)
                    file = row.get("file")
                    self._check_continued(file, root)
                    found[file["path"]] = Signature(file["size"], file["changed"])
            for name in (TABLE, LINES):
                os.replace(Path(fresh, name), self.folder / name)
        return found

    def _check_continued(self, file: dict[str, Any] | None, root: str) -> None:
        """Raise UserError if the `file` of an earlier line is of another model, or its pictures of another folder."""
        if file is None or not {"model", "fingerprint", "below"} <= file.keys():
            raise UserError(
                f"--out: {self.folder} has predictions made without --watch, or by an earlier version; "
                "give another folder"
            )
        if file["model"] != self.model:
            raise UserError(f"--out: {self.folder} has predictions of {file['model']}; give another folder")
        if file["fingerprint"] != self.fingerprint:
            raise UserError(
                f"--out: {self.folder} has predictions of {self.model} as it was earlier (with another "
                "training, calibration or rate); give another folder"
            )
        if file["below"] != root:
            raise UserError(
                f"--out: {self.folder} has pictures of {file['below']}, and those of {root} could replace "
                "them; give another folder"
            )


def described(judge: Judge, name: str, result: Prediction | UserError) -> dict[str, Any]:
    """A line of the results."""
    row = dict.fromkeys(COLUMNS) | {"path": name, "part": judge.part(name), "regions": []}
    if isinstance(result, UserError):
        return row | {"error": str(result)}
    regions = [region.as_dict() for region in result.regions]
    found = {key: getattr(result, key) for key in ("score", "p_value", "decision")}
    return row | found | {"milliseconds": round(result.milliseconds, 2), "regions": regions}


def raw_map(anomaly_map: np.ndarray, kind: str) -> bytes:
    """A map [H,W] float32 as a file, npy or tiff (32-bit floats)."""
    data = BytesIO()
    if kind == "npy":
        np.save(data, anomaly_map)
    else:
        Image.fromarray(anomaly_map).save(data, "TIFF")
    return data.getvalue()


def _short(name: Path) -> Path:
    """The name that pictures and maps of an image have: its own, or, if that is too long, its beginning and a hash."""
    content = os.fsencode(name.name)
    if len(content) <= LONGEST:
        return name
    return name.with_name(f"{name.name[:50]}~{hashlib.sha256(content).hexdigest()[:16]}")


@contextlib.contextmanager
def _lines(folder: Path, mode: str) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that writes a row to both files, so that what is finished survives whatever happens."""
    text = {"mode": mode, "encoding": "utf-8", "errors": "surrogateescape"}
    with contextlib.ExitStack() as files:
        try:  # of two processes with mode "x", one creates the files, and the other is refused
            lines = files.enter_context((folder / LINES).open(**text))
            table = files.enter_context((folder / TABLE).open(**text, newline=""))
        except FileExistsError:
            raise UserError(f"--out: {folder} already has predictions; give another folder") from None
        writer = csv.DictWriter(table, COLUMNS, extrasaction="ignore")
        if table.tell() == 0:
            writer.writeheader()

        def write(row: dict[str, Any]) -> None:
            writer.writerow(row | {"regions": len(row["regions"])})
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
            table.flush()
            lines.flush()

        yield write


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The complete lines of images that were read."""
    with path.open(encoding="utf-8", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith("\n"):
                return
            row = _row(line)
            if row is None:
                raise UserError(f"--out: line {number} of {path} is damaged; give another folder")
            if not row["error"]:
                yield row


def _row(line: str) -> dict[str, Any] | None:
    with contextlib.suppress(ValueError):
        row = json.loads(line)
        if isinstance(row, dict) and set(row) - {"file", "part"} == set(COLUMNS) - {"part"}:
            return {"part": None} | row  # earlier versions did not write it
    return None
