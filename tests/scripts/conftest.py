"""A folder with a small data set, a config.yaml and its finished run, and scripts called in this process."""

import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import trainNet
from tests.conftest import PLACE, write_mvtec
from utils.command import run

CONFIG = """\
data_path: data
obj: part
distillType: st
backbone: resnet18
out_indice: [1, 2]
weights: random
device: {device}
TrainingData:
  epochs: 1
  batch_size: 4
  img_size: 64
  crop_size: 64
"""


class Workplace(NamedTuple):
    """The folder that a user works in."""

    path: Path

    @property
    def run(self) -> Path:
        return self.path / "results/st/part"

    def kept(self) -> dict[str, bytes]:
        """All files of the finished run."""
        return {str(path.relative_to(self.run)): path.read_bytes() for path in self.run.rglob("*") if path.is_file()}


class Said(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def last(self) -> str:
        return (self.err.strip().splitlines() or [""])[-1]


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    write_mvtec(folder / "data", train=5, good=1, bad=2)
    (folder / "config.yaml").write_text(CONFIG.format(**PLACE))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["trainNet.py"])
        run(trainNet.main)
    return folder


@pytest.fixture
def workplace(finished, tmp_path, monkeypatch):
    """A copy of the finished run and all it needs, in the current folder."""
    here = tmp_path / "here"
    shutil.copytree(finished, here)
    monkeypatch.chdir(here)
    return Workplace(here)


@pytest.fixture
def call(monkeypatch, capsys):
    """call(script, *words): what main() of this module prints, and its exit code."""

    def call(script, *words):
        monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *map(str, words)])
        capsys.readouterr()
        code = 0
        try:
            run(script.main)
        except SystemExit as stop:
            code = stop.code
        return Said(code, *capsys.readouterr())

    return call
