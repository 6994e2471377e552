"""Device and precision."""

import pytest
import torch
from torch import nn

from engine import cpu
from engine.device import Compute, choose_device, choose_dtype
from utils.errors import UserError

CPU = torch.device("cpu")
PLAIN = nn.Conv2d(4, 4, 3)
DEPTHWISE = nn.Sequential(PLAIN, nn.Conv2d(4, 4, 3, groups=4))


def test_auto_precision_is_bf16_where_the_cpu_multiplies_it_and_the_network_gains(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert choose_dtype("auto", CPU, PLAIN) == torch.bfloat16
    assert choose_dtype("auto", CPU, DEPTHWISE) == torch.float32
    assert choose_dtype("bf16", CPU, DEPTHWISE) == torch.bfloat16
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert choose_dtype("auto", CPU, PLAIN) == torch.float32


def test_a_cpu_without_instructions_for_16_bits_is_said_to_be_slow_once(monkeypatch, capsys):
    cpu._note_slow.cache_clear()
    for known, precision in (
        ({"avx512_bf16": True, "amx_bf16": False}, "bf16"),
        ({"avx512_bf16": False, "amx_bf16": False}, "fp32"),
        ({"sve": True}, "bf16"),  # torch does not know whether ARM has them
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda known=known: known)
        choose_dtype(precision, CPU, PLAIN)
    assert not capsys.readouterr().err
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(("avx512_fp16", "amx_fp16"), False))
    assert choose_dtype("fp16", CPU, PLAIN) == choose_dtype("fp16", CPU, PLAIN) == torch.float16
    assert capsys.readouterr().err.count("this CPU has no instructions for fp16") == 1
    cpu._note_slow.cache_clear()  # so that no other test depends on this one


def test_a_cuda_device_that_is_not_there_is_a_sentence():
    with pytest.raises(UserError, match=f"'cuda:{torch.cuda.device_count()}' does not exist"):
        choose_device(f"cuda:{torch.cuda.device_count()}")


def test_mps_is_refused():
    with pytest.raises(UserError, match="mps .* is not supported; write cpu"):
        choose_device("mps")


def test_a_certain_gpu_is_refused_under_torchrun(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="under torchrun each process uses its own GPU; write cuda"):
        choose_device("cuda:0")


def test_a_frozen_network_is_cast_once_and_left_as_it_is():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    image = torch.rand(2, 3, 16, 16)
    compute = Compute(CPU, torch.bfloat16)
    fast = compute.frozen(net)
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert fast[0].weight.dtype == torch.bfloat16 and fast[1].weight.dtype == torch.float32
    with compute.autocast(), torch.no_grad():
        assert torch.equal(fast(image), net(image))
    assert Compute(CPU, torch.float32).frozen(net) is net


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_images_arrive_as_floats_between_0_and_1(dtype):
    full = {torch.uint8: 255, torch.uint16: 65535}[dtype]
    image = torch.tensor([0, full]).to(dtype).view(1, 1, 1, 2).expand(1, 3, 4, 2)
    found = Compute(CPU, torch.float32).images(image)
    assert found.dtype == torch.float32 and found.unique().tolist() == [0, 1]


def test_results_depend_on_the_kind_of_device_and_not_on_which():
    assert str(Compute(torch.device("cuda", 0), torch.bfloat16)) == str(
        Compute(torch.device("cuda", 1), torch.bfloat16)
    )
    assert str(Compute(CPU, torch.bfloat16)) != str(Compute(CPU, torch.float32))
