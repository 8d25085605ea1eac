"""Log-determinants and inverses of a batch of square matrices, whatever their size and torch's number of threads.

torch shares out a batch on the CPU to its threads. After `torch.set_num_threads` each of them asks MKL for as many
again, which a parallel region does not have: matrices from about 150 rows on are then factorised wrongly, mostly
without a word, or never (pytorch issues 142815 and 141358). One matrix by itself is not shared out, and MKL then has
all the threads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._tracing import under_transforms

_SHARED_OUT = 128  # rows: larger matrices are factorised one by one


def log_abs_det(matrices: Tensor) -> Tensor:
    """Return log|det| [B] of matrices [B, d, d]. Differentiable, and in transforms of torch.func to any order."""
    if under_transforms():
        # Not slogdet: up to torch 2.13 the derivative of its tangent is wrong.
        if _is_shared_out(matrices):
            # A vmap would make a batch of each matrix again; this factorisation is not shared out.
            factors: Tensor = torch.linalg.qr(matrices)[1]
        else:
            factors = torch.linalg.lu_factor_ex(matrices)[0]
        return factors.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
    if _is_shared_out(matrices):
        return torch.stack([torch.linalg.slogdet(matrix)[1] for matrix in matrices.unbind()])
    logdets: Tensor = torch.linalg.slogdet(matrices)[1]
    return logdets


def inverses(matrices: Tensor) -> Tensor:
    """Return the inverses [B, d, d] of matrices; a singular one's is not finite, since its last row is not."""
    # The check of `inv` would wait for the device.
    if _is_shared_out(matrices):
        return torch.stack([torch.linalg.inv_ex(matrix)[0] for matrix in matrices.unbind()])
    found: Tensor = torch.linalg.inv_ex(matrices)[0]
    return found


def narrowest_stage(weights: Sequence[Tensor]) -> tuple[int, int]:
    """Return the stage to begin the product J with, to get the smallest matrix with the determinant of I + J.

    det(I + P Q) = det(I + Q P), whatever the shapes of P and Q (Sylvester's determinant theorem): where J passes a
    stage narrower than the event, the product that begins there and goes on around is a smaller matrix.

    Args:
        weights: of a branch.

    Returns:
        The number of the stage, and how many multiplications that saves for a sample; (0, 0) for images, and where
        nothing is saved.
    """
    if weights[0].dim() != 2:
        return 0, 0
    step = sum(weight.numel() for weight in weights)
    widths = [weight.shape[1] for weight in weights]
    least = min(widths)
    # So many products with J, and a factorisation; the derivatives by themselves take an evaluation of the branch.
    saved = step * (widths[0] - least - 1) + (widths[0] ** 3 - least**3) // 3
    return (widths.index(least), saved) if saved > 0 else (0, 0)


def _is_shared_out(matrices: Tensor) -> bool:
    """Whether torch shares them out, and they are too large for it."""
    return matrices.shape[-1] > _SHARED_OUT and matrices.device.type == "cpu" and matrices.shape[0] > 0
