"""phi, phi' and phi'' of the kernels, point by point, through a branch of one stage: g(x) = phi(x)."""

import exact_activations
import mpmath
import pytest
import torch
from exact_activations import NAMES
from problems import DTYPES, ISAS, Problem, run_on

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
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_values_and_derivatives(isa, dtype, name, beta):
    """On a fine grid, by the twin in float64, which rounds at most as much.

    Some eps of 1 where the number is at most 1, of itself where it is larger: a handful of roundings, so 8 eps. The
    logistic function of LipSwish is right to eps of 1 too, as is the rounded s a it is taken of; then it is multiplied
    by a (phi), s a (phi') or s^2 a (phi''). Likewise sin(s a) / s, of which phi'' is s sin(s a).
    """
    run_on(isa)
    beta = torch.tensor(beta, dtype=dtype)
    a, eps = points(dtype), torch.finfo(dtype).eps
    s = exact_activations.steepness(name, beta.item())
    multiplied = 2.0 if "swish" in name or name == "sin(10)" else 0.0
    for order, (got, want) in enumerate(zip(jets(name, a, beta), oracle(name, a, beta), strict=True)):
        limit = 8.0 * eps * want.abs().clamp(min=max(1.0, s ** (order - 1)))
        limit = limit + multiplied * eps * s**order * a.double().abs()
        error = (got.double() - want).abs()
        worst = (error / limit).argmax()
        assert error[worst] <= limit[worst], f"order {order} at {a[worst].item()!r}: {error[worst]:.2e}"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_against_fifty_digits(isa, dtype, name):
    run_on(isa)
    beta = torch.tensor(exact_activations.BETA, dtype=dtype)
    error, order, at = exact_activations.worst(jets(name, exact_activations.POINTS.to(dtype), beta), name, dtype)
    assert error <= 1.0, (order, at)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_gelu_keeps_its_digits_on_the_left(isa, dtype):
    """To where it is a normal number; the exponential of the square is right to some eps of itself there too."""
    run_on(isa)
    a = -torch.linspace(0.0, 12.0 if dtype == torch.float32 else 37.0, 400)[1:].to(dtype)
    got = jets("gelu", a, None)[0].tolist()
    with mpmath.workdps(exact_activations.DIGITS):
        exact = [exact_activations.FUNCTIONS["gelu"](mpmath.mpf(x), None) for x in a.tolist()]
        error = max(abs(mpmath.mpf(x) / want - 1) for x, want in zip(got, exact, strict=True))
    assert error <= 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("softplus", "sigmoid")])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_small_values_keep_their_digits(isa, dtype, name):
    """phi(a) is right to some eps of itself near its zero at 0."""
    run_on(isa)
    a = points(dtype)
    a = a[a.abs() < (0.1 if name == "sin(10)" else 1.0)]  # before its next zero
    beta = torch.tensor(0.5, dtype=dtype)
    got, want = jets(name, a, beta)[0].double(), oracle(name, a, beta)[0]
    assert torch.equal(got[want == 0.0], want[want == 0.0])
    error = ((got - want) / want).abs()[want.abs() > 100 * torch.finfo(dtype).tiny]
    assert error.max() <= 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_far_out_and_not_a_number(isa, dtype, name):
    run_on(isa)
    largest = torch.finfo(dtype).max
    a = torch.tensor([1e4, -1e4, 1e4 * torch.pi, -1e30, 1e30, largest, -largest, torch.nan], dtype=dtype)
    beta = torch.tensor(0.5, dtype=dtype)
    if name.startswith("sin"):  # beyond this the argument itself has no digits left
        a = a[[0, 1, -1]]
    for got, want in zip(jets(name, a, beta), oracle(name, a, beta), strict=True):
        nan = a.isnan()
        if not torch.equal(want.isnan(), torch.zeros_like(nan)):  # constants have no NaN: phi' of the identity, of ReLU
            assert got[nan].isnan().all()
        finite = ~nan & want.isfinite() & (want.abs() < largest)
        error = (got.double() - want)[finite].abs() / want[finite].abs().clamp(min=1.0)
        assert error.numel() == 0 or error.max() <= 16 * torch.finfo(dtype).eps
        assert not got[~nan & want.isfinite()].isnan().any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("isa", ISAS)
def test_at_the_kink(isa, name):
    """At 0 and -0, 1 and -1: relu' = 0, relu'' = 0; elu' = 1, elu'' = 0; hardtanh' = 0, as the reference."""
    run_on(isa)
    a, beta = torch.tensor([0.0, -0.0, 1.0, -1.0], dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    for got, want in zip(jets(name, a, beta), oracle(name, a, beta), strict=True):
        torch.testing.assert_close(got, want, rtol=0.0, atol=4 * torch.finfo(torch.float64).eps)


@pytest.mark.parametrize("name", ["lipswish", "leaky_lswish(0.25)"])
@pytest.mark.parametrize("beta", [0.5, -30.0, -3.0, 4.0, 50.0])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_gradient_of_the_learnable_slope(isa, dtype, beta, name):
    """d phi / d beta and d phi' / d beta, one point at a time by an upstream gradient that picks it."""
    run_on(isa)
    beta = torch.tensor(beta, dtype=dtype)
    a = torch.tensor([-7.0, -1.5, -0.3, 0.0, 0.2, 1.1, 3.0, 20.0], dtype=dtype)
    by_value, by_derivative = registry.get(name).parameter_derivatives(a.double(), beta.double())
    ones = torch.ones(1, a.numel(), 1, dtype=dtype)
    for i in range(a.numel()):
        pick = torch.zeros_like(a)
        pick[i] = 1.0
        pair = {"tangents": ones, "cotangents": ones, "weight": pick}
        from_value = call("branch_backward", name, a, beta, grad=pick[:, None])[1][-1]
        from_derivative = call("branch_backward", name, a, beta, **pair)[1][-1]
        for got, want in ((from_value, by_value[i]), (from_derivative, by_derivative[i])):
            # The logistic function is right to eps of 1, in the oracle too; a^2 multiplies it.
            assert abs(got.double() - want) <= 4 * torch.finfo(dtype).eps * max(1.0, a[i].item() ** 2)


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("sin")])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_infinities_have_their_limits(isa, dtype, name):
    run_on(isa)
    a, beta = torch.tensor([torch.inf, -torch.inf], dtype=dtype), torch.tensor(0.5, dtype=dtype)
    for got, want in zip(jets(name, a, beta)[:2], oracle(name, a, beta)[:2], strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_half_abs(isa, dtype):
    """|a| of the first half of the channels and a of the others, of an odd number too: exact."""
    run_on(isa)
    a = torch.randn(40, 5, dtype=dtype)
    weight = torch.eye(5, dtype=dtype)
    problem = Problem(a, [weight], [None], ["half_abs"], [None], None, None, [None])
    overload, values = problem.raw("branch")
    assert torch.equal(overload(*values), torch.cat((a[:, :2].abs(), a[:, 2:]), 1))
    overload, values = problem.raw("jacobian_powers", start=torch.ones_like(a), count=1, transpose=True)
    assert torch.equal(overload(*values)[0], registry.get("half_abs").derivative(a))


@pytest.mark.parametrize("name", NAMES)
def test_the_kernels_derivative_keeps_to_the_lipschitz_constant(name):
    for dtype in DTYPES:
        for beta in (-2.0, 0.5, 5.0):
            derivative = jets(name, points(dtype), torch.tensor(beta, dtype=dtype))[1]
            assert derivative.abs().max() <= registry.get(name).lipschitz * (1.0 + 2 * torch.finfo(dtype).eps)
