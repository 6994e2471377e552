"""Many runs, one after another or side by side: the cells of a comparison, ordinary runs in folders of their own."""

import contextlib
import ctypes
import functools
import hashlib
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from engine.study import Study
from utils.command import ROOT, recipes
from utils.config_file import read_config
from utils.errors import UserError
from utils.files import read_json, write_json

# These change no result; a folder may have been moved.
NOT_COMPARED = set("phase save_path overwrite resume logger device threads compile workers cache_mb".split())
CELL = "cell.json"
NOT_A_FILE = ("bundled", "imagenet", "random", "auto")  # values of the key `weights`
LITE = "tf_efficientnet_lite"  # these networks profit from `border`
LONG = 80  # characters of a teacher in the name of a folder
ROUNDS = 3  # in which a cell is tried whose process was killed from outside
END_WITH_PARENT = 1  # PR_SET_PDEATHSIG, see prctl(2)


class Cell(NamedTuple):
    """One run: a method, a category, a teacher, a seed."""

    method: str
    category: str
    teacher: str
    seed: int
    file: str  # the method's recipe
    words: tuple[str, ...]  # key=value words of all that this run changes in it
    folder: Path
    config: dict[str, Any]  # the checked configuration; empty if it has a mistake
    mistake: str | None = None
    teacher_hash: str | None = None  # see `teacher_hash`

    @property
    def name(self) -> str:
        return f"{self.method} {self.category} {self.teacher} seed {self.seed}"

    def finished(self) -> bool:
        """Whether its folder has a tested run of these settings, and of a teacher file with these contents."""
        report = finished_report(self.folder)
        if self.mistake or report is None or not alike(report["config"], self.config):
            return False
        return _agree(read_cell(self).get("tested_teacher_hash"), self.teacher_hash)


def alike(done: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether two checked configurations give the same result, as far as `done` knows the keys."""
    keys = [key for key in wanted if key not in NOT_COMPARED and key != "TrainingData"]
    sections = [(done, wanted, keys), (done["TrainingData"], wanted["TrainingData"], wanted["TrainingData"])]
    return all(there.get(key, here[key]) == here[key] for there, here, names in sections for key in names)


def _agree(one: str | None, other: str | None) -> bool:
    """Whether two hashes are equal, as far as both are known: earlier versions did not keep them."""
    return one is None or other is None or one == other


def teacher_hash(config: dict[str, Any]) -> str | None:
    """Of the teacher's files, if `weights` in a checked configuration names some; None if one of them is not there."""
    weights = config.get("weights", [])
    paths = [weights] if isinstance(weights, str) else weights
    paths = [Path(path).expanduser() for path in paths if path not in NOT_A_FILE]
    try:
        hashes = [_contents(path, path.stat().st_mtime_ns) for path in paths]
    except OSError:  # the training will say so
        return None
    return hashlib.sha256("".join(hashes).encode()).hexdigest() if hashes else None


@functools.cache
def _contents(path: Path, _modified: int) -> str:
    """The hash of a weights file and of the manifest beside it, which has the mean and std of its images."""
    manifest = path.with_suffix(".json")
    parts = [path.read_bytes(), manifest.read_bytes() if manifest.is_file() else b""]
    return "".join(hashlib.sha256(part).hexdigest() for part in parts)


def finished_report(folder: Path) -> dict[str, Any] | None:
    """The contents of a run's metrics.json; None if there is none, or a damaged one."""
    try:
        report = read_json(folder / "metrics.json")
    except (OSError, ValueError):
        return None
    return report if isinstance(report, dict) and "config" in report else None


def plan(
    study: Study, categories: Sequence[str], checked: Callable[[str, Sequence[str]], dict[str, Any]]
) -> list[Cell]:
    """The cells of all combinations that no rule leaves out, those of one category together.

    `checked` gives the configuration of a recipe's file with key=value words, or raises UserError.
    Raises UserError if the rules leave out all of them, or all have the same mistake.
    """
    files = recipe_files()
    save_path, cells = Path(study.save_path), []
    for category, method, teacher in itertools.product(categories, study.methods, study.teachers):
        rules = [rule for rule in study.where if rule.holds(method, category, teacher)]
        if any(rule.skip for rule in rules):
            continue
        words = [*_teacher_words(study, teacher, files[method]), *study.words]
        words += [word for rule in rules for word in rule.words]
        for seed in range(study.seeds):
            run = f"{_as_name(teacher)}-{seed}"
            own = [f"data_path={study.data_path}", f"obj={category}", f"seed={seed}", f"save_path={save_path}"]
            folder, own = save_path / method / f"{category}-{run}", (*own, f"run={run}", *words)
            cell = Cell(method, category, teacher, seed, files[method], own, folder, {})
            try:
                config = checked(cell.file, own)
                cells.append(cell._replace(config=config, teacher_hash=teacher_hash(config)))
            except UserError as error:
                cells.append(cell._replace(mistake=str(error)))
    if not cells:
        raise UserError("where: the rules leave out all runs")
    if cells[0].mistake and len({cell.mistake for cell in cells}) == 1:
        raise UserError(cells[0].mistake)
    return cells


def _as_name(teacher: str) -> str:
    """A part of a folder's name; a long path keeps its end, and a hash tells it from others with that end."""
    name = re.sub(r"[/\\:]", "_", teacher.replace("=", "-"))
    return name if len(name) <= LONG else f"{name[-LONG:]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def recipe_files() -> dict[str, str]:
    """The file in configs/ of each method, by `distillType`."""
    return {method: str(ROOT / file) for method, file, _ in recipes("configs", "distillType")}


def _teacher_words(study: Study, teacher: str, file: str) -> list[str]:
    if isinstance(study.teachers, dict):
        return study.teachers[teacher]
    if teacher == "default":
        return []
    backbone, _, weights = teacher.rpartition("=") if "=" in teacher else (teacher, "", "")
    if teacher in NOT_A_FILE or "=" not in teacher and Path(teacher).suffix in (".safetensors", ".pth"):
        backbone, weights = "", teacher
    pair = isinstance(read_config(file)["backbone"], list)
    words = [f"backbone={f'[{backbone},{backbone}]' if pair else backbone}"] if backbone else []
    words += [f"weights={weights}"] if weights else []
    return words + border_words(backbone)


def border_words(backbone: str) -> list[str]:
    """Words for networks whose features at the image's border disturb the maps; see docs/results.md."""
    return ["TrainingData.border=1"] if backbone.startswith(LITE) else []


class Outcome(NamedTuple):
    """What became of a cell: `error` is a sentence, None if it is finished."""

    cell: Cell
    error: str | None


def run_cell(cell: Cell, threads: int, folder: Path) -> Outcome:
    """Train and test in a process of its own, started in `folder`, unless the cell is finished.

    Also writes cell.json: see `begin`, and the highest memory that it took.
    """
    try:
        return Outcome(cell, cell.mistake or (None if cell.finished() else _trained(cell, threads, folder)))
    except (OSError, UserError) as error:  # an exception would look like a lost worker
        return Outcome(cell, str(error))


def _trained(cell: Cell, threads: int, folder: Path) -> str | None:
    """The sentence of a run that failed."""
    own = cell.config["threads"]
    threads = threads if own == "auto" else own
    words = [*cell.words, f"threads={threads}", *begin(cell)]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "trainNet.py"), "--config", cell.file, *words],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        preexec_fn=_end_with_parent if sys.platform == "linux" else None,
    )
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0) if hasattr(os, "wait4") else (0, process.wait(), None)
    if status:
        return _reason(said, os.waitstatus_to_exitcode(status) if usage else status)
    # Kilobytes on Linux, bytes on macOS.
    memory = usage and round(usage.ru_maxrss / (1024 if sys.platform == "linux" else 1024**2))
    end(cell, {"peak_memory_mib": memory} if memory else {})
    return None


