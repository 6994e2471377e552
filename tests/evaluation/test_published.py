"""The file of published figures."""

import pytest

from evaluation.published import _page, published
from evaluation.tables import LABELS
from trainer import TRAINERS

# Means that the papers or the re-runs state themselves, in percent, and the step to which they are rounded.
MEANS = {
    ("st", "pixel_auroc"): (97.0, 0.1),
    ("rd", "image_auroc"): (98.69, 0.05),
    ("rd", "pixel_auroc"): (97.79, 0.05),
    ("rd", "aupro"): (93.97, 0.05),
    ("rdpp", "image_auroc"): (99.12, 0.05),
    ("ead", "image_auroc"): (99.03, 0.05),
    ("ead", "aupro"): (93.28, 0.05),
}


def test_every_entry_names_its_protocol_and_its_source():
    for method, entry in _page().items():
        assert method in TRAINERS and set(entry["metrics"]) <= set(LABELS)
        assert entry["protocol"] and entry["source"] and len(entry["categories"]) == 15


@pytest.mark.parametrize(("method", "metric"), MEANS)
def test_the_categories_average_to_the_published_mean(method, metric):
    values = [published(method, category).metrics[metric] for category in _page()[method]["categories"]]
    mean, step = MEANS[method, metric]
    assert 100 * sum(values) / len(values) == pytest.approx(mean, abs=step)


def test_an_unknown_category_or_method_has_none():
    assert published("st", "weave") is None and published("mine", "bottle") is None
