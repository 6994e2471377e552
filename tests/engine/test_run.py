"""Training and test as a whole: nothing is lost, whatever fails and whenever."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine import machine, run
from engine.splits import train_datasets
from evaluation.report import summary
from tests.conftest import REPO, draw_good, killed_at_the_first_checkpoint, write_image, write_mvtec
from trainer import build_trainer
from utils.errors import UserError


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("overwrite", [False, True])
def test_interrupted_while_testing_the_same_command_only_tests(config, monkeypatch, capsys, overwrite):
    raw = config("st", {"epochs": 1}, overwrite=overwrite)
    first = build_trainer(raw)
    first.train()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run, "scoring", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt()))
        first.test()
    again = build_trainer(raw)
    monkeypatch.setattr(run, "fit", lambda *_: pytest.fail("trained again"))
    again.train()
    assert "already finished; only its test is missing" in capsys.readouterr().err
    assert all(torch.equal(a, b) for a, b in zip(first.student.parameters(), again.student.parameters(), strict=True))
    assert "aupro" in again.test()


@pytest.mark.parametrize("cache_mb", [0, 4096])
@pytest.mark.parametrize("fault", ["image", "mask", "size"])
def test_a_bad_test_image_shows_before_the_training_and_costs_nothing(config, tmp_path, cache_mb, fault):
    root = write_mvtec(tmp_path / "data", good=2, bad=2)
    raw = config("st", {"epochs": 1}, data_path=str(root), cache_mb=cache_mb)
    trainer = build_trainer(raw)
    trainer.train()
    trainer.test()
    before = contents(trainer.run_dir)
    bad = root / "part" / ("test/square/001.png" if fault == "image" else "ground_truth/square/001_mask.png")
    if fault == "size":
        Image.fromarray(np.zeros((10, 10), np.uint8)).save(bad)
    else:
        bad.write_bytes(b"")
    with pytest.raises(UserError, match=bad.name):
        build_trainer(raw).train()
    assert contents(trainer.run_dir) == before


def test_a_training_picture_replaced_by_another_of_the_same_size_is_noticed(config, tmp_path, monkeypatch):
    root = write_mvtec(tmp_path / "data")
    raw = config("st", {"epochs": 3}, data_path=str(root))
    trainer = build_trainer(raw)
    validate, calls = trainer.validate, []

    def interrupt(val):
        calls.append(0)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return validate(val)

    monkeypatch.setattr(trainer, "validate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    path = root / "part/train/good/003.png"
    size = path.stat().st_size
    pixels = np.array(Image.open(path))
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes().ljust(size, b"\0"))  # as long as before
    with pytest.raises(UserError, match="good images changed"):
        build_trainer(raw).train()


@pytest.mark.slow
def test_a_finished_run_is_kept_until_the_one_that_replaces_it_is_tested(config, tmp_path, capsys):
    root = write_mvtec(tmp_path / "data", good=2, bad=2)
    raw = config("st", {"epochs": 1}, data_path=str(root), cache_mb=0, overwrite=True)
    first = build_trainer(raw)
    first.train()
    first.test()
    before = {path.relative_to(first.run_dir): content for path, content in contents(first.run_dir).items()}
    second = build_trainer(raw, ["seed=1"])
    second.train()
    image = root / "part/test/square/001.png"
    hidden = image.rename(tmp_path / "hidden.png")  # it was there when the training began
    with pytest.raises(UserError, match="001.png"):
        second.test()
    assert "the run that was to be replaced is kept in" in capsys.readouterr().err
    kept = {path.relative_to(second.folder.previous): c for path, c in contents(second.folder.previous).items()}
    assert kept == {path: content for path, content in before.items() if path.name != "train.log"}
    hidden.rename(image)
    build_trainer(raw, ["seed=1"]).train()  # only its test is missing
    again = build_trainer(raw, ["seed=1"])
    again.load()
    again.test()
    assert not again.folder.previous.exists() and again.folder.metrics_file.exists()


def test_a_training_is_resumed_with_the_threads_it_began_with(config, monkeypatch):
    """The teacher's maps also round differently with another number of threads, such as an EfficientNet's."""
    own = torch.get_num_threads()
    raw = config("st", {"epochs": 2}, threads="auto")
    seen = []
    monkeypatch.setattr(run, "training_batches", lambda *_: seen.append(torch.get_num_threads()) or 1 / 0)
    trainer = build_trainer(raw)
    trainer.run_dir.mkdir(parents=True)
    monkeypatch.setattr(run, "threads_of", lambda path: 2 if own == 1 else 1)
    try:
        with pytest.raises(ZeroDivisionError):
            trainer.train()
        assert seen == [2 if own == 1 else 1]
    finally:
        torch.set_num_threads(own)


def test_a_checkpoint_of_another_number_of_processes_is_refused(config, monkeypatch):
    raw = config("st", {"epochs": 3})
    with killed_at_the_first_checkpoint(monkeypatch):
        build_trainer(raw).train()
    monkeypatch.setattr(run, "world_size", lambda: 2)
    with pytest.raises(UserError, match="processes was 1, is 2"):
        build_trainer(raw).train()


@pytest.mark.slow
def test_compiled_networks_train_and_test(config):
    trainer = build_trainer(config("st", {"epochs": 1}, compile=True))
    trainer.train()
    assert "aupro" in trainer.test()
    plain = build_trainer(config("st", {"epochs": 1}, phase="test"))
    plain.load()
    image = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(trainer.anomaly_map(image), plain.anomaly_map(image), rtol=0.05, atol=1e-3)


def test_a_deleted_results_folder_is_made_again_during_training(config):
    raw = config("st", {"epochs": 2})
    trainer = build_trainer(raw)
    validate = trainer.validate

    def delete(val):
        shutil.rmtree(trainer.run_dir, ignore_errors=True)
        return validate(val)

    trainer.validate = delete
    trainer.train()
    assert "aupro" in trainer.test()


def test_without_held_out_images_the_normal_scores_are_taken_from_training_images(config):
    trainer = build_trainer(config("st", {"epochs": 1, "val_ratio": 0.0}))
    trainer.train()
    assert trainer.metadata["normal"]["source"] == "good training images"
    assert len(trainer.metadata["normal"]["scores"]) == 10
    trainer.test()
    assert json.loads((trainer.run_dir / "metrics.json").read_text())["good_scores"]["source"] == "good training images"


MEMORY = """
import resource, sys
sys.path.insert(0, {repo!r})
import numpy as np, torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from pathlib import Path
from datasets.dataset import Sample
from engine.device import Compute
from engine.loading import as_it_is
from engine.stream import Scoring
from evaluation.report import evaluate
from models.detector import Detector

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.normalise = nn.Identity()
        self.conv = nn.Conv2d(3, 4, 3, 4, 1)
    def forward(self, image):
        return [self.conv(image)]

