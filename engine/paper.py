"""`protocol: paper`: the epoch that looks best on the test images, as some publications choose it (RD++'s code does).

It is reported beside the run's own result, which never depends on test images.
"""

from collections.abc import Callable, Sequence
from typing import Any

from datasets.dataset import ImageDataset
from engine.device import Compute
from engine.loading import Batches, loader
from engine.method import Method
from engine.stream import Scoring
from utils.errors import UserError

PREFIX = "test_"  # of the columns in training.csv
CHOSEN_BY = ("image_auroc", "pixel_auroc", "aupro")  # the mean of these
Row = dict[str, float]


def check_choosable(test_set: ImageDataset) -> None:
    """Raises UserError if no metric is possible with the test images, so that no epoch is the best."""
    defective, masks = test_set.defective, any(sample.mask for sample in test_set.samples)
    if not defective.any() or (defective.all() and not masks):
        raise UserError(
            "protocol: paper needs defective test images, and also good ones or masks, to choose an epoch; without "
            "them, use protocol=honest"
        )


def test_after_each_epoch(method: Method, compute: Compute, test_set: ImageDataset, val: Batches) -> Callable[[], Row]:
    """A function that gives the test's metrics of the student as it is, as columns of training.csv."""
    from evaluation.report import evaluate  # draws: loads matplotlib

    def measure() -> Row:
        method.on_fit_end(val)  # what maps depend on besides the student
        batches = loader(test_set, method.config, compute.device)
        results = Scoring(method.detector, compute, batches, "testing", test_set.tiles)
        metrics = evaluate(test_set.samples, results, fit=test_set.fit).metrics
        return {PREFIX + key: value for key, value in metrics.items()}

    return measure


def best_on_test(history: Sequence[Row]) -> dict[str, Any]:
    """The number of the best epoch, from 1, and its metrics."""
    rows = [{key.removeprefix(PREFIX): row[key] for key in row if key.startswith(PREFIX)} for row in history]
    best = max(range(len(rows)), key=lambda k: _mean(rows[k]))
    return {"epoch": best + 1, "epochs": len(rows), "metrics": rows[best]}


def _mean(metrics: Row) -> float:
    there = [metrics[key] for key in CHOSEN_BY if key in metrics]
    return sum(there) / len(there) if there else 0.0  # masks may vanish at a small img_size


def beside(best: dict[str, Any], metrics: Row) -> dict[str, Any]:
    """`best_on_test` with its differences from the run's own metrics, and a sentence about them."""
    differences = {key: value - metrics[key] for key, value in best["metrics"].items() if key in metrics}
    words = ", ".join(
        f"{key} {best['metrics'][key]:.4f} ({differences[key]:+.4f})" for key in CHOSEN_BY if key in differences
    )
    sentence = (
        f"protocol=paper: epoch {best['epoch']} of {best['epochs']} is the best on the test images: {words}. It was "
        "chosen with them, so these metrics are too optimistic; the difference from the run's own is in brackets"
    )
    return best | {"differences": differences, "sentence": sentence}
