"""What the log-determinant promises beyond its reference: definition, unbiasedness, independence, memory."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from problems import DTYPES, ISAS, LIPSCHITZ, TINY, WIDE, gradients, make, named, upstream
from test_residual_logdet import call, evaluate

from iresnet_fast import _library, ops, reference
from iresnet_fast.estimators import RussianRoulette, roulette_coefficients


@pytest.mark.parametrize("kind", TINY, ids=[case.name for case in TINY])
def test_neumann_gradient_is_that_of_its_definition(kind):
    problem = make(kind._replace(probes=None, per_sample=True)).requires_grad()

    def g(a):
        return reference.branch(a, *problem.branch, problem.parameters, factors=problem.factors)

    w = y = problem.probe.new_zeros(problem.probe.shape)
    w, sign = problem.probe, 1.0
    for q in problem.coefficients.unbind(1):
        y = y + sign * q.view(-1, *[1] * (w.dim() - 1)) * w
        w, sign = torch.autograd.functional.vjp(g, problem.x, w)[1], -sign
    _, tangent = torch.autograd.functional.jvp(g, problem.x, problem.probe, create_graph=True)
    s = (y.detach() * tangent).flatten(1).sum(1)
    logdet = call(ops, problem)[1]
    for got, want in zip(gradients([logdet], problem.leaves), gradients([s], problem.leaves), strict=True):
        torch.testing.assert_close(got, torch.zeros_like(got) if want is None else want)


@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_every_unit_probe_and_many_terms_give_the_exact_value(kind):
    problem = make(TINY[kind == "conv"]._replace(probes=None, per_sample=False))
    d = problem.x[0].numel()
    # The mean over i of d e_i e_i^T is the identity: no randomness is left.
    probe = d**0.5 * torch.eye(d, dtype=torch.float64).view(d, 1, *problem.x.shape[1:]).expand(d, *problem.x.shape)
    _, logdet = ops.residual_logdet(
        problem.x,
        *problem.branch,
        probe,
        torch.ones(150).double(),
        "neumann",
        problem.parameters,
        factors=problem.factors,
    )
    exact = slogdet_of_autograd(problem)
    torch.testing.assert_close(logdet, exact, rtol=1e-9, atol=1e-12)


def slogdet_of_autograd(problem):
    def f(sample):
        x = sample[None]
        return (x + reference.branch(x, *problem.branch, problem.parameters, factors=problem.factors))[0]

    d = problem.x[0].numel()
    jacobians = torch.stack([torch.autograd.functional.jacobian(f, x).reshape(d, d) for x in problem.x])
    return torch.linalg.slogdet(jacobians)[1]


@pytest.mark.parametrize("distribution", ["geometric", "poisson"])
@pytest.mark.parametrize("case", **named(TINY))
def test_roulette_is_unbiased_by_enumeration_over_its_depth(case, distribution):
    """Sum over N of P(N) times the estimate at N: the plain series, and the gradient of the plain series."""
    n, n_exact = 12, 2
    roulette = RussianRoulette(
        n_exact=n_exact, distribution=distribution, parameter=0.4 if distribution == "geometric" else 2.0
    )
    survival = torch.cat((torch.ones(1, dtype=torch.float64), roulette.survival(n - n_exact)))  # P(N >= 0 ..)
    # Depths beyond the last term all give the same coefficients: the last one stands for them.
    probabilities = torch.cat((survival[:-1] - survival[1:], survival[-1:]))
    q = roulette_coefficients(torch.arange(n - n_exact + 1), n_exact, survival[1:], n)
    depths = q.shape[0]
    problem = make(case._replace(batch=1, probes=None)).requires_grad()

    def estimate(coefficients, copies):
        def copied(t):
            return t if t is None or t.dim() == 1 else t.expand(copies, *t.shape[1:])

        return ops.residual_logdet(
            copied(problem.x),
            problem.weights,
            [copied(bias) for bias in problem.biases],
            problem.activations,
            copied(problem.probe),
            coefficients,
            parameters=problem.parameters,
            factors=[copied(factor) for factor in problem.factors],
        )[1]

    averaged, truncated = probabilities @ estimate(q, depths), estimate(torch.ones(n).double(), 1)[0]
    torch.testing.assert_close(averaged, truncated, rtol=1e-12, atol=1e-14)
    got, want = (torch.autograd.grad(value, problem.leaves) for value in (averaged, truncated))
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", **named(WIDE))
def test_machine_may_change_before_the_backward_pass(case, dtype):
    """What the forward pass keeps is laid out for its threads and its instruction set."""
    torch.set_num_threads(2)
    expected_gradients = evaluate(ops, case, dtype)[2:]
    for threads in (1, 2, 3):
        for forward, backward in itertools.product(ISAS, ISAS):
            _library.set_cpu_isa(forward)
            torch.set_num_threads(threads)
            problem = make(case, dtype).requires_grad()
            outputs = call(ops, problem)
            _library.set_cpu_isa(backward)
            torch.set_num_threads(2)
            got = gradients(outputs, problem.leaves)
            # Only the order of sums of some thousand terms differs.
            for a, b in zip(got, expected_gradients, strict=True):
                torch.testing.assert_close(a, b, rtol=0.0, atol=100 * torch.finfo(dtype).eps * max(1.0, b.abs().max()))


def test_two_backward_passes_through_one_forward_pass():
    problem = make(TINY[0]._replace(probes=None)).requires_grad()
    outputs = call(ops, problem)
    seeds = upstream(outputs)
    first, second = (torch.autograd.grad(outputs, problem.leaves, seeds, retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", **named(WIDE))
def test_a_sample_does_not_depend_on_its_neighbours(case, dtype):
    """A sample with NaN, and one whose terms overflow, must not reach the others of its tile."""
    problem = make(case, dtype)
    alone = call(ops, problem, tol=0.01, lipschitz=LIPSCHITZ)
    problem.x[1] = torch.nan
    (problem.probe[:, 3] if case.probes else problem.probe[3])[:] = torch.finfo(dtype).max
    others = [i for i in range(case.batch) if i not in (1, 3)]
    for got, want in zip(call(ops, problem, tol=0.01, lipschitz=LIPSCHITZ), alone, strict=True):
        assert torch.equal(got[others], want[others])
        assert got[1].isnan().any()


MEMORY = """
import sys
import torch
from iresnet_fast import ops

