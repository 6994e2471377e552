"""The cores that affinity and cgroup leave to this process."""

import os

import pytest

from utils import cores
from utils.cores import allowed_cores


@pytest.fixture
def machine(monkeypatch):
    """machine(affinity, quota): cores that the affinity allows, and the text of cpu.max, or None without a cgroup."""

    def set_up(affinity, quota):
        def read(path):
            if quota is None:
                raise FileNotFoundError(path)
            return quota

        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(affinity)), raising=False)
        monkeypatch.setattr(cores.Path, "read_text", read)

    return set_up


@pytest.mark.parametrize(
    ("affinity", "quota", "allowed"),
    [
        (16, "max 100000", 16),
        (16, None, 16),
        (16, "400000 100000", 4),
        (2, "400000 100000", 2),
        (16, "150000 100000", 1),  # a second thread would wait half of the time
        (16, "50000 100000", 1),
    ],
)
def test_the_smaller_limit_counts_and_one_core_is_left(machine, affinity, quota, allowed):
    machine(affinity, quota)
    assert allowed_cores() == allowed


@pytest.mark.parametrize(("count", "allowed"), [(6, 6), (None, 1)])
def test_a_system_without_affinity_has_all_cores(machine, monkeypatch, count, allowed):
    machine(1, None)
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    assert allowed_cores() == allowed
