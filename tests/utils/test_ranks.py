"""The number of this process, with torchrun and without it."""

import pytest

from utils.ranks import is_main, rank, world_size


def test_without_torchrun_there_is_one_process(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    assert (world_size(), rank(), is_main()) == (1, 0, True)


@pytest.mark.parametrize(("number", "main"), [("0", True), ("2", False)])
def test_torchrun_numbers_its_processes(monkeypatch, number, main):
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", number)
    monkeypatch.setenv("LOCAL_RANK", "0")  # of each machine; only one process of all writes
    assert (world_size(), rank(), is_main()) == (3, int(number), main)
