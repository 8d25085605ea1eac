"""A series ends with its last coefficient that is not zero: a CUDA graph has more of them than a roulette draws."""

import pytest
import torch
from problems import CASES, LIPSCHITZ, TINY, WIDE, gradients, make, named

from iresnet_fast import ops, reference

RAGGED = [case for case in CASES if case.name in ("primes", "below a vector", "width 7", "many images")]


def call(package, problem, gradient="neumann", **options):
    return package.residual_logdet(
        problem.x,
        *problem.branch,
        problem.probe,
        problem.coefficients,
        gradient,
        problem.parameters,
        factors=problem.factors,
        **options,
    )


@pytest.mark.parametrize("options", [{}, {"tol": 0.1, "lipschitz": LIPSCHITZ}])
@pytest.mark.parametrize("gradient", ["neumann", "series"])
@pytest.mark.parametrize("case", **named([*TINY, *WIDE]))
def test_zeros_behind_the_last_change_nothing(case, gradient, options):
    """To the bit, but for the gradient through the series, which torch sums over all pairs of terms."""
    values, slopes = [], []
    for zeros in (0, 50):
        problem = make(case).requires_grad().with_zeros(zeros)
        outputs = call(ops, problem, gradient, **options)
        with torch.no_grad():
            info = call(ops, problem, **options, return_info=True)[2]
        values.append([*outputs, info.norms, info.terms])
        slopes.append(gradients(outputs, problem.leaves))
    assert all(map(torch.equal, *values))
    tolerance = 1e-12 if gradient == "series" else 0.0
    torch.testing.assert_close(*slopes, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("package", [ops, reference])
@pytest.mark.parametrize("case", **named([*TINY, *RAGGED]))
def test_every_sample_has_its_own_last(case, package):
    """The first term is always there, and a zero between others ends nothing."""
    n = 5
    ends = torch.arange(case.batch) % (n + 1)
    q = torch.linspace(0.5, 1.5, case.batch * n, dtype=torch.float64).view(case.batch, n)
    q[torch.arange(1, n + 1) > ends[:, None]] = 0.0
    q[:, 1] = 0.0
    ends = torch.where(ends == 2, 1, ends).clamp(min=1)
    problem = make(case)._replace(coefficients=q)
    z, logdet, info = call(package, problem, return_info=True)
    assert torch.equal(info.terms, ends.expand_as(info.terms))
    for end in ends.unique().tolist():
        mine = ends == end
        shorter = make(case)._replace(coefficients=q[:, :end].contiguous())
        exact_z, exact, exact_info = call(reference, shorter, return_info=True)
        for got, expected in ((z, exact_z), (logdet, exact), (info.norms.t(), exact_info.norms.t())):
            torch.testing.assert_close(got[mine], expected[mine], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("package", [ops, reference])
def test_terms_behind_the_last_are_left_out(package):
    """Powers of an expansion overflow, and zero times infinity is not a number."""
    x = probe = torch.ones(3, 2)
    branch = [1e4 * torch.eye(2)], [None], ["identity"]
    q = torch.ones(2)
    padded = torch.nn.functional.pad(q, (0, 50))
    results = [package.residual_logdet(x, *branch, probe, c, return_info=True)[1] for c in (padded, q)]
    assert torch.equal(*results)
    assert results[0].isfinite().all()
