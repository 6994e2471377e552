"""An interrupted training continues as if it had not been interrupted."""

import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import REPO, run_script
from trainer import build_trainer
from utils.errors import UserError

WORDS = ["distillType=st", "backbone=resnet18", "weights=random", "obj=part", "TrainingData.epochs=12"]
WORDS += ["TrainingData.batch_size=4", "TrainingData.img_size=64", "TrainingData.crop_size=64", "threads=1"]


def start_and_kill(words, checkpoint):
    """Start a training and kill -9 it after its first checkpoint."""
    process = subprocess.Popen(
        [sys.executable, "trainNet.py", *words], cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and checkpoint.exists()


def rows(folder):
    """training.csv without the seconds, which differ each time."""
    return [line.rpartition(",")[0] for line in (folder / "training.csv").read_text().splitlines()]


@pytest.mark.slow
def test_a_killed_training_ends_bit_for_bit_like_an_uninterrupted_one(tiny_mvtec, tmp_path):
    words = [*WORDS, f"data_path={tiny_mvtec}"]
    straight = run_script("trainNet.py", *words, f"save_path={tmp_path / 'a'}")
    assert straight.returncode == 0, straight.stderr
    killed = tmp_path / "b/st/part"
    start_and_kill([*words, f"save_path={tmp_path / 'b'}"], killed / "checkpoint.pt")
    assert not (killed / "student.safetensors").exists()
    resumed = run_script("trainNet.py", *words, f"save_path={tmp_path / 'b'}")
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming the interrupted training after epoch" in resumed.stderr
    a, b = (load_file(tmp_path / x / "st/part/student.safetensors") for x in "ab")
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    assert rows(tmp_path / "a/st/part") == rows(killed) and len(rows(killed)) == 13
    assert straight.stdout.replace("/a/", "/b/") == resumed.stdout
    assert not (killed / "checkpoint.pt").exists()


@pytest.fixture
def interrupted(config, monkeypatch):
    """A configuration whose training stopped after its first of three epochs."""
    raw = config("st", {"epochs": 3})
    trainer = build_trainer(raw)
    with monkeypatch.context() as patch:
        calls = []
        validate = trainer.validate

        def fail_in_the_second_epoch(val):
            calls.append(0)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return validate(val)

        patch.setattr(trainer, "validate", fail_in_the_second_epoch)
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
    assert (trainer.run_dir / "checkpoint.pt").exists()
    return raw


def test_other_settings_do_not_overwrite_an_interrupted_run(interrupted):
    trainer = build_trainer(interrupted, ["TrainingData.lr=0.1", "seed=3"])
    checkpoint = trainer.run_dir / "checkpoint.pt"
    before = checkpoint.read_bytes()
    with pytest.raises(UserError, match=r"seed was 0, is 3, TrainingData.lr was 0.4, is 0.1.*resume=false"):
        trainer.train()
    assert checkpoint.read_bytes() == before


def test_resume_false_starts_over(interrupted, capsys):
    trainer = build_trainer(interrupted, ["resume=false", "TrainingData.epochs=1"])
    trainer.train()
    assert "resuming" not in capsys.readouterr().err
    assert trainer.metadata["best_epoch"] == 1 and not (trainer.run_dir / "checkpoint.pt").exists()


def test_keys_without_effect_may_change(interrupted, capsys):
    build_trainer(interrupted, ["workers=0", "cache_mb=100"]).train()
    assert "after epoch 1 of 3" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_named(interrupted):
    trainer = build_trainer(interrupted)
    (trainer.run_dir / "checkpoint.pt").write_bytes(b"rubbish")
    with pytest.raises(UserError, match="checkpoint.pt: the checkpoint is damaged.*resume=false"):
        trainer.train()
