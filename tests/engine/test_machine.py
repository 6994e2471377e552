"""The description of the machine, and its memory allocator."""

import ctypes
import platform
import sys
from datetime import datetime
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from engine import machine
from engine.device import Compute
from engine.machine import GPU_PEAK, environment, forget_gpu_peak, gpu_peak, hardware, keep_freed_memory

CPU = torch.device("cpu")


@pytest.fixture
def eight_cores(monkeypatch):
    """Eight cores, of a processor that the platform calls `generic`."""
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(platform, "processor", lambda: "generic")


def test_the_processor_is_named_as_linux_names_it(eight_cores, monkeypatch):
    text = "processor\t: 0\nmodel name\t: Xeon: 8 GHz\nprocessor\t: 1\nmodel name\t: other\n"
    monkeypatch.setattr(machine.Path, "read_text", lambda path: text)
    assert hardware(CPU) == "Xeon: 8 GHz, 8 cores"


@pytest.mark.parametrize("error", [None, FileNotFoundError])
def test_without_a_model_name_the_platform_names_the_processor(eight_cores, monkeypatch, error):
    def read(path):
        if error:
            raise error
        return "processor\t: 0\n"  # as on ARM

    monkeypatch.setattr(machine.Path, "read_text", read)
    assert hardware(CPU) == "generic, 8 cores"


def test_the_gpu_in_use_is_named(eight_cores, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU number {device.index}")
    assert hardware(torch.device("cuda", 1)).endswith(", 8 cores, GPU number 1")


def test_a_report_says_what_computed_it():
    found = environment(Compute(CPU, torch.bfloat16))
    assert (found["precision"], found["threads"]) == ("bfloat16", torch.get_num_threads())
    assert found["hardware"] == hardware(CPU)
    assert (found["versions"]["numpy"], found["versions"]["python"]) == (np.__version__, platform.python_version())
    assert {"torch", "timm", "opencv-python-headless", "pillow"} <= set(found["versions"])
    date = datetime.fromisoformat(found["date"])
    assert date.utcoffset() is not None and abs((datetime.now(date.tzinfo) - date).total_seconds()) < 60


def test_a_package_that_pip_did_not_install_is_left_out(monkeypatch):
    def installed(name):
        if name == "opencv-python-headless":
            raise machine.PackageNotFoundError
        return "1"

    monkeypatch.setattr(machine, "version", installed)
    assert set(environment(Compute(CPU, torch.float32))["versions"]) == {"python", "torch", "timm", "numpy", "pillow"}


def test_the_gpus_peak_is_of_one_run_and_the_highest_of_training_and_test(monkeypatch):
    """As with two runs in one process: the second one is smaller, and only its test may be repeated."""
    gpu, peak = torch.device("cuda", 0), [900.0]
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GPU")
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: peak[0] * 2**20)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: peak.__setitem__(0, 5.0))
    assert gpu_peak(gpu) == {GPU_PEAK: 900} and gpu_peak(CPU) == {}
    forget_gpu_peak(CPU)
    assert peak == [900]
    forget_gpu_peak(gpu)
    compute = Compute(gpu, torch.float32)
    assert [environment(compute, trained)[GPU_PEAK] for trained in (None, 3.0, 40.0)] == [5, 5, 40]
    assert GPU_PEAK not in environment(Compute(CPU, torch.float32), 40.0)


@pytest.fixture
def options(monkeypatch):
    """The options that a process gives to the allocator of a C library."""
    given = {}
    library = SimpleNamespace(mallopt=lambda option, value: given.update({option: value}))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    return given


def test_freed_memory_stays_with_the_process(options, monkeypatch):
    """Numbers of malloc.h: no size is returned at once, and 2 GB may be kept."""
    monkeypatch.setattr(sys, "platform", "linux")
    keep_freed_memory()
    m_trim_threshold, m_top_pad, m_mmap_threshold = -1, -2, -3
    assert options == {m_mmap_threshold: 32 * 2**20, m_trim_threshold: 2**31 - 1, m_top_pad: 256 * 2**20}


def test_other_systems_and_c_libraries_keep_their_allocator(options, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    keep_freed_memory()
    assert options == {}
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())  # as musl
    keep_freed_memory()
