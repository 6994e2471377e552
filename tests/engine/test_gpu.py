"""What exists only on a GPU; skipped elsewhere."""

import pytest
import torch
import torch.distributed as dist

from engine.loading import training_batches
from trainer import build_trainer

pytestmark = pytest.mark.gpu


def test_images_cross_to_the_gpu_from_pinned_memory_as_bytes(config):
    trainer = build_trainer(config("st", device="cuda"))
    train, _, _ = training_batches(trainer.config, trainer.teacher, trainer.compute)
    batch = next(iter(train.loader))
    assert batch["image"].is_pinned() and batch["image"].dtype == torch.uint8
    assert next(iter(train))["image"].is_cuda


def test_gradients_are_computed_without_waiting_for_the_gpu(config):
    trainer = build_trainer(config("st", device="cuda"))
    train, _, _ = training_batches(trainer.config, trainer.teacher, trainer.compute)
    loss = trainer.loss(next(iter(train)) | {"step": 0})
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss.backward()  # raises if it waits
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_detector_runs_in_a_cuda_graph(config):
    trainer = build_trainer(config("st", device="cuda", precision="fp32"))
    detector, size = trainer.detector.eval(), trainer.options.crop_size
    image = torch.randint(0, 255, (2, 3, *size), dtype=torch.uint8, device="cuda")
    with torch.no_grad():
        expected = detector(image)
        graphed = torch.cuda.make_graphed_callables(detector, (image,))
        torch.testing.assert_close(graphed(image), expected, rtol=1e-3, atol=1e-5)


def test_one_process_can_use_nccl(tmp_path):
    dist.init_process_group("nccl", f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        value = torch.ones((), device="cuda")
        dist.all_reduce(value)
        assert value.item() == 1
    finally:
        dist.destroy_process_group()
