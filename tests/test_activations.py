import pytest
import torch

from iresnet_fast import activations

ELEMENTWISE = [name for name, entry in activations.REGISTRY.items() if not entry.pairwise]
GRID = torch.linspace(-30.0, 30.0, 4001, dtype=torch.float64)[1::2]  # no point at 0, where ReLU has a corner


def _parameter(name):
    return torch.tensor(0.7, dtype=torch.float64) if activations.get(name).has_parameter else None


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_derivatives_match_autograd(name):
    entry, parameter = activations.get(name), _parameter(name)
    a = GRID.clone().requires_grad_()
    h = entry.value(a, parameter)
    (first,) = torch.autograd.grad(h.sum(), a, create_graph=True)
    second = torch.autograd.grad(first.sum(), a)[0] if first.requires_grad else torch.zeros_like(a)
    d = entry.derivative(a, parameter)
    torch.testing.assert_close(d, first, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(entry.second_derivative(a, parameter), second, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(entry.derivative(a, parameter, h), d)
    torch.testing.assert_close(entry.second_derivative(a, parameter, h, d), second, rtol=1e-10, atol=1e-14)
    if entry.piecewise_linear:
        assert not second.any()


@pytest.mark.parametrize("name", ["lipswish"])
def test_parameter_derivatives_match_autograd(name):
    entry, beta = activations.get(name), _parameter(name).requires_grad_()
    of_value, of_derivative = entry.parameter_derivatives(GRID, beta)
    for function, expected in ((entry.value, of_value), (entry.derivative, of_derivative)):
        jacobian = torch.autograd.functional.jacobian(lambda b, f=function: f(GRID, b), beta)
        torch.testing.assert_close(expected.detach(), jacobian, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("beta", [-1.0, 0.5, 4.0])
def test_lipschitz_constant_bounds_the_slope(name, beta):
    entry = activations.get(name)
    parameter = torch.tensor(beta, dtype=torch.float64) if entry.has_parameter else None
    slope = entry.derivative(GRID, parameter).abs().max()
    assert slope <= entry.lipschitz
    assert slope >= 0.99 * entry.lipschitz  # and it is not a loose bound


def test_values_at_zero():
    zero = torch.zeros(1)
    assert activations.get("relu").derivative(zero) == 0
    assert activations.get("elu").derivative(zero) == 1
    assert activations.get("elu").second_derivative(zero) == 0


def test_lipswish_default_is_its_initial_beta():
    entry = activations.get("lipswish")
    beta = torch.tensor(activations.LIPSWISH_INITIAL_BETA, dtype=torch.float64)
    assert torch.equal(entry.value(GRID), entry.value(GRID, beta))


@pytest.mark.parametrize("shape", [(3, 6), (2, 4, 3, 5), (0, 2)])
def test_maxmin_sorts_pairs_of_channels(shape):
    a = torch.randn(shape)
    h = activations.get("maxmin").value(a)
    assert h.shape == a.shape
    assert torch.equal(h[:, 0::2], torch.maximum(a[:, 0::2], a[:, 1::2]))
    assert torch.equal(h[:, 1::2], torch.minimum(a[:, 0::2], a[:, 1::2]))


def test_kernel_ids():
    assert {name: entry.kernel_id for name, entry in activations.REGISTRY.items()} == {
        "identity": 0,
        "relu": 1,
        "elu": 2,
        "softplus": 3,
        "tanh": 4,
        "sin": 5,
        "lipswish": 6,
        "maxmin": None,
    }


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"activation must be one of identity, relu.*got 'gelu'"):
        activations.get("gelu")
