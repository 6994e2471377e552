"""What a run costs at work."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from deploy.cost import cost_of
from trainer import open_run


@pytest.mark.slow
def test_a_run_has_a_latency_and_counts(run_folder):
    threads = torch.get_num_threads()
    try:
        found = cost_of(run_folder)
    finally:
        torch.set_num_threads(threads)
    detector = open_run(run_folder).detector
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        detector(torch.zeros(1, 3, 64, 64))
    assert 0 < found["p50_ms"] <= found["p95_ms"]
    assert found["parameters_m"] == pytest.approx(sum(each.numel() for each in detector.parameters()) / 1e6)
    assert 2e9 * found["macs_g"] == pytest.approx(counter.get_total_flops(), rel=1e-6)