class Many(Dataset):
    samples = [Sample(Path(f"{{i}}.png"), None, "good" if i % 2 else "hole") for i in range({count})]
    def __len__(self):
        return len(self.samples)
    def __getitems__(self, indices):
        images = torch.randint(0, 255, (len(indices), 3, 64, 64), dtype=torch.uint8)
        masks = torch.zeros(len(indices), 64, 64, dtype=torch.bool)
        inside = torch.tensor([[0, 0, 64, 64]] * len(indices))
        index, region = torch.tensor(indices), [None] * len(indices)
        return {{"image": images, "mask": masks, "inside": inside, "index": index, "region": region}}

detector = Detector(Two(), Two())
batches = DataLoader(Many(), 50, collate_fn=as_it_is)
tested = evaluate(Many.samples, Scoring(detector, Compute(torch.device("cpu"), torch.float32), batches, "testing"))
assert len(tested.scores) == {count} and "image_auroc" in tested.metrics
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_kib(count):
    code = MEMORY.format(repo=str(REPO), count=count)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images_without_masks():
    """5,000 maps of 64 x 64 alone would be 80 MB, and the images 60 MB more."""
    assert peak_kib(5000) - peak_kib(500) < 15_000


@pytest.mark.slow
def test_the_gpus_peak_of_the_training_stays_in_the_report_of_a_later_test(config, monkeypatch):
    peak = [900.0]  # of an earlier run in this process
    monkeypatch.setattr(run, "forget_gpu_peak", lambda device: peak.__setitem__(0, 5.0))
    for module in (run, machine):
        monkeypatch.setattr(module, "gpu_peak", lambda device: {machine.GPU_PEAK: peak[0]})
    fit = run.fit
    monkeypatch.setattr(run, "fit", lambda *all: [fit(*all), peak.__setitem__(0, max(*peak, 40.0))][0])
    raw = config("st", {"epochs": 1})
    build_trainer(raw).train()
    peak[0] = 900.0
    trainer = build_trainer(raw | {"phase": "test"})
    trainer.load()
    trainer.test()
    assert json.loads((trainer.run_dir / "metrics.json").read_text(encoding="utf-8"))[machine.GPU_PEAK] == 40


def test_16_bit_and_8_bit_images_are_tested_together(config, tmp_path):
    root = write_mvtec(tmp_path / "data", good=2, bad=2)
    image = draw_good(np.random.default_rng(0)).astype(np.uint16) * 257
    write_image(root / "part/test/good/deep.png", image)
    write_image(root / "part/train/good/deep.png", image)
    trainer = build_trainer(config("st", {"epochs": 1}, data_path=str(root)))
    trainer.train()
    assert "aupro" in trainer.test()


