"""torchrun with two processes (gloo on the CPU) gives what one process gives."""

import csv
import json

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import REPO, run_script

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
WORDS = ["weights=random", "obj=part", "precision=fp32", "TrainingData.epochs=2"]
WORDS += ["TrainingData.batch_size=4", "TrainingData.img_size=64", "TrainingData.crop_size=64"]


def both_ways(words, tmp_path, method="st"):
    """The run folders of one process and of two."""
    words = [*words, f"distillType={method}"]
    for name, launcher in (("one", []), ("two", TORCHRUN)):
        process = run_script(*launcher, "trainNet.py", *words, f"save_path={tmp_path / name}", OMP_NUM_THREADS="1")
        assert process.returncode == 0, process.stderr
        assert process.stdout.count("pictures, scores and metrics") == 1
    return tmp_path / "one" / method / "part", tmp_path / "two" / method / "part"


@pytest.mark.slow
def test_same_student_and_metrics_without_batch_norm(tiny_mvtec, tmp_path):
    """LayerNorm does not depend on the batch, so two halves of a batch are exactly the whole batch."""
    words = [*WORDS, f"data_path={tiny_mvtec}", "backbone=convnext_atto", "out_indice=[0, 1]", "TrainingData.lr=0.05"]
    one, two = both_ways(words, tmp_path)
    a, b = load_file(one / "student.safetensors"), load_file(two / "student.safetensors")
    for key in a:
        torch.testing.assert_close(a[key], b[key], atol=1e-4, rtol=1e-3)
    figures = [json.loads((run / "metrics.json").read_text())["metrics"] for run in (one, two)]
    assert figures[0] == pytest.approx(figures[1], abs=0.02)
    assert {p.name for p in one.iterdir()} == {p.name for p in two.iterdir()}


@pytest.mark.slow
def test_scores_by_part_reach_every_process(tiny_mvtec, tmp_path):
    """MixedTeacher keeps the best epoch of each pair, which must be the same in all processes."""
    pairs = ["backbone=[convnext_atto, convnext_atto]", "out_indice=[[0], [1]]", "TrainingData.lr=0.004"]
    one, two = both_ways([*WORDS, *pairs, f"data_path={tiny_mvtec}"], tmp_path, "mixed")
    best = [json.loads((run / "metrics.json").read_text())["best_epoch"] for run in (one, two)]
    assert best[0] == best[1] and set(best[0]) == {"first", "second"}
    scores = [[row["val_score_first"] for row in history(run)] for run in (one, two)]
    assert scores[0] == pytest.approx(scores[1], rel=0.01)  # Adam takes full steps even for gradients near zero


def history(run):
    with (run / "training.csv").open(newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "lr"), [("st", 0.4), ("rdpp", 0.005)])
def test_batch_norm_trains_in_two_processes(tiny_mvtec, tmp_path, method, lr):
    """On a CPU each process normalises its half of the batch, so the runs agree closely, not exactly.

    RD++ sums two batches per step and draws other noise in each process.
    """
    words = [*WORDS, f"data_path={tiny_mvtec}", "backbone=resnet18", f"TrainingData.lr={lr}"]
    one, two = both_ways(words, tmp_path, method)
    losses = [[row["train_loss"] for row in history(run)] for run in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)


@pytest.mark.slow
def test_the_students_of_the_folds_decide_after_a_training_in_two_processes(tiny_mvtec, tmp_path):
    words = [*WORDS, f"data_path={tiny_mvtec}", "distillType=st", "backbone=resnet18", f"save_path={tmp_path}"]
    words += ["calibration=cross", "false_reject_rate=0.4", "out_indice=[1, 2]"]
    process = run_script(*TORCHRUN, "trainNet.py", *words, OMP_NUM_THREADS="1")
    assert process.returncode == 0, process.stderr
    assert json.loads((tmp_path / "st/part/metrics.json").read_text())["decisions"]["students"] == 5


@pytest.mark.slow
def test_a_mistake_is_said_once(tiny_mvtec, tmp_path):
    words = [*WORDS, f"data_path={tiny_mvtec}", "distillType=st", "backbone=resnet18", f"save_path={tmp_path}"]
    process = run_script(*TORCHRUN, "trainNet.py", *words, "weights=/no/such/file.pth", OMP_NUM_THREADS="1")
    assert process.returncode != 0
    assert process.stderr.count("error: weights: /no/such/file.pth is not a file") == 1


AUTO = """
import sys
sys.path.insert(0, {repo!r})
import torch
from engine import distributed
from utils.errors import UserError
from utils.ranks import rank

distributed.join(torch.device("cpu"))
assert distributed.from_main(lambda: f"the word of process {{rank()}}") == "the word of process 0"
assert distributed.mean_over_processes(torch.tensor(float(rank()), dtype=torch.float64)) == 0.5

def fail():
    raise UserError("only the first one looks")

try:
    distributed.from_main(fail)
except UserError as error:
    assert str(error) == "only the first one looks"
    print("told")
"""


@pytest.mark.slow
def test_what_the_first_process_finds_is_everyones(tmp_path):
    """Weights for `auto`, validation scores, and errors."""
    script = tmp_path / "script.py"
    script.write_text(AUTO.format(repo=str(REPO)))
    process = run_script(*TORCHRUN, script, OMP_NUM_THREADS="1")
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("told") == 2
