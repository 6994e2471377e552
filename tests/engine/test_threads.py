"""How many cores the networks use."""

import os

import pytest
import torch

from engine import threads
from engine.threads import free_cores, use_threads


@pytest.fixture
def own_threads():
    own = torch.get_num_threads()
    yield own
    torch.set_num_threads(own)


@pytest.mark.parametrize(("wanted", "taken"), [(2, 2), (999, 3)])
def test_a_number_of_threads_is_taken_up_to_the_cores_of_the_machine(wanted, taken, monkeypatch, own_threads):
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    use_threads(wanted)
    assert torch.get_num_threads() == taken


def test_auto_leaves_the_cores_that_are_busy(monkeypatch, own_threads):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(threads.Path, "read_text", lambda path, *a, **k: "max 100000")
    for busy, free in ((0, 8), (5, 3), (20, 1)):
        monkeypatch.setattr(threads, "_busy_cores", lambda busy=busy: busy)
        assert free_cores() == free
    monkeypatch.setattr(threads, "ALL_THREADS", 4)
    monkeypatch.setattr(threads, "_busy_cores", lambda: 0)
    use_threads("auto")
    assert torch.get_num_threads() == 4


def test_the_busy_cores_are_the_running_processes_without_this_one(monkeypatch):
    monkeypatch.setattr(threads.Path, "read_text", lambda path: "0.50 0.40 0.30 4/512 99")
    assert threads._busy_cores(between=0) == 3

    def no_such_file(path):
        raise FileNotFoundError

    monkeypatch.setattr(threads.Path, "read_text", no_such_file)
    assert threads._busy_cores(between=0) == 0


def test_auto_keeps_within_affinity_and_cgroup_limits(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    monkeypatch.setattr(threads, "_busy_cores", lambda: 3)
    monkeypatch.setattr(threads.Path, "read_text", lambda path, *a, **k: "400000 100000")
    assert free_cores() == 4
    monkeypatch.setattr(threads.Path, "read_text", lambda path, *a, **k: "max 100000")
    assert free_cores() == 16
