"""Entropic optimal transport between clouds of points, as pure functions of tensors."""

import math

import torch


def sinkhorn_divergence(
    x: torch.Tensor, y: torch.Tensor, blur: float = 0.05, diameter: float = 1e7, scaling: float = 0.95
) -> torch.Tensor:
    """OT(x,y) - OT(x,x)/2 - OT(y,y)/2 of evenly weighted clouds: [N,D], [M,D] -> scalar; [B,N,D], [B,M,D] -> [B].

    OT is entropic transport with cost |x-y|^2 / 2, in squared units of x; `blur` and `diameter` are lengths in
    units of x. float32, or float64 if an input is. ValueError for lengths and scaling that give no schedule.
    Transport loss of RD++ (Tien et al., CVPR 2023). Its public code compares a batch with the same batch shuffled. A
    cloud of points has no order, so the loss and its gradient are zero by definition.
    """
    dtype = torch.promote_types(torch.result_type(x, y), torch.float32)  # half precision cannot represent the schedule
    x, y = x.to(dtype), y.to(dtype)
    schedule = epsilons(blur, diameter, scaling)
    return _transport(x, y, schedule) - (_transport(x, x, schedule) + _transport(y, y, schedule)) / 2


def epsilons(blur: float, diameter: float, scaling: float) -> list[float]:
    """Strengths of the entropy term, decreasing: diameter^2 twice, then each times scaling^2, at the end blur^2.

    The first entry is repeated as in the published solver: 375 in all for RD++. ValueError if they cannot decrease.
    """
    if not (0 < blur < diameter and 0 < scaling < 1):
        raise ValueError(f"need 0 < blur < diameter and 0 < scaling < 1, not {blur}, {diameter} and {scaling}")
    steps = math.ceil(math.log(blur / diameter) / math.log(scaling))
    return [diameter**2] + [(diameter * scaling**step) ** 2 for step in range(steps)] + [blur**2]


def _transport(x: torch.Tensor, y: torch.Tensor, schedule: list[float]) -> torch.Tensor:
    """Entropic cost from the dual potentials f on x and g on y: [...,N,D], [...,M,D] -> [...]."""
    with torch.no_grad():
        cost = _half_square(x, y)
        f, g = torch.zeros_like(cost[..., 0]), torch.zeros_like(cost[..., 0, :])
        for epsilon in schedule:
            f, g = (f + _soft_min(cost, g, epsilon)) / 2, (g + _soft_min(cost.mT, f, epsilon)) / 2
    # At the optimum the cost depends on x only through f and on y only through g (envelope theorem), so one more
    # update, with the other cloud and its potential detached, gives the whole gradient.
    last_f = _soft_min(_half_square(x, y.detach()), g, schedule[-1])
    last_g = _soft_min(_half_square(y, x.detach()), f, schedule[-1])
    return last_f.mean(dim=-1) + last_g.mean(dim=-1)


def _half_square(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """|x-y|^2 / 2 of all pairs: [...,N,D], [...,M,D] -> [...,N,M], by differences, exact for near points too."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square() / 2


def _soft_min(cost: torch.Tensor, potential: torch.Tensor, epsilon: float) -> torch.Tensor:
    """-epsilon log mean exp((potential - cost) / epsilon) over the last axis: [...,N,M], [...,M] -> [...,N].

    With expm1 and log1p, because at epsilon 1e14 every exponential rounds to 1: a plain logsumexp would have an error
    of 1e7, which stays in f and g as opposite constants that are too large to cancel.
    """
    exponent = (potential.unsqueeze(-2) - cost) / epsilon
    top = exponent.detach().amax(dim=-1, keepdim=True)
    return -epsilon * (top.squeeze(-1) + torch.expm1(exponent - top).mean(dim=-1).log1p())
