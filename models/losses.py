"""Distances between feature maps, as pure functions of tensors."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

EPSILON = 1e-12  # smallest vector length for a division, as in torch's normalize


def squared_distance(
    teacher: torch.Tensor, student: torch.Tensor, norm: bool = True, exact: bool = True
) -> torch.Tensor:
    """Squared Euclidean distance over channels at each position: two [B,C,H,W] -> [B,1,H,W], float32.

    With `norm` both vectors are first scaled to unit length, so the value is 2(1 - cos), in [0, 4]
    (STPM, Wang et al., BMVC 2021, Eq. 1 without the 1/2; twice the distance of DBFAD and MixedTeacher).
    Without `exact` it is |t|^2 + |s|^2 - 2 t.s: faster with gradients, but nearly equal vectors cancel, so a distance
    below 1e-6 is only rounding.
    """
    if not norm:
        return (teacher.float() - student.float()).square().sum(dim=1, keepdim=True)
    if exact:
        return (_unit(teacher) - _unit(student)).square().sum(dim=1, keepdim=True)
    tt, ss, ts = _products(teacher, student)
    tn, sn = _length(tt), _length(ss)
    distance = tt / tn.square() + ss / sn.square() - 2 * ts / (tn * sn)
    return distance.clamp_min(0)  # rounding may leave -1e-7 where the vectors agree


def cosine_distance(teacher: torch.Tensor, student: torch.Tensor, exact: bool = True) -> torch.Tensor:
    """One minus the cosine over channels at each position: two [B,C,H,W] -> [B,1,H,W], float32, in [0, 2].

    This is half of `squared_distance` of unit vectors, except for a vector of zeros: its distance to all others is 1
    here, and half of `squared_distance` would be 0.5. `exact` as there.
    """
    if exact:
        zeros = sum((maps == 0).all(dim=1, keepdim=True).float() for maps in (teacher, student))
        return 0.5 * (squared_distance(teacher, student) + zeros)
    tt, ss, ts = _products(teacher, student)
    return (1 - ts / (_length(tt) * _length(ss))).clamp_min(0)


def flat_cosine_distance(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """One minus the cosine of whole maps, each as one vector: two [B,...] -> [B], float32.

    This is the loss of reverse distillation's published code; the paper's formula averages `cosine_distance` instead.
    """
    return 1 - F.cosine_similarity(teacher.float().flatten(1), student.float().flatten(1), dim=1)


def batch_sum(levels: Sequence[torch.Tensor], batch_size: int) -> torch.Tensor:
    """Distance maps of L levels, [B,1,h,w] each, to a scalar: mean over levels and positions, sum over a batch.

    The reduction of DBFAD's, MixedTeacher's and Remembering Normality's codes. The sum is scaled from B to `batch_size`
    images, so a short last batch, or one process's share of a batch, has the same weight.
    """
    return batch_size * sum(level.mean() for level in levels) / len(levels)


def _unit(maps: torch.Tensor) -> torch.Tensor:
    """[B,C,H,W] -> same, float32, each vector over channels of length 1; a vector of zeros stays zero."""
    maps = maps.float()  # F.normalize would expand the lengths, and OpenVINO would then reorder the maps of an export
    return maps / torch.linalg.vector_norm(maps, dim=1, keepdim=True).clamp_min(EPSILON)


def _products(teacher: torch.Tensor, student: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sums over channels of t*t, s*s and t*s: two [B,C,H,W] -> three [B,1,H,W], float32.

    Three sums over the large tensors instead of two normalised copies halve the time of the loss in training.
    """
    # Sums over channels are too inexact in half precision, which autocast may use for the networks.
    teacher, student = teacher.float(), student.float()
    return tuple(
        (a * b).sum(dim=1, keepdim=True) for a, b in ((teacher, teacher), (student, student), (teacher, student))
    )


def _length(squares: torch.Tensor) -> torch.Tensor:
    # A vector of zeros stays zero, as with torch's normalize().
    return squares.clamp_min(EPSILON**2).sqrt()
