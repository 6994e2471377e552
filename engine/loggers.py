"""The key `logger`: TensorBoard and MLflow get what is in the files of a run. They never change or end a training."""

import contextlib
import csv
import importlib.util
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
from filelock import FileLock
from PIL import Image

from utils.config import RunConfig
from utils.console import note
from utils.errors import UserError
from utils.files import write_text
from utils.ranks import is_main

Row = Mapping[str, float]  # a row of training.csv
LOSS, TEST = "training/train_loss", "test/"  # names of metrics begin with training/ or test/
MOST_PICTURES = 12  # of test images


class Logger(Protocol):
    """A tool, opened with the rows of training.csv that are already there."""

    def metrics(self, values: Mapping[str, float], step: int) -> None: ...
    def picture(self, path: Path, name: str, step: int) -> None: ...
    def close(self, status: str) -> None: ...


class TensorBoard:
    """Event files in the run's folder, written anew each time, so that no step is there twice."""

    def __init__(self, config: RunConfig, folder: Path, rows: Sequence[Row]):
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        for earlier in folder.glob("events.out.tfevents.*"):
            earlier.unlink()
        self.writer = SummaryWriter(str(folder))
        # Without the first summary, the columns of the table: TensorBoard collects them from all runs.
        for summary in hparams(parameters(config), {})[1:]:
            self.writer.file_writer.add_summary(summary)
        for row in rows:
            self.metrics(*of_epoch(row))

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def picture(self, path: Path, name: str, step: int) -> None:
        with Image.open(path) as image:
            self.writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def close(self, status: str) -> None:
        self.writer.close()


MLFLOW_ID = "mlflow.txt"


class MLflow:
    """A run of MLflow; mlflow.txt in the run's folder has its id, so that a resumed training or a test continues it.

    It goes where MLflow itself writes: to MLFLOW_TRACKING_URI, or else into mlflow.db in the current folder.
    """

    def __init__(self, config: RunConfig, folder: Path, rows: Sequence[Row]):
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # a factory's runs are nobody else's business
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # its default asks a dead server for minutes
        from mlflow import MlflowClient

        self.id_file, self.logged = folder / MLFLOW_ID, {}
        # MLflow creates its database without a lock, and the runs of a benchmark begin together.
        with FileLock([*folder.absolute().parents][:2][-1] / ".mlflow.lock"):
            self.client = MlflowClient()
            self.run_id = self._found(config, rows) or self._created(config, folder)
        self.client.update_run(self.run_id, status="RUNNING")
        for row in rows:
            self.metrics(*of_epoch(row))

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        new = {name: value for name, value in values.items() if not self._is_logged(name, value, step)}
        self.client.log_batch(self.run_id, [Metric(name, value, now, step) for name, value in new.items()])

    def picture(self, path: Path, name: str, step: int) -> None:
        self.client.log_artifact(self.run_id, str(path), PurePosixPath("pictures", name).parent.as_posix())

    def close(self, status: str) -> None:
        self.client.set_terminated(self.run_id, status)

    def _found(self, config: RunConfig, rows: Sequence[Row]) -> str | None:
        """The run in which this training began; None for a new training."""
        from mlflow.exceptions import MlflowException

        run_id = self.id_file.read_text(encoding="utf-8").strip() if self.id_file.exists() else None
        try:
            run = run_id and self.client.get_run(run_id)
        except MlflowException:  # of another server, or deleted
            run = None
        if run is None:
            return None
        losses = self._history(run_id, LOSS)
        only_tests = config.unified and not losses  # the folder of a category
        if (rows or only_tests) and all(
            math.isclose(losses.get(row["epoch"], row["train_loss"]), row["train_loss"]) for row in rows
        ):
            self.logged = {name: self._history(run_id, name) for name in run.data.metrics}
            return run_id
        if run.info.status == "RUNNING":
            self.client.set_terminated(run_id, "KILLED")
        return None

    def _created(self, config: RunConfig, folder: Path) -> str:
        from mlflow.entities import Param

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or Path(config.save_path).resolve().name
        experiment = self.client.get_experiment_by_name(name)
        experiment_id = experiment.experiment_id if experiment else self.client.create_experiment(name)
        run_id = self.client.create_run(experiment_id, run_name=f"{config.distillType}/{folder.name}").info.run_id
        self.client.log_batch(run_id, params=[Param(key, str(value)) for key, value in parameters(config).items()])
        write_text(self.id_file, f"{run_id}\n")
        return run_id

    def _history(self, run_id: str, name: str) -> dict[int, float]:
        return {metric.step: metric.value for metric in self.client.get_metric_history(run_id, name)}

    def _is_logged(self, name: str, value: float, step: int) -> bool:
        """An epoch is logged once, also if its repetition after an interruption differs; a test again if it differs."""
        earlier = self.logged.get(name, {}).get(step)
        return earlier is not None and (not name.startswith(TEST) or earlier == value)