torch.set_num_threads(2)
gradient, batch, numbers = sys.argv[1], int(sys.argv[2]), [int(n) for n in sys.argv[3:]]
x = torch.randn(batch, 16, requires_grad=True)
weights = [(0.2 * torch.randn(16, 16)).requires_grad_() for _ in range(2)]
probe = torch.randn(batch, 16)

def step(x, probe, n):
    z, logdet = ops.residual_logdet(x, weights, [None, None], ["identity", "elu"], probe, torch.ones(n), gradient)
    torch.autograd.grad((z * z).sum() - logdet.sum(), [x, *weights])

def kib(field):
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith(field)).split()[1])

for n in (2, 40):
    step(x[:500], probe[:500], n)  # what is loaded and kept once
for n in numbers:
    with open("/proc/self/clear_refs", "w") as clear:
        clear.write("5")  # the peak starts again from what is resident now: importing torch has its own
    before = kib("VmRSS:")
    step(x, probe, n)
    print(kib("VmHWM:") - before)
"""


def peaks(*arguments):
    """KiB that training steps of some numbers of terms take on top of their data."""
    command = [sys.executable, "-c", MEMORY, *map(str, arguments)]
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(_library.__file__).parents[1]),
        "MALLOC_MMAP_THRESHOLD_": "65536",  # fixed: what a step frees goes back to the system before the next
    }
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return [int(line) for line in result.stdout.split()]


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak is measured by way of /proc")
def test_memory_does_not_grow_with_the_terms():
    few, many = peaks("neumann", 200_000, 5, 40)
    # At the very least z, the Neumann vector and the gradient of x, 12.5 MiB each, are alive together.
    assert few > 3 * 12_500
    assert many <= 1.05 * few
    # The series must grow: so the measurement sees what it is to see.
    few, many = peaks("series", 50_000, 3, 12)
    assert many > 2 * few