def begin(cell: Cell) -> list[str]:
    """Note in cell.json what is now trained; returns words for what is there of other settings or another teacher."""
    noted, words = read_cell(cell), []
    begun = noted.get("config")
    if begun and not (alike(begun, cell.config) and _agree(noted.get("teacher_hash"), cell.teacher_hash)):
        words = ["resume=false", "overwrite=true"]
    elif (cell.folder / "metrics.json").exists():
        words = ["overwrite=true"]
    cell.folder.mkdir(parents=True, exist_ok=True)
    now = {"config": cell.config, "teacher_hash": cell.teacher_hash}
    # Until the new run is tested, metrics.json is that of the earlier one.
    write_json(cell.folder / CELL, now | {key: noted[key] for key in ("tested_teacher_hash",) if key in noted})
    return words


def end(cell: Cell, cost: dict[str, float]) -> None:
    """Note in cell.json that the run is trained and tested, and what it cost."""
    write_json(cell.folder / CELL, read_cell(cell) | {"tested_teacher_hash": cell.teacher_hash} | cost)


def read_cell(cell: Cell) -> dict[str, Any]:
    """The contents of cell.json; nothing if it is missing or damaged."""
    with contextlib.suppress(OSError, ValueError):
        found = read_json(cell.folder / CELL)
        return found if isinstance(found, dict) else {}
    return {}


def _end_with_parent() -> None:
    """A training must not go on, and keep its folder locked, when the process that counts it is killed."""
    ctypes.CDLL(None).prctl(END_WITH_PARENT, 9)


def _reason(said: str, status: int) -> str:
    lines = [line for line in said.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if status < 0 and not errors:
        return f"killed by signal {-status}" + (" (perhaps there was not enough memory)" if status == -9 else "")
    return (errors or lines or [f"ended with status {status}"])[-1]


def run_cells(cells: Sequence[Cell], jobs: int, threads: int) -> Iterator[Outcome]:
    """Outcomes as they come, from `jobs` workers of the current joblib backend.

    A worker that is killed loses nothing but time: its cell, and those it takes along, are tried again.
    """
    from joblib import Parallel, delayed

    waiting = {cell.folder: cell for cell in cells}
    for left in reversed(range(ROUNDS)):
        parallel = Parallel(n_jobs=jobs, return_as=_return_as(), batch_size=1, pre_dispatch="all")
        try:
            for outcome in parallel(delayed(run_cell)(cell, threads, Path.cwd()) for cell in list(waiting.values())):
                waiting.pop(outcome.cell.folder)
                yield outcome
            return
        except Exception as error:  # of the backend: each has its own for a lost worker
            if not left:
                reason = next(iter(str(error).splitlines()), "") or type(error).__name__
                yield from (Outcome(cell, f"its worker was lost ({reason})") for cell in waiting.values())


def _return_as() -> str:
    """Ray's backend gives all results at the end."""
    from joblib.parallel import get_active_backend

    return "generator_unordered" if get_active_backend()[0].supports_return_generator else "list"
