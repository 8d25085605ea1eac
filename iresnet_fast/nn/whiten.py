"""A fixed triangular map that whitens the data."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._inputs import check_floating, check_same_device, check_shape, check_tensor
from ._moments import covariance_of, mean_of
from ._transform import Transform, for_each_sample

# The least eigenvalue that a correlation matrix is left with. float32 keeps numbers of order 1 to 6e-8, which this
# stretches to 2e-3 in what comes out.
_LEAST_EIGENVALUE = 1e-9


class Whiten(Transform):
    """z = matrix (x - center) of vectors x [B, d], with fixed numbers: buffers `center` [d] and `matrix` [d, d].

    Args:
        center: [d].
        matrix: [d, d], lower triangular with a positive diagonal, so that the log-determinant is exact and the inverse
            a triangular solve.

    Raises:
        ValueError: a shape does not fit, a number is not finite, or the matrix is not as above.
    """

    center: Tensor
    matrix: Tensor

    def __init__(self, center: Tensor, matrix: Tensor) -> None:
        """Build the layer; the arguments are those of the class."""
        super().__init__()
        check_floating(center, "center")
        check_floating(matrix, "matrix")
        if center.dim() != 1 or matrix.shape != (len(center), len(center)) or len(center) == 0:
            raise ValueError(
                f"matrix must have shape [d, d] for a center [d], got {tuple(matrix.shape)} and "
                f"{tuple(center.shape)}; pass numbers of one width."
            )
        for name, value in (("center", center), ("matrix", matrix)):
            if not bool(value.isfinite().all()):
                raise ValueError(f"{name} must be finite, got NaN or infinity; change it.")
        if bool(matrix.triu(1).any()) or not bool((matrix.diagonal() > 0.0).all()):
            raise ValueError(
                "matrix must be lower triangular with a positive diagonal, got another; pass the inverse of a Cholesky "
                "factor."
            )
        self.register_buffer("center", center.detach().clone())
        self.register_buffer("matrix", matrix.detach().clone())

    @classmethod
    def fit(cls, data: Tensor, noise_variance: Tensor | None = None, weights: Tensor | None = None) -> Whiten:
        """Build the map that gives `data` [N, d] mean 0 and the identity as covariance, both computed in float64.

        The covariance is that of the maximum of the likelihood, divided by N. Where columns depend on each other
        linearly, as they do for N <= d, it is singular: then the smallest multiple of the identity that lifts the
        eigenvalues of the correlation matrix to 1e-9 is added to that, and where N > d a warning says so. A column that
        is constant keeps its scale.

        Args:
            data: [N, d].
            noise_variance: [d], of independent noise that is going to be added to the data; None: none.
            weights: [N], how much each sample counts; None: all the same.

        Returns:
            The layer, its buffers of the dtype of the data, at least float32.

        Raises:
            ValueError: there is no sample, a value is not finite, or the weights do not fit.
        """
        check_tensor(data, "data")
        check_shape(data, (None,), "data")
        mean = mean_of(data, weights)
        covariance = covariance_of(data, mean, weights)
        if noise_variance is not None:
            covariance += noise_variance.to(covariance).diag()
        variance = covariance.diagonal()
        scale = torch.where(variance > 0.0, variance.rsqrt(), 1.0)
        correlation = covariance * scale[:, None] * scale
        correlation.diagonal().fill_(1.0)
        ridge = _LEAST_EIGENVALUE - float(torch.linalg.eigvalsh(correlation)[0])
        if ridge > 0.0:
            correlation.diagonal().add_(ridge)
            if len(data) > len(mean):
                warnings.warn(
                    "iresnet_fast: the columns of the data depend on each other linearly, as a column does that is the "
                    "sum of two others: all rows are in a plane, across which a density has no limit; leave one of "
                    "them out.",
                    RuntimeWarning,
                    stacklevel=2,
                )
        factor = torch.linalg.cholesky(correlation)
        identity = torch.eye(len(mean), dtype=mean.dtype, device=mean.device)
        matrix = torch.linalg.solve_triangular(factor, identity, upper=False).tril() * scale
        dtype = torch.promote_types(data.dtype, torch.float32)
        dtype = dtype if data.is_floating_point() else torch.get_default_dtype()
        return cls(mean.to(dtype), matrix.to(dtype))

    def forward(self, x: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        """Return z [B, d] and the log-determinant [B]; context is not used.

        Raises:
            ValueError: x does not fit.
        """
        self._check(x, "x")
        z = F.linear(x - self.center.to(x.dtype), self.matrix.to(x.dtype))
        return z, for_each_sample(self._logdet(x), x)

    def inverse(self, z: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        """Return x [B, d] and the log-determinant of the inverse [B]; context is not used. Errors as in `forward`."""
        self._check(z, "z")
        dtype = torch.promote_types(z.dtype, torch.float32)  # there are no triangular solves of half precision
        centred = torch.linalg.solve_triangular(self.matrix.to(dtype), z.T.to(dtype), upper=False).T
        return (centred + self.center.to(dtype)).to(z.dtype), for_each_sample(-self._logdet(z), z)

    def extra_repr(self) -> str:
        """Describe the layer in its repr."""
        return str(len(self.center))

    def _check(self, x: Tensor, name: str) -> None:
        check_floating(x, name)
        check_shape(x, (len(self.center),), name)
        check_same_device(x, self.center, name)

    def _logdet(self, x: Tensor) -> Tensor:
        return self.matrix.diagonal().to(x.dtype).log().sum()