LOGGERS: dict[str, Callable[[RunConfig, Path, Sequence[Row]], Logger]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
}


class Loggers:
    """The loggers of a run. One that fails is named and left out from then on."""

    def __init__(self, config: RunConfig, folder: Path, rows: Sequence[Row]):
        self.open: dict[str, Logger] = {}
        for name in chosen(config) if is_main() else []:
            with self._forgiving(name):
                self.open[name] = LOGGERS[name](config, folder, rows)

    def epoch(self, row: Row) -> None:
        self._each(lambda logger: logger.metrics(*of_epoch(row)))

    def test(self, metrics: Row, pictures: Mapping[str, Path], step: int) -> None:
        self._each(lambda logger: logger.metrics({f"{TEST}{name}": value for name, value in metrics.items()}, step))
        for name, path in pictures.items():
            self._each(lambda logger, path=path, name=name: logger.picture(path, name, step))

    def close(self, status: str) -> None:
        self._each(lambda logger: logger.close(status))

    def _each(self, act: Callable[[Logger], None]) -> None:
        for name in list(self.open):
            with self._forgiving(name):
                act(self.open[name])

    @contextlib.contextmanager
    def _forgiving(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each tool has its own
            self.open.pop(name, None)
            reason = next(iter(str(error).splitlines()), "")
            note(f"logger {name} failed and is switched off; the run goes on ({type(error).__name__}: {reason:.300})")


@contextlib.contextmanager
def logged(config: RunConfig, folder: Path, rows: Sequence[Row]) -> Iterator[Loggers]:
    """The loggers of `config` during a training or a test, after which each says how it ended."""
    loggers, status = Loggers(config, folder, rows), "FAILED"
    try:
        yield loggers
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        loggers.close(status)


def log_test(config: RunConfig, folder: Path, metrics: Row) -> None:
    """Add the metrics of a test, and pictures, to what the training has logged."""
    rows, table = [], folder / "training.csv"
    if chosen(config) and table.exists():  # not of a student that was saved without a training
        with table.open(encoding="utf-8", newline="") as file:
            rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    with logged(config, folder, rows) as loggers:
        loggers.test(metrics, pictures_of(folder), len(rows))


def pictures_of(folder: Path) -> dict[str, Path]:
    """A few pictures of a run by their names: those of the run itself, and the first of each defect type."""
    firsts = [next(iter(sorted(kind.glob("*.png"))), None) for kind in sorted((folder / "maps").glob("*"))]
    found = [*sorted(folder.glob("*.png")), *filter(None, firsts[:MOST_PICTURES])]
    return {path.relative_to(folder).as_posix(): path for path in found}


def check_installed(config: RunConfig) -> None:
    """Raises UserError for a logger whose package is missing."""
    for name in chosen(config):
        if importlib.util.find_spec(name) is None:
            raise UserError(f"logger: {name} is not installed; pip install -r requirements-loggers.txt")


def chosen(config: RunConfig) -> list[str]:
    """The names of the loggers, each once."""
    names = [config.logger] if isinstance(config.logger, str) else config.logger
    return [name for name in LOGGERS if name in names]


def of_epoch(row: Row) -> tuple[dict[str, float], int]:
    """The values of a row under the names of metrics, and its epoch."""
    return {f"training/{key}": value for key, value in row.items() if key != "epoch"}, int(row["epoch"])


def parameters(config: RunConfig) -> dict[str, Any]:
    """All values of a configuration by dotted key, as numbers, yes or no, or text."""
    flat = {}
    for key, value in config.model_dump(mode="json").items():
        flat |= {f"{key}.{part}": each for part, each in value.items()} if isinstance(value, dict) else {key: value}
    return {key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in flat.items()}
