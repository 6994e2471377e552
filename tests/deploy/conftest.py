"""A trained run that decides, and its exports; each is made once for all processes of a test session."""

import os

import onnx
import pytest
from filelock import FileLock

from deploy import card
from deploy.export import Export
from deploy.export_graph import Graphs
from tests.conftest import small, write_mvtec
from trainer import build_trainer

SPEED = [{"threads": 1, "p50_ms": 1.0, "p95_ms": 2.0, "runs": 10, "peak_memory_mb": 100.0}]


def trained(folder, training=None, **top):
    """A run of STPM on pictures of 64 px with the bundled teacher: an untrained network would hide differences."""
    data = folder / "data"
    if not data.exists():
        write_mvtec(data, train=24, good=4, bad=4)
    where = {"data_path": str(data), "save_path": str(folder / "results"), "weights": "bundled", "out_indice": [1, 2]}
    usual = {"calibration": 0.4, "false_reject_rate": 0.25, "precision": "fp32"}
    trainer = build_trainer(small("st", {"epochs": 6} | (training or {}), **(where | usual | top)))
    trainer.train()
    return trainer


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """shared(name, make) -> a folder that `make(folder)` fills, once for all processes."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def get(name, make):
        folder = root / name
        with FileLock(f"{folder}.lock"):
            if not (folder / "done").exists():
                folder.mkdir()
                make(folder)
                (folder / "done").touch()
        return folder

    return get


@pytest.fixture(scope="session")
def run_folder(shared):
    return shared("exported_run", trained) / "results/st/part"


@pytest.fixture
def unmeasured(monkeypatch):
    """Without the processes that measure an export: each would take seconds."""
    monkeypatch.setattr(card, "speed", lambda folder: SPEED)


@pytest.fixture
def export(unmeasured):
    """export(run, out, kind, precision, images, *words) -> the card."""

    def export(run, out, kind="onnx", precision="fp32", images=None, *words):
        return Export(run, kind, precision, images, words).write(out)

    return export


@pytest.fixture(scope="session")
def exported(run_folder, shared):
    """exported("onnx") -> the folder of the run's export."""

    def get(kind):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(card, "speed", lambda folder: SPEED)
            return (
                shared(
                    f"exported_{kind}",
                    lambda folder: Export(run_folder, kind, "fp32", None, []).write(folder / "model"),
                )
                / "model"
            )

    return get


@pytest.fixture
def same_graph(exported, monkeypatch):
    """Exports of the run get the graph that an earlier one has: making one takes seconds."""
    path = exported("onnx") / "model.onnx"
    monkeypatch.setattr(Graphs, "whole", lambda self: onnx.load(path))
