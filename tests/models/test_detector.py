"""A detector takes images as they are read; its teacher normalises them."""

import copy
import re

import numpy as np
import pytest
import timm
import torch
from torch import nn

from models.detector import Detector, unit_range
from models.teachers.features import Features
from models.teachers.weights import Source, build_teacher
from tests.conftest import REPO


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    teacher = build_teacher("tf_efficientnet_lite0.in1k", [1, 2], Source("random", None), seed=0)
    return Detector(teacher, Features("tf_efficientnet_lite0", [1, 2]), sigma=1.0).eval()


@pytest.fixture
def image():
    """Two 8-bit images."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64), dtype=np.uint8)
    return torch.from_numpy(pixels)


def test_unit_range_of_8_and_16_bits_and_floats():
    for dtype, top in ((torch.uint8, 255), (torch.uint16, 65535)):
        found = unit_range(torch.tensor([0, 51, top], dtype=dtype))
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, torch.tensor([0, 51 / top, 1]), rtol=1e-6, atol=0)
    for dtype in (torch.float32, torch.float64, torch.float16):
        found = unit_range(torch.tensor([0, 0.25, 1], dtype=dtype))
        assert found.dtype == torch.float32 and found.tolist() == [0, 0.25, 1]


def test_a_step_of_16_bits_is_not_lost():
    near = unit_range(torch.tensor([1000, 1001], dtype=torch.uint16))
    assert near[0] != near[1]


@torch.inference_mode()
def test_the_same_picture_in_any_dtype_has_the_same_map(detector, image):
    expected = detector(image)
    assert expected.shape == (2, 1, 64, 64) and expected.dtype == torch.float32 and expected.max() > 0
    deep = torch.from_numpy(image.numpy().astype(np.uint16) * 257)
    for same in (deep, image.float() / 255):
        torch.testing.assert_close(detector(same), expected)


@torch.inference_mode()
def test_the_student_sees_what_the_teacher_sees(detector, image):
    """Normalised with the teacher's own statistics, here 0.5 for all."""
    seen = []
    handles = [net.register_forward_pre_hook(lambda _, args: seen.append(args[0])) for net in nets(detector)]
    detector(image)
    for handle in handles:
        handle.remove()
    assert len(seen) == 2 and torch.equal(*seen)
    assert timm.get_pretrained_cfg("tf_efficientnet_lite0.in1k").mean == (0.5, 0.5, 0.5)
    torch.testing.assert_close(seen[0], image / 127.5 - 1)


def nets(detector):
    return detector.teacher.net, detector.student


@torch.inference_mode()
def test_the_teachers_maps_are_not_computed_where_they_are_known(detector, image):
    known = [torch.rand_like(maps) for maps in detector.teacher(unit_range(image))]
    teacher, student = detector.pairs(image, known)
    assert teacher is known
    assert all(torch.equal(a, b) for a, b in zip(student, detector.pairs(image)[1], strict=True))


@torch.inference_mode()
def test_nothing_is_kept_between_calls(detector, image):
    before = [set(vars(module)) for module in detector.modules()]
    first = detector(image)
    assert torch.equal(copy.deepcopy(detector)(image), first)
    detector(torch.zeros_like(image))
    assert torch.equal(detector(image), first)
    assert [set(vars(module)) for module in detector.modules()] == before


def test_forward_is_pairs_levels_and_the_final_map(image):
    """The steps that training, pages and scoring share give together what forward gives."""

    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.normalise = nn.Identity()

        def forward(self, image):
            return [image, image[..., ::2, ::2]]

    detector = Detector(Halves(), Halves(), norm=False)
    detector.student.forward = lambda image: [image - 1, image[..., ::2, ::2] - 2]
    assert [level.unique().tolist() for level in detector.levels(*detector.pairs(image.float() / 255))] == [
        pytest.approx([3]),
        pytest.approx([12]),
    ]
    torch.testing.assert_close(detector(image), torch.full((2, 1, 64, 64), 15.0))


def test_no_module_has_a_mean_and_std_for_all_teachers():
    """Normalisation is the teacher's; a constant to import would be wrong for a quarter of timm's networks."""
    name = re.compile(r"\b(?:MEA[N]|ST[D])\b")  # written so that it does not match this line
    sources = [path.relative_to(REPO) for path in REPO.rglob("*.py")]
    ours = [path for path in sources if not path.parts[0].startswith((".", "venv"))]
    assert len(ours) > 80
    assert not [str(path) for path in ours if name.search((REPO / path).read_text(encoding="utf-8"))]
