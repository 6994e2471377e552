"""Distances between feature maps: functions of tensors that know nothing of trainers."""

import torch

EPSILON = 1e-12  # smallest vector length that is divided by, as in torch's normalize


def squared_distance(teacher: torch.Tensor, student: torch.Tensor, norm: bool = True) -> torch.Tensor:
    """Squared Euclidean distance over channels at each position: two [B,C,H,W] -> [B,1,H,W], float32.

    With `norm` both vectors are first scaled to unit length, so the value is 2(1 - cos), in [0, 4]
    (STPM, Wang et al., BMVC 2021, Eq. 1 without the 1/2; twice the distance of DBFAD and MixedTeacher).
    """
    # Sums over channels suffer in half precision, whatever autocast made of the networks.
    teacher, student = teacher.float(), student.float()
    if not norm:
        return (teacher - student).square().sum(dim=1, keepdim=True)
    # |t/|t| - s/|s||^2 multiplied out: three sums over the big tensors instead of two normalised copies,
    # which halves the time of a training step's loss. A vector of zeros stays zero, as with normalize().
    tt = teacher.square().sum(dim=1, keepdim=True)
    ss = student.square().sum(dim=1, keepdim=True)
    ts = (teacher * student).sum(dim=1, keepdim=True)
    tn, sn = tt.clamp_min(EPSILON**2).sqrt(), ss.clamp_min(EPSILON**2).sqrt()
    distance = tt / tn.square() + ss / sn.square() - 2 * ts / (tn * sn)
    return distance.clamp_min(0)  # rounding may leave -1e-7 where the vectors agree
