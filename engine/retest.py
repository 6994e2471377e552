"""How a run is tested again where its folder is now; trainNet.py finds only folders that are named as it names them."""

import contextlib
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.folder import RunFolder
from engine.student_file import read_metadata
from utils.command import ROOT
from utils.config import RunConfig
from utils.config_file import read_config
from utils.errors import UserError
from utils.files import read_json

NAMING = {"save_path", "distillType", "obj", "run"}  # keys that choose a run's folder


def how_to_test(config: RunConfig, run_dir: Path) -> str:
    """The command that tests the run in `run_dir`, if necessary after how to move the folder first."""
    folder = run_dir.absolute()  # a link has the name that counts
    name = folder.name.removeprefix(config.obj).removeprefix("-") or None
    where = {"save_path": str(folder.parent.parent), "run": name}
    script = "trainNet.py" if Path("trainNet.py").exists() else str(ROOT / "trainNet.py")
    if RunFolder(config.model_copy(update=where)).path != folder or (name is None and config.run is not None):
        needed = RunFolder(config.model_copy(update={"save_path": "SAVE_PATH"})).path
        moved = f"move {folder} to {needed}, where trainNet.py finds it, and test it again there: "
        folder, where = needed, {"save_path": "SAVE_PATH"}
    else:
        moved = ""
    words = ["python3", script, "--config", f"{folder}/config.yaml", "phase=test"]
    where["data_path"] = str(Path(config.data_path).resolve()) if Path(config.data_path).exists() else None
    return moved + shlex.join([*words, *(f"{key}={value}" for key, value in where.items() if value is not None)])


def check_retestable(folder: RunFolder, config: RunConfig) -> None:
    """Raises UserError if the report of a test on other data would be replaced without `overwrite`."""
    here = there = folder.places(config)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # a damaged report may be replaced
        report = read_json(folder.metrics_file)
        there = {key: Path(report[key]) for key in here}
    moved_together = relative_data_path(there) == relative_data_path(here)
    if there["data"] != here["data"] and not moved_together and not folder.overwrite:
        raise UserError(f"{folder.path} holds the report of a test on {there['data']}: replace it with overwrite=true")


def relative_data_path(places: dict[str, Path]) -> str:
    """From a run's folder to its data; absolute if there is no relative path (two drives)."""
    with contextlib.suppress(ValueError):
        return os.path.relpath(places["data"], places["folder"])
    return str(places["data"])


def data_override(run_dir: Path) -> list[str]:
    """`data_path=...` for the run in `run_dir`, if its own relative path leads elsewhere from the current folder.

    Nothing if run and data are neither where they were nor moved together.
    """
    here = Path(str(read_config(run_dir / "config.yaml").get("data_path")))
    with contextlib.suppress(UserError, KeyError):  # a later error says why; older students do not know the way
        there = Path(os.path.normpath(run_dir.resolve() / read_metadata(run_dir / "student.safetensors")["data"]))
        if not here.is_absolute() and there.exists() and there.resolve() != here.resolve():
            return [f"data_path={there}"]
    return []


def check_own_folder(source: str | Mapping[str, Any], overrides: Sequence[str], config: RunConfig) -> None:
    """Raises UserError if `source` is the configuration of a run that was moved: another folder would be tested."""
    folder = None if isinstance(source, Mapping) else Path(source).absolute().parent
    named = NAMING & {word.partition("=")[0].strip() for word in overrides}
    if folder is None or named or not (folder / "student.safetensors").exists():
        return
    if (expected := RunFolder(config).path).resolve() != folder.resolve():
        raise UserError(
            f"{source} belongs to a run in {expected}, but this file is in another folder; if the run was moved, add "
            f"save_path=FOLDER, or test it here: {how_to_test(config, folder)}"
        )
