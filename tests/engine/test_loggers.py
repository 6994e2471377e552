"""TensorBoard and MLflow, read back with their own clients: what they got, once each; and runs that outlive them."""

import csv
import json
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest

from engine import loggers
from engine.cross import Folds
from engine.loggers import LOGGERS, parameters
from tests.conftest import REPO, killed_at_the_first_checkpoint, run_script, small
from trainer import build_trainer
from utils.config import Config, TrainingData
from utils.errors import UserError

BOTH = ["tensorboard", "mlflow"]
ROWS = [{"epoch": epoch, "train_loss": 1 / epoch, "seconds": 0.5} for epoch in (1, 2, 3)]


def settings(**top):
    return Config[TrainingData](**small("st", {"lr": 0.1}, data_path="data", **top))


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """MLflow's database before the first run: making one takes seconds."""
    mlflow = pytest.importorskip("mlflow")
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(empty_store, tmp_path, monkeypatch):
    """A database of its own for a test, in the current folder, where MLflow looks for it."""
    monkeypatch.chdir(tmp_path)
    with sqlite3.connect(empty_store) as source, sqlite3.connect(tmp_path / "mlflow.db") as copy:
        source.backup(copy)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def events(folder):
    """What TensorBoard reads from a run's folder."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    return accumulator.EventAccumulator(str(folder)).Reload()


def runs(name="results"):
    """MLflow's client and the runs of an experiment."""
    from mlflow import MlflowClient

    client = MlflowClient()
    return client, client.search_runs([client.get_experiment_by_name(name).experiment_id])


