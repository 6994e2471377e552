"""How a run is tested again where its folder is now; trainNet.py finds only folders that are named as it names them."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.folder import RunFolder
from utils.command import ROOT
from utils.config import RunConfig
from utils.errors import UserError

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


def check_own_folder(source: str | Mapping[str, Any], overrides: Sequence[str], config: RunConfig) -> None:
    """Raises UserError if `source` is the configuration of a run that was moved: another folder would be tested."""
    folder = None if isinstance(source, Mapping) else Path(source).absolute().parent
    named = NAMING & {word.partition("=")[0].strip() for word in overrides}
    if folder is None or named or not (folder / "student.safetensors").exists():
        return
    if (expected := RunFolder(config).path).resolve() != folder.resolve():
        raise UserError(
            f"by its settings, the run of {source} is in {expected}, not in the folder of this file; "
            f"add save_path=FOLDER or, to test this run: {how_to_test(config, folder)}"
        )
