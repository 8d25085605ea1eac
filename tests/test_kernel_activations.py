"""phi, phi' and phi'' of the kernels, point by point, through a branch of one stage: g(x) = phi(x)."""

import pytest
import torch
import torch.nn.functional as F
from problems import DTYPES, ISAS, KERNEL_ACTIVATIONS, Problem, run_on

from iresnet_fast import activations as registry


def points(dtype, largest=80.0):
    """Both signs of zero, of the smallest numbers, of a fine grid and of what is far out."""
    tiny = torch.finfo(dtype).tiny
    grid = torch.cat((torch.linspace(0.0, 8.0, 4001, dtype=dtype), torch.logspace(-30, 0, 301, dtype=dtype)))
    far = torch.linspace(8.0, largest, 300, dtype=dtype)
    positive = torch.cat((torch.tensor([0.0, tiny, 4.0 * tiny], dtype=dtype), grid, far))
    return torch.cat((positive, -positive))


def call(op, name, a, beta, **arguments):
    """Run a raw op on a branch of one stage with weight 1."""
    beta = beta if registry.get(name).has_parameter else None
    problem = Problem(a[:, None], [a.new_ones(1, 1)], [None], [name], [beta], None, None, [None])
    overload, values = problem.raw(op, **arguments)
    return overload(*values)


def jets(name, a, beta):
    """phi, phi' and phi'' of the kernels."""
    ones = torch.ones_like(a)
    value = call("branch", name, a, beta)[:, 0]
    derivative = call("jacobian_powers", name, a, beta, start=ones[:, None], count=1, transpose=True)[0, :, 0]
    pair = ones.view(1, -1, 1)
    # The gradient of <1, J 1> = phi'(a) is phi''(a).
    arguments = {"tangents": pair, "cotangents": pair, "weight": ones, "input_gradient": True}
    second = call("branch_backward", name, a, beta, **arguments)[0][:, 0]
    return value, derivative, second


def oracle(name, a, beta):
    activation = registry.get(name)
    a, beta = a.double(), beta.double()
    return activation.value(a, beta), activation.derivative(a, beta), activation.second_derivative(a, beta)


@pytest.mark.parametrize("beta", [0.5, -3.0, 4.0])
@pytest.mark.parametrize("name", KERNEL_ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_values_and_derivatives(isa, dtype, name, beta):
    """Some eps of 1 where the number is at most 1, of itself where it is larger: a handful of roundings, so 8 eps.

    The logistic function of LipSwish is right to eps of 1 too, as is the rounded s a it is taken of; then it is
    multiplied by a (phi), s a (phi') or s^2 a (phi'').
    """
    run_on(isa)
    beta = torch.tensor(beta, dtype=dtype)
    a, eps = points(dtype), torch.finfo(dtype).eps
    slope = F.softplus(beta.double()).item() if registry.get(name).has_parameter else 0.0
    factors = (0.0, 0.0, 0.0) if slope == 0.0 else (1.0, slope, slope**2)
    for order, (got, want) in enumerate(zip(jets(name, a, beta), oracle(name, a, beta), strict=True)):
        limit = 8.0 * eps * want.abs().clamp(min=1.0) + 2.0 * eps * factors[order] * a.double().abs()
        error = (got.double() - want).abs()
        worst = (error / limit).argmax()
        assert error[worst] <= limit[worst], f"order {order} at {a[worst].item()!r}: {error[worst]:.2e}"


@pytest.mark.parametrize("name", ["identity", "relu", "elu", "tanh", "sin", "lipswish"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_small_values_keep_their_digits(isa, dtype, name):
    """phi(a) is right to some eps of itself near its zero at 0."""
    run_on(isa)
    a = points(dtype)
    a = a[a.abs() < 1.0]
    beta = torch.tensor(0.5, dtype=dtype)
    got, want = jets(name, a, beta)[0].double(), oracle(name, a, beta)[0]
    assert torch.equal(got[want == 0.0], want[want == 0.0])
    error = ((got - want) / want).abs()[want.abs() > 100 * torch.finfo(dtype).tiny]
    assert error.max() <= 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize("name", KERNEL_ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_far_out_and_not_a_number(isa, dtype, name):
    run_on(isa)
    largest = torch.finfo(dtype).max
    a = torch.tensor([1e4, -1e4, 1e4 * torch.pi, -1e30, 1e30, largest, -largest, torch.nan], dtype=dtype)
    beta = torch.tensor(0.5, dtype=dtype)
    if name == "sin":  # beyond this the argument itself has no digits left
        a = a[[0, 1, 2, -1]]
    for got, want in zip(jets(name, a, beta), oracle(name, a, beta), strict=True):
        nan = a.isnan()
        if not torch.equal(want.isnan(), torch.zeros_like(nan)):  # constants have no NaN: phi' of the identity, of ReLU
            assert got[nan].isnan().all()
        finite = ~nan & want.isfinite() & (want.abs() < largest)
        error = (got.double() - want)[finite].abs() / want[finite].abs().clamp(min=1.0)
        assert error.numel() == 0 or error.max() <= 16 * torch.finfo(dtype).eps
        assert not got[~nan & want.isfinite()].isnan().any()


@pytest.mark.parametrize("name", KERNEL_ACTIVATIONS)
@pytest.mark.parametrize("isa", ISAS)
def test_at_the_kink(isa, name):
    """At 0 and -0: relu' = 0, relu'' = 0; elu' = 1, elu'' = 0, as the reference."""
    run_on(isa)
    a, beta = torch.tensor([0.0, -0.0], dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    for got, want in zip(jets(name, a, beta), oracle(name, a, beta), strict=True):
        torch.testing.assert_close(got, want, rtol=0.0, atol=4 * torch.finfo(torch.float64).eps)


@pytest.mark.parametrize("beta", [0.5, -30.0, -3.0, 4.0, 50.0])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_gradient_of_the_learnable_slope(isa, dtype, beta):
    """d phi / d beta and d phi' / d beta, one point at a time by an upstream gradient that picks it."""
    run_on(isa)
    beta = torch.tensor(beta, dtype=dtype)
    a = torch.tensor([-7.0, -1.5, -0.3, 0.0, 0.2, 1.1, 3.0, 20.0], dtype=dtype)
    by_value, by_derivative = registry.get("lipswish").parameter_derivatives(a.double(), beta.double())
    ones = torch.ones(1, a.numel(), 1, dtype=dtype)
    for i in range(a.numel()):
        pick = torch.zeros_like(a)
        pick[i] = 1.0
        pair = {"tangents": ones, "cotangents": ones, "weight": pick}
        from_value = call("branch_backward", "lipswish", a, beta, grad=pick[:, None])[1][-1]
        from_derivative = call("branch_backward", "lipswish", a, beta, **pair)[1][-1]
        for got, want in ((from_value, by_value[i]), (from_derivative, by_derivative[i])):
            # The logistic function is right to eps of 1, in the oracle too; a^2 multiplies it.
            assert abs(got.double() - want) <= 4 * torch.finfo(dtype).eps * max(1.0, a[i].item() ** 2)


@pytest.mark.parametrize("name", [name for name in KERNEL_ACTIVATIONS if name != "identity"])
def test_the_kernels_derivative_keeps_to_the_lipschitz_constant(name):
    for dtype in DTYPES:
        for beta in (-2.0, 0.5, 5.0):
            derivative = jets(name, points(dtype), torch.tensor(beta, dtype=dtype))[1]
            assert derivative.abs().max() <= registry.get(name).lipschitz * (1.0 + 2 * torch.finfo(dtype).eps)
