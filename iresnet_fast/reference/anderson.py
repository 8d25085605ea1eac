"""Anderson acceleration of x <- x + r(x), r(x) = z - x - g(x), each sample by itself (docs/mathematics.md, 5)."""

from __future__ import annotations

import torch
from torch import Tensor

from iresnet_fast.reference.series import over_events

# How many differences of earlier iterates a step combines. Also in params.h.
WINDOW = 5
# How far above L^k |r_0| rounding may leave a residual that the contraction has brought to just that.
_SLACK = 1.001


class Anderson:
    """The last iterates and residuals of some samples, and the step that follows from them.

    The step combines differences of the iterates such that the same combination of the residuals is least: for a branch
    that is affine near the solution, nearly the best there is in the space the iterates span. It is safeguarded:

    - A step is undone if the residual after it is not at most L times the one before, which x <- x + r guarantees, and
      x + r of the iterate before it is taken instead. That has cost one evaluation.
    - A step is tried only where the residual after k updates is at most L^k |r_0|, what k updates x <- x + r guarantee.

    So after k updates the residual is at most L^(k-1) |r_0|: if update k is undone, it is the one of update k - 1, and
    from there on it falls by L with every update until the next is tried, where it is at most L^k |r_0| again. A sample
    takes at most one evaluation more than the contraction guarantees.

    Args:
        rows: [n, *event], as many samples as there are.
        lipschitz: Lipschitz constant of g.
    """

    def __init__(self, rows: Tensor, lipschitz: float) -> None:
        """Start with nothing seen."""
        self.lipschitz = lipschitz
        self.x = rows.new_zeros(WINDOW + 1, *rows.shape)  # accepted iterates, the newest first
        self.r = torch.zeros_like(self.x)
        self.seen = torch.zeros(rows.shape[0], dtype=torch.int64, device=rows.device)
        self.norm = rows.new_full((rows.shape[0],), torch.inf)  # of r[0]
        self.guaranteed = self.norm.clone()  # L^k |r_0|
        self.tried = torch.zeros_like(self.seen, dtype=torch.bool)  # the newest iterate is the result of such a step

    def keep(self, going: Tensor) -> None:
        """Go on with some of the samples only, [n] bool."""
        if bool(going.all()):
            return
        self.x, self.r = self.x[:, going], self.r[:, going]
        for name in ("seen", "norm", "guaranteed", "tried"):
            setattr(self, name, getattr(self, name)[going])

    def accept(self, x: Tensor, r: Tensor, norm: Tensor) -> Tensor:
        """Take note of an evaluation; return which iterates are undone, [n] bool."""
        undone = self.tried & ~(norm <= self.lipschitz * self.norm)
        first = self.seen == 0
        self.guaranteed = torch.where(first, _SLACK * norm, self.lipschitz * self.guaranteed)
        back = over_events(undone, x)
        self.x = torch.cat((torch.where(back, self.x[0], x)[None], self.x[:-1]))
        self.r = torch.cat((torch.where(back, self.r[0], r)[None], self.r[:-1]))
        self.seen = torch.where(undone, 1, (self.seen + 1).clamp(max=WINDOW + 1))
        self.norm = torch.where(undone, self.norm, norm)
        return undone

    def step(self, undone: Tensor, may_try: bool) -> Tensor:
        """Return the next iterates, [n, *event]; `may_try` False: x + r for all."""
        plain = self.x[0] + self.r[0]
        self.tried = (self.seen > 2) & ~undone & (self.norm <= self.guaranteed)
        self.tried &= may_try
        if not bool(self.tried.any()):
            return plain
        dr = (self.r[:-1] - self.r[1:]).flatten(2)  # [WINDOW, n, d]
        there = torch.arange(1, WINDOW + 1, device=self.seen.device)[:, None] < self.seen  # [WINDOW, n]
        dr = torch.where(there[..., None], dr, 0.0)
        gram = (dr[:, None] * dr).sum(-1).movedim(2, 0)  # [n, WINDOW, WINDOW]
        right = (dr * self.r[0].flatten(1)).sum(-1).t()
        weights = least_squares(gram, right)
        dx = (self.x[:-1] - self.x[1:]).flatten(2)
        move = torch.where(there[..., None], weights.t()[..., None] * (dx + dr), 0.0).sum(0)
        return torch.where(over_events(self.tried, plain), plain - move.view_as(plain), plain)


def least_squares(gram: Tensor, right: Tensor) -> Tensor:
    """Return the weights w [n, m] that make |r - sum_j w_j d_j| least, from <d_i, d_j> [n, m, m] and <d_i, r> [n, m].

    The d_j are scaled to length one. One of which those before it, the newer ones, leave less than sqrt(eps) of its
    square gets the weight zero: a Gram matrix squares the condition, so it has about half of the digits.
    """
    dtype = gram.dtype
    wide = torch.promote_types(dtype, torch.float32)  # there are no triangular solves of half precision
    gram, right = gram.to(wide), right.to(wide)
    length = gram.diagonal(dim1=-2, dim2=-1).sqrt()
    scale = torch.where(length > 0, 1.0 / length, 0.0)
    left = gram * scale[:, :, None] * scale[:, None, :]
    least = torch.finfo(gram.dtype).eps ** 0.5
    columns = []
    for j in range(gram.shape[-1]):  # Cholesky's factor, column by column
        pivot = left[:, j, j]
        column = left[:, :, j] * torch.where(pivot > least, pivot, torch.inf).rsqrt()[:, None]
        left = left - column[:, :, None] * column[:, None, :]
        columns.append(column)
    factor = torch.stack(columns, -1).tril()
    kept = factor.diagonal(dim1=-2, dim2=-1) > 0
    factor = factor + torch.diag_embed((~kept).to(factor.dtype))
    solved = torch.linalg.solve_triangular(factor, (right * scale)[..., None], upper=False)
    solved = torch.where(kept[..., None], solved, 0.0)
    weights: Tensor = torch.linalg.solve_triangular(factor.mT, solved, upper=True)[..., 0] * scale
    return weights.to(dtype)
