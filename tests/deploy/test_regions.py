"""A run with a region of interest, exported: the region goes with the file."""

import numpy as np
import pytest

from deploy import card
from deploy.export import Export
from deploy.predictor import Predictor
from deploy.runtime import ExportedModel
from tests.conftest import draw_good, write_image
from tests.deploy.conftest import SPEED, trained


@pytest.mark.slow
def test_an_exported_model_looks_where_the_run_looks(tmp_path, monkeypatch):
    monkeypatch.setattr(card, "speed", lambda folder: SPEED)
    mask = np.zeros((64, 64), np.uint8)
    mask[:, :40] = 255
    write_image(tmp_path / "roi.png", mask)
    run = trained(tmp_path, {"roi": str(tmp_path / "roi.png"), "epochs": 1}).run_dir
    Export(run, "onnx", "fp32", None, []).write(tmp_path / "exported")
    predictor, model = Predictor(run), ExportedModel(tmp_path / "exported")
    (tmp_path / "roi.png").unlink()
    plain = draw_good(np.random.default_rng(0))
    outside, inside = plain.copy(), plain.copy()
    outside[20:30, 50:60] = inside[20:30, 10:20] = (250, 20, 20)
    for picture in (plain, outside, inside):
        ours, theirs = model(picture), predictor(picture)
        assert np.isclose(ours.score, theirs.score, rtol=1e-4) and ours.decision == theirs.decision
        assert (np.isneginf(ours.anomaly_map) == (mask == 0)).all()
    assert model(outside).score == model(plain).score < model(inside).score
