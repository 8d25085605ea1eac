"""Exact log-determinants of events larger than those that torch can factorise in batches, with more than one thread."""

import pytest
import torch
from comparison import assert_compiles, assert_second_derivatives_agree
from problems import Case, gradients, make

from iresnet_fast import _determinants, ops, reference
from iresnet_fast._determinants import inverses, log_abs_det

LARGE = 161  # rows; MKL gets batches wrong from 150 on


def matrices(n=LARGE, batch=3):
    return torch.eye(n, dtype=torch.float64) + torch.randn(batch, n, n, dtype=torch.float64) * (0.3 / n**0.5)


def alone(function, x):
    """The results of each by itself, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    results = torch.stack([function(matrix[None])[0] for matrix in x])
    torch.set_num_threads(threads)
    return results


@pytest.mark.parametrize("threads", [2, 3])
def test_batches_of_large_matrices(threads):
    torch.set_num_threads(threads)
    x = matrices()
    torch.testing.assert_close(log_abs_det(x), alone(lambda m: torch.linalg.slogdet(m)[1], x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(inverses(x), alone(torch.linalg.inv, x), rtol=1e-12, atol=1e-12)


def test_vmap_makes_no_batches_of_them():
    torch.set_num_threads(2)
    x = matrices(batch=4).view(2, 2, LARGE, LARGE)
    expected = alone(lambda m: torch.linalg.slogdet(m)[1], x.flatten(0, 1)).view(2, 2)
    torch.testing.assert_close(torch.func.vmap(log_abs_det)(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", ["jvp", "vjp", "jvp of vjp", "jvp of jvp"])
def test_derivatives_in_transforms_are_those_of_other_sizes(order, monkeypatch):
    x, v = matrices(5), matrices(5)

    def value(x):
        return log_abs_det(x).sin().sum()

    def derivative():
        if order == "jvp":
            return torch.func.jvp(value, (x,), (v,))
        if order == "vjp":
            return torch.func.grad(value)(x)
        inner = torch.func.grad(value) if order == "jvp of vjp" else lambda x: torch.func.jvp(value, (x,), (v,))
        return torch.func.jvp(inner, (x,), (v,))

    expected = derivative()
    monkeypatch.setattr(_determinants, "_SHARED_OUT", 4)
    torch.testing.assert_close(derivative(), expected)


def test_no_matrices_at_all():
    assert log_abs_det(torch.ones(0, LARGE, LARGE)).shape == (0,)
    assert inverses(torch.ones(0, LARGE, LARGE)).shape == (0, LARGE, LARGE)


@pytest.mark.parametrize("package", [ops, reference], ids=["ops", "reference"])
def test_the_exact_log_determinant_and_its_gradients(package):
    """On two threads as on one, where torch's batches are right."""
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        problem = make(Case("large", (LARGE,), (7,))).requires_grad()
        outputs = package.residual_logdet_exact(problem.x, *problem.branch, problem.parameters, factors=problem.factors)
        results.append([*outputs, *gradients(outputs, problem.leaves)])
    torch.testing.assert_close(results[1], results[0], rtol=1e-11, atol=1e-11)


def test_in_compiled_graphs_and_a_second_time():
    torch.set_num_threads(2)
    problem = make(Case("large", (_determinants._SHARED_OUT + 1,), (3,), batch=2)).requires_grad()

    def calls(package):
        return lambda: package.residual_logdet_exact(
            problem.x, *problem.branch, problem.parameters, factors=problem.factors
        )

    assert_compiles(calls(ops), problem.leaves)
    assert_second_derivatives_agree(calls(ops), calls(reference), problem.leaves)