# Decisions


@pytest.mark.parametrize("method", ["st", "rd"])
def test_calibration_images_take_part_in_nothing_else(config, method):
    trainer = build_trainer(config(method, {"epochs": 1}, calibration=0.3, false_reject_rate=0.3))
    train, val, calibration = train_datasets(trainer.config)
    names = [{sample.path.name for sample in part.samples} for part in (train, val, calibration)]
    assert len(names[2]) == 3 and len(set.union(*names)) == sum(map(len, names)) == 10
    read = []
    loss, validate = trainer.loss, trainer.validate
    trainer.loss = lambda batch: read.extend(batch["path"]) or loss(batch)
    trainer.validate = lambda val: read.extend(path for batch in val for path in batch["path"]) or validate(val)
    trainer.train()
    assert {Path(path).name for path in read} == names[0] | (names[1] if method == "st" else set())
    normal = trainer.metadata["normal"]
    assert normal["source"] == "calibration images" and normal["arithmetic"] == str(trainer.compute)


def test_a_test_decides_and_compares_with_the_promise(config):
    raw = config("st", {"epochs": 2, "lr": 0.1}, calibration=0.3, false_reject_rate=0.25)
    trainer = build_trainer(raw)
    trainer.train()
    trainer.test()
    report = json.loads(trainer.folder.metrics_file.read_text(encoding="utf-8"))["decisions"]
    scores = report_scores(trainer.run_dir)
    assert report["images"] == 3 and report["threshold"] == max(trainer.metadata["normal"]["scores"])
    for row in scores:
        assert row["decision"] == ("reject" if float(row["score"]) > report["threshold"] else "accept")
        assert 0.25 <= float(row["p_value"]) <= 1
    rejected = sum(row["decision"] == "reject" for row in scores if row["label"] == "0")
    assert report["false_rejects"]["count"] == rejected and report["misses"]["of"] == 3
    said = summary(trainer.run_dir)
    assert "at most 25 % of good parts are rejected" in said and "defective test images accepted: " in said
    # Another rate needs no training, and an impossible one is a note.
    again = build_trainer(raw, ["phase=test", "false_reject_rate=0.01"])
    again.load()
    again.test()
    report = json.loads(again.folder.metrics_file.read_text(encoding="utf-8"))
    assert report["decisions"] is None and "at least 99 good images" in report["notes"][-1]


@pytest.mark.slow
def test_with_a_part_pattern_promise_and_test_are_about_parts(config, tmp_path):
    root = write_mvtec(tmp_path / "data", train=12, good=4, bad=4)
    for path in [*root.rglob("*.png")]:
        number, _, rest = path.stem.partition("_")
        path.rename(path.with_name("_".join(filter(None, [*map(str, divmod(int(number), 2)), rest])) + ".png"))
    words = {"calibration": 0.3, "false_reject_rate": 0.34, "part_pattern": "^[0-9]+"}
    trainer = build_trainer(config("st", {"epochs": 1}, data_path=str(root), **words))
    trainer.train()
    trainer.test()
    found = json.loads(trainer.folder.metrics_file.read_text(encoding="utf-8"))["decisions"]
    assert (found["images"], found["unit"], found["test_unit"]) == (2, "parts", "parts")
    assert found["false_rejects"]["of"] == found["misses"]["of"] == 2
    said = summary(trainer.run_dir)
    assert "for these 2 calibration parts" in said and "good test parts rejected: " in said


def test_rates_in_the_wrong_order_are_found_before_the_training(config):
    trainer = build_trainer(config("st", {"epochs": 1}, false_reject_rate=0.1, review_rate=0.05))
    with pytest.raises(UserError, match="review_rate 0.05 must be above false_reject_rate 0.1"):
        trainer.train()
    assert not trainer.run_dir.exists()


def report_scores(folder):
    with (folder / "scores.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_student_scores_its_calibration_images_as_a_test_would(config, tmp_path):
    """The same images in test/good get the same scores, bit for bit."""
    raw = config("st", {"epochs": 1}, calibration=0.4)
    trainer = build_trainer(raw)
    trainer.train()
    calibration = train_datasets(trainer.config)[2]
    (tmp_path / "again/part/test/good").mkdir(parents=True)
    for sample in calibration.samples:
        shutil.copy(sample.path, tmp_path / "again/part/test/good")
    again = build_trainer(raw, ["phase=test", f"data_path={tmp_path / 'again'}"])
    again.load()
    again.test()
    scores = sorted(float(row["score"]) for row in report_scores(again.run_dir))
    assert scores == pytest.approx(trainer.metadata["normal"]["scores"], rel=1e-12)
