"""The results of checkData.py: words for the screen, and tables."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datasets.doctor.copies import Pair
from datasets.doctor.facts import Facts
from datasets.doctor.findings import Finding, counted, names
from evaluation.outliers import Stranger
from evaluation.shortcuts import Shortcut, best_shortcut
from utils.files import write_csv, write_json, write_text


class Checked(NamedTuple):
    """All that is known of a category after its check."""

    root: Path
    facts: Sequence[Facts]
    findings: Sequence[Finding]
    pairs: Sequence[Pair]
    shortcuts: Sequence[Shortcut]
    strangers: Sequence[Stranger]
    remarks: Sequence[str]  # what is no fault but worth knowing


def remarks_of(facts: Sequence[Facts]) -> list[str]:
    """What was left out or assumed when files were read, each sentence once."""
    counts = Counter(what for each in facts for what in each.remarks)
    return [f"{counted(count, 'file')}: {what}" for what, count in counts.items()]


def text(checked: Checked) -> str:
    """The report as text."""
    best = best_shortcut(checked.shortcuts)
    lines = ["", f"{checked.root}   {counted(len(checked.facts), 'picture')}", "", *_aligned(counts(checked.facts)), ""]
    if best:
        score = "best score that ignores defects (file size, brightness ...)"
        lines.append(f"{score}: {best.words}, image AUROC {best.auroc:.2f}")
    lines += checked.remarks
    for finding in checked.findings:
        lines += ["", *finding.lines()]
    lines += ["", f"{counted(len(checked.findings), 'finding')}" if checked.findings else "nothing found"]
    return "\n".join("  " + line if line else "" for line in lines)


def counts(facts: Sequence[Facts]) -> list[list[str]]:
    """A table with a header: a row per split and defect type."""
    rows = [["split", "type", "pictures", "unreadable", "masks", "width x height", "channels, bits", "brightness"]]
    for split, name in dict.fromkeys((each.picture.split, each.picture.defect_type) for each in facts):
        every = [each for each in facts if each.picture[1:3] == (split, name)]
        readable = [each for each in every if each.error is None]
        rows.append(
            [
                split,
                name,
                str(len(every)),
                str(len(every) - len(readable)),
                str(sum(each.picture.mask is not None for each in every)),
                _sizes([each.shape for each in readable]),
                " / ".join(dict.fromkeys(each.kind for each in readable)),
                _range([str(round(each.brightness)) for each in sorted(readable, key=lambda each: each.brightness)]),
            ]
        )
    return rows


def _sizes(shapes: Sequence[tuple[int, int]]) -> str:
    """The files with the fewest and with the most pixels."""
    by_area = sorted(shapes, key=lambda shape: (shape[0] * shape[1], shape))
    return _range([f"{width} x {height}" for height, width in by_area])


def _range(ordered: Sequence[str]) -> str:
    return " to ".join(dict.fromkeys([*ordered[:1], *ordered[-1:]]))


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def write(folder: Path, checked: Checked) -> None:
    """report.txt, report.json, pictures.csv and copies.csv."""
    write_text(folder / "report.txt", text(checked) + "\n")
    write_json(folder / "report.json", _as_dict(checked))
    strange = {each.path: each for each in checked.strangers}
    write_csv(
        folder / "pictures.csv",
        ["path", "split", "defect_type", "width", "height", "channels", "bits", "file_size", "brightness", "contrast"]
        + ["mask", "mask_share", "score", "times_median", "error"],
        (_row(each, strange.get(each.picture.path), checked.root) for each in checked.facts),
    )
    paths = names([each.picture.path for each in checked.facts], checked.root)
    write_csv(
        folder / "copies.csv",
        ["first", "second", "likeness", "exact"],
        ((paths[pair.first], paths[pair.second], pair.likeness, pair.exact) for pair in checked.pairs),
    )


def _row(each: Facts, stranger: Stranger | None, root: Path) -> list[Any]:
    picture = each.picture
    path, *mask = names([picture.path, *([picture.mask] if picture.mask else [])], root)
    measured = [*each.shape[::-1], each.channels, each.depth, each.file_size, each.brightness, each.contrast]
    return [
        *(path, picture.split, picture.defect_type),
        *(measured if each.error is None else [""] * len(measured)),
        *(mask or [""]),
        "" if each.mask_share is None else each.mask_share,
        *((stranger.score, stranger.times) if stranger else ("", "")),
        each.error or each.mask_error or "",
    ]


def _as_dict(checked: Checked) -> dict[str, Any]:
    header, *rows = counts(checked.facts)
    return {
        "category": str(checked.root),
        "pictures": len(checked.facts),
        "findings": [finding.as_dict() for finding in checked.findings],
        "counts": [dict(zip(header, row, strict=True)) for row in rows],
        "shortcuts": [each._asdict() for each in checked.shortcuts],
        "remarks": list(checked.remarks),
    }
