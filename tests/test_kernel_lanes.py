"""An activation is a function of one number: no bit of it depends on where the number is, or on what is beside it."""

import math

import pytest
import torch
from exact_activations import NAMES
from problems import DTYPES, ISAS, Problem, run_on
from test_kernel_activations import jets

from iresnet_fast import activations as registry

HOSTILE = (math.inf, -math.inf, math.nan, 1e38, -1e38, 8193.0, -8193.0, 1.1e7, 1e-40, -1e-40)
USUAL = (0.0, -0.0, 1e-30, 0.1, -0.7, 1.5, -3.3, 30.0, -88.0, 100.5, 8191.0, -8192.0)
LARGEST_BATCH = 67  # four vectors of the widest set and a part of one


def bits(tensor):
    """The bits of numbers, the same ones for all that are none."""
    return (
        tensor.where(~tensor.isnan(), torch.zeros_like(tensor)).view(
            torch.int32 if tensor.dtype == torch.float32 else torch.int64
        )
        + tensor.isnan()
    )


def slope(name, dtype):
    return torch.tensor(3.0 if registry.get(name).has_parameter else 0.0, dtype=dtype)


def convolutional_jets(name, a, beta):
    """phi and phi' at the pixels of one line."""
    beta = beta if registry.get(name).has_parameter else None
    problem = Problem(a.view(1, 1, 1, -1), [a.new_ones(1, 1, 1, 1)], [None], [name], [beta], None, None, [None])
    overload, values = problem.raw("branch")
    value = overload(*values).flatten()
    overload, values = problem.raw("jacobian_powers", start=torch.ones_like(problem.x), count=1, transpose=True)
    return value, overload(*values).flatten()


@pytest.mark.parametrize("kind", [jets, convolutional_jets])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_no_bit_depends_on_the_neighbours(isa, dtype, name, kind):
    run_on(isa)
    torch.set_num_threads(1)
    beta, numbers = slope(name, dtype), torch.tensor(USUAL + HOSTILE, dtype=dtype)
    alone = [torch.cat(order) for order in zip(*(kind(name, number, beta) for number in numbers.split(1)), strict=True)]
    generator = torch.Generator().manual_seed(0)
    for size in range(1, LARGEST_BATCH + 1):
        places = torch.randint(len(numbers), (size,), generator=generator)
        for order, (got, want) in enumerate(zip(kind(name, numbers[places], beta), alone, strict=True)):
            wrong = bits(got) != bits(want[places])
            assert not wrong.any(), (size, order, numbers[places][wrong].tolist())


def twin(name, a, beta):
    activation = registry.get(name)
    return activation.value(a, beta), activation.derivative(a, beta), activation.second_derivative(a, beta)


# phi and phi' far below zero and far above it; None: phi is as large as its argument. phi'' is zero there.
LIMITS = {
    "identity": ((None, 1.0), (None, 1.0)),
    "relu": ((0.0, 0.0), (None, 1.0)),
    "elu": ((-1.0, 0.0), (None, 1.0)),
    "softplus": ((0.0, 0.0), (None, 1.0)),
    "tanh": ((-1.0, 0.0), (1.0, 0.0)),
    "lipswish": ((0.0, 0.0), (None, 1.0 / 1.1)),
}


@pytest.mark.parametrize("beta", [-200.0, -3.0, 0.5, 60.0, 1e30])
@pytest.mark.parametrize("name", list(LIMITS))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("machine", [*ISAS, "twin"])
def test_far_out_are_the_limits(machine, dtype, name, beta):
    """Value and both derivatives at the largest numbers and at infinity."""
    if machine != "twin":
        run_on(machine)
    # The slope may be so small that only infinity is far out.
    numbers = [math.inf] if name == "lipswish" and beta == -200.0 else [1e38, torch.finfo(dtype).max, math.inf]
    for sign, (value, derivative) in zip((-1.0, 1.0), LIMITS[name], strict=True):
        a = sign * torch.tensor(numbers, dtype=dtype)
        got = (twin if machine == "twin" else jets)(name, a, torch.tensor(beta, dtype=dtype))
        want = a * derivative if value is None else torch.full_like(a, value)
        torch.testing.assert_close(got[0], want, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(got[1], torch.full_like(a, derivative), rtol=1e-6, atol=1e-6)
        assert not got[2].any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_far_out_the_slope_has_no_gradient(isa, dtype):
    run_on(isa)
    far = torch.tensor([1e20, -1e20, 1e38, -1e38, math.inf, -math.inf], dtype=dtype)
    beta = torch.tensor(0.5, dtype=dtype)
    by_value, by_derivative = registry.get("lipswish").parameter_derivatives(far, beta)
    assert not by_value.any()
    assert not by_derivative.any()
    for a in far.split(1):
        problem = Problem(a[:, None], [a.new_ones(1, 1)], [None], ["lipswish"], [beta], None, None, [None])
        ones = a.new_ones(1, 1, 1)
        for upstream in ({"grad": ones[0]}, {"tangents": ones, "cotangents": ones, "weight": ones.view(1)}):
            overload, values = problem.raw("branch_backward", **upstream)
            assert overload(*values)[1][-1] == 0.0