def table(folder):
    with (folder / "training.csv").open(newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def expected(folder):
    """(name, step) -> value, from the files of a run."""
    rows, metrics = table(folder), json.loads((folder / "metrics.json").read_text())["metrics"]
    found = {(f"training/{key}", row["epoch"]): row[key] for row in rows for key in row if key != "epoch"}
    return found | {(f"test/{key}", len(rows)): value for key, value in metrics.items()}


def in_tensorboard(folder):
    found = events(folder)
    return [((tag, each.step), each.value) for tag in found.Tags()["scalars"] for each in found.Scalars(tag)]


def in_mlflow(client, run):
    names = run.data.metrics
    return [((key, each.step), each.value) for key in names for each in client.get_metric_history(run.info.run_id, key)]


def assert_logged_once(folder):
    wanted = expected(folder)
    client, (run,) = runs()
    for found in (in_tensorboard(folder), in_mlflow(client, run)):
        assert len(found) == len(wanted)
        assert dict(found) == pytest.approx(wanted, rel=1e-6)  # TensorBoard keeps float32
    return client, run


@pytest.mark.slow
def test_a_run_is_logged_with_its_settings_metrics_and_pictures(config, store):
    trainer = build_trainer(config("st", logger=BOTH, run="a"))
    trainer.train()
    trainer.test()
    client, run = assert_logged_once(trainer.run_dir)
    assert run.info.run_name == "st/part-a" and run.info.status == "FINISHED"
    assert run.data.params == {key: str(value) for key, value in parameters(trainer.config).items()}
    assert run.data.params["TrainingData.epochs"] == "2" and run.data.params["out_indice"] == "[1, 2, 3]"
    assert {each.path for each in client.list_artifacts(run.info.run_id, "pictures/maps")} == {
        "pictures/maps/good",
        "pictures/maps/square",
    }
    picture = Path(run.info.artifact_uri, "pictures/training.png")
    assert picture.read_bytes() == (trainer.run_dir / "training.png").read_bytes()
    found = events(trainer.run_dir)
    assert {"training.png", "maps/good/000.png", "maps/square/000.png"} <= set(found.Tags()["images"])
    assert found.Images("training.png")[0].width > 100
    content = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"TrainingData.epochs" in content and b"distillType" in content


@pytest.mark.slow
def test_a_resumed_training_and_a_second_test_log_no_step_twice(config, store, monkeypatch):
    """Also those epochs that were logged, but not in a checkpoint, when the training was killed."""
    wanted = config("st", {"epochs": 3}, logger=BOTH)
    with killed_at_the_first_checkpoint(monkeypatch):
        build_trainer(wanted).train()
    assert runs()[1][0].info.status == "KILLED"
    trainer = build_trainer(wanted)
    trainer.train()
    trainer.test()
    assert assert_logged_once(trainer.run_dir)[1].info.status == "FINISHED"
    again = build_trainer(wanted, ["phase=test"])
    again.load()
    again.test()
    assert_logged_once(trainer.run_dir)


@pytest.mark.slow
def test_what_was_logged_after_the_last_checkpoint_is_not_logged_again(store):
    config, folder = settings(), store / "results/st/part"
    for done in (0, 1):
        for kind in LOGGERS.values():
            logger = kind(config, folder, ROWS[:done])
            for row in ROWS[done:]:
                logger.metrics(*loggers.of_epoch(row | {"seconds": np.random.rand()}))
            logger.close("FINISHED")
    client, (run,) = runs()
    for found in (in_tensorboard(folder), in_mlflow(client, run)):
        assert sorted(key for key, _ in found if key[0] == loggers.LOSS) == [(loggers.LOSS, n) for n in (1, 2, 3)]
        assert len(found) == 6


@pytest.mark.slow
def test_another_training_of_the_run_is_another_run_of_mlflow_and_replaces_the_events(store):
    config, folder = settings(), store / "results/st/part"
    for loss in (0.5, 0.25):
        for kind in LOGGERS.values():
            kind(config, folder, []).metrics({loggers.LOSS: loss}, 1)
    client, found = runs()
    assert sorted((run.info.status, run.data.metrics[loggers.LOSS]) for run in found) == [
        ("KILLED", 0.5),
        ("RUNNING", 0.25),
    ]
    assert in_tensorboard(folder) == [((loggers.LOSS, 1), 0.25)]
    stranger = [{"epoch": 1, "train_loss": 0.3}]  # a test of the earlier student must not be added to the last run
    assert loggers.MLflow(config, folder, stranger).run_id not in [run.info.run_id for run in found]


@pytest.mark.slow
def test_the_tests_of_a_category_of_a_unified_student_are_one_run(store):
    config, folder = settings(obj="a+b", logger="mlflow").model_copy(update={"unified": ["a", "b"]}), store / "a+b/a"
    folder.mkdir(parents=True)
    for auroc in (0.5, 0.75):
        loggers.log_test(config, folder, {"image_auroc": auroc})
    assert [run.data.metrics for run in runs()[1]] == [{"test/image_auroc": 0.75}]


@pytest.mark.slow
def test_loggers_change_nothing_and_may_be_added_later(config, store):
    """A finished run that is tested again with loggers has its whole training in them."""
    plain, logged = (build_trainer(config("st", run=f"r{i}", logger=("none", BOTH)[i])) for i in (0, 1))
    for trainer in (plain, logged):
        trainer.train()
        assert (trainer.run_dir / "mlflow.txt").exists() == (trainer is logged)
    same = zip(plain.student.state_dict().values(), logged.student.state_dict().values(), strict=True)
    assert all(one.equal(other) for one, other in same)
    later = build_trainer(config("st", run="r0", logger=BOTH, phase="test"))
    later.load()
    later.test()
    assert dict(in_tensorboard(later.run_dir)) == pytest.approx(expected(later.run_dir), rel=1e-6)
    client, found = runs()
    (run,) = [each for each in found if each.info.run_name == "st/part-r0"]
    assert dict(in_mlflow(client, run)) == pytest.approx(expected(later.run_dir))


class Recorder:
    """A logger that remembers what it got; `full` is the step at which it fails."""

    full = None

    def __init__(self, config, folder, rows):
        self.got = [("opened", len(rows))]
        self.opened.append(self)

    def metrics(self, values, step):
        if step == self.full:
            raise OSError("No space left on device")
        self.got.append((*values, step))

    def picture(self, path, name, step):
        assert path.is_file()
        self.got.append((name, step))

    def close(self, status):
        self.got.append(("closed", status))


def test_a_logger_gets_every_epoch_and_the_test_and_one_that_fails_ends_no_training(config, monkeypatch, capsys):
    class Failing(Recorder):
        full, opened = 2, []

    class Working(Recorder):
        opened = []

    monkeypatch.setattr(loggers, "LOGGERS", {"tensorboard": Failing, "mlflow": Working})
    trainer = build_trainer(config("st", {"epochs": 3}, logger=BOTH))
    trainer.train()
    metrics = trainer.test()
    training, test = (each.got for each in Working.opened)
    columns = [f"training/{key}" for key in table(trainer.run_dir)[0] if key != "epoch"]
    assert training == [("opened", 0), *((*columns, epoch) for epoch in (1, 2, 3)), ("closed", "FINISHED")]
    assert test[:2] == [("opened", 3), (*(f"test/{key}" for key in metrics), 3)] and test[-1] == ("closed", "FINISHED")
    assert {("training.png", 3), ("maps/good/000.png", 3), ("maps/square/000.png", 3)} <= set(test[2:])
    assert Failing.opened[0].got == training[:2]
    said = "note: logger tensorboard failed and is switched off; the run goes on (OSError: No space left on device)"
    assert capsys.readouterr().err.count(said) == 1


def test_events_are_written_anew_when_a_training_goes_on(tmp_path):
    """Whether it goes on after epoch 1, with epochs 2 and 3 logged before it was killed, or is another training."""
    for done in (3, 1, 0):
        logger = loggers.TensorBoard(settings(), tmp_path, ROWS[:done])
        for row in ROWS[done:]:
            logger.metrics(*loggers.of_epoch(row))
        logger.close("FINISHED")
    wanted = [((loggers.LOSS, n), pytest.approx(1 / n)) for n in (1, 2, 3)]
    assert in_tensorboard(tmp_path) == wanted + [(("training/seconds", n), 0.5) for n in (1, 2, 3)]


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_a_note(store, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    begin = time.monotonic()
    with loggers.logged(settings(logger="mlflow"), store / "results/st/part", []) as opened:
        opened.epoch({"epoch": 1, "train_loss": 0.5})
    assert time.monotonic() - begin < 30 and "note: logger mlflow failed and is switched off" in capsys.readouterr().err


@pytest.mark.parametrize("name", LOGGERS)
def test_a_missing_package_is_said_before_the_training(name, config, monkeypatch):
    trainer = build_trainer(config("st", logger=[name]))
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda package: None if package == name else package)
    with pytest.raises(UserError, match=f"logger: {name} is not installed; pip install -r requirements-loggers.txt"):
        trainer.train()
    assert not trainer.run_dir.exists()


def test_without_a_logger_the_table_of_the_training_is_not_read(tmp_path):
    (tmp_path / "training.csv").write_text("epoch;train_loss\n1;0\n")  # saved by another program
    loggers.log_test(settings(), tmp_path, {"image_auroc": 1.0})
    assert [path.name for path in tmp_path.iterdir()] == ["training.csv"]


def test_the_students_of_the_folds_are_not_logged(tmp_path):
    checked = settings(calibration="cross", logger=BOTH)
    assert loggers.chosen(checked) == BOTH
    assert loggers.chosen(Folds(lambda config, folder: config, checked, tmp_path)._trainer("1/5", "train")) == []


@pytest.mark.slow
def test_two_processes_log_once(tiny_mvtec, store):
    words = ["distillType=st", "weights=random", "backbone=resnet18", "obj=part", f"data_path={tiny_mvtec}"]
    words += ["logger=[tensorboard, mlflow]", "TrainingData.epochs=2", "TrainingData.batch_size=4"]
    words += ["TrainingData.img_size=64", "save_path=results"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    process = run_script(*launcher, REPO / "trainNet.py", *words, cwd=store, OMP_NUM_THREADS="1")
    assert process.returncode == 0, process.stderr
    assert_logged_once(store / "results/st/part")


@pytest.mark.slow
def test_the_cells_of_a_benchmark_are_logged_in_one_new_database(tiny_mvtec, tmp_path, monkeypatch):
    """They begin together, when there is no database yet; another logger is no reason to train again."""
    monkeypatch.chdir(tmp_path)
    words = ["--methods", "st", "--obj", "part", "--seeds", "2", "--jobs", "2", "--data_path", tiny_mvtec]
    words += ["--save_path", "results", "backbone=resnet18", "weights=random", "TrainingData.epochs=1"]
    words += ["TrainingData.batch_size=4", "TrainingData.img_size=64"]
    for logger in ("mlflow", "[tensorboard, mlflow]"):
        process = run_script(REPO / "benchmark.py", *words, f"logger={logger}", cwd=tmp_path)
        assert process.returncode == 0, process.stderr
        found = runs()[1]
        assert sorted(run.info.run_name for run in found) == ["st/part-default-0", "st/part-default-1"]
        assert all("test/image_auroc" in run.data.metrics for run in found)
    assert not list(tmp_path.rglob("events.out.tfevents.*"))
