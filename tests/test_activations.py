import copy
import io
import pickle
import re

import exact_activations
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mpmath import mpf

from iresnet_fast import activations, data, estimators, models, nn, ops, training

ELEMENTWISE = [name for name, entry in activations.REGISTRY.items() if entry.elementwise and not entry.internal]
MEMBERS = ["leaky_relu(0.2)", "leaky_relu(-1.5)", "sin(10)", "celu(0.5)", "leaky_lswish(0.25)"]
GRID = torch.linspace(-30.0, 30.0, 4001, dtype=torch.float64)[1::2]  # no point at 0 or 1, where there are corners


def _parameter(name):
    return torch.tensor(0.7, dtype=torch.float64) if activations.get(name).has_parameter else None


def _jets(name, a, parameter=None):
    entry = activations.get(name)
    return entry.value(a, parameter), entry.derivative(a, parameter), entry.second_derivative(a, parameter)


def test_the_oracle_knows_every_name():
    assert set(exact_activations.NAMES) == {*ELEMENTWISE, *MEMBERS}


@pytest.mark.parametrize("name", exact_activations.NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_against_fifty_digits(name, dtype):
    beta = torch.tensor(exact_activations.BETA, dtype=dtype) if activations.get(name).has_parameter else None
    a = exact_activations.POINTS.to(dtype)
    error, order, at = exact_activations.worst(_jets(name, a, beta), name, dtype)
    assert error <= 1.0, (order, at)


@pytest.mark.parametrize("name", exact_activations.NAMES)
def test_constants_are_tight(name):
    """Neither bound is exceeded, and both are reached, but for the 1 that LipSwish counts as."""
    least, most = exact_activations.extreme_slopes(name)
    entry = activations.get(name)
    steepest = max(abs(least), abs(most))
    assert steepest <= mpf(entry.lipschitz)
    assert mpf(entry.least_slope) <= least
    assert entry.lipschitz - steepest <= (2e-4 if name == "lipswish" else 1e-12)
    assert least - entry.least_slope <= 1e-12


@pytest.mark.parametrize("name", [*ELEMENTWISE, *MEMBERS])
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


@pytest.mark.parametrize("name", ["lipswish", "leaky_lswish", "leaky_lswish(0.25)"])
def test_parameter_derivatives_match_autograd(name):
    entry, beta = activations.get(name), _parameter(name).requires_grad_()
    of_value, of_derivative = entry.parameter_derivatives(GRID, beta)
    for function, expected in ((entry.value, of_value), (entry.derivative, of_derivative)):
        jacobian = torch.autograd.functional.jacobian(lambda b, f=function: f(GRID, b), beta)
        torch.testing.assert_close(expected.detach(), jacobian, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("name", [*ELEMENTWISE, *MEMBERS])
@pytest.mark.parametrize("beta", [-1.0, 0.5, 4.0])
def test_lipschitz_constant_bounds_the_slope(name, beta):
    entry = activations.get(name)
    parameter = torch.tensor(beta, dtype=torch.float64) if entry.has_parameter else None
    # SELU is steepest beside its corner.
    derivative = entry.derivative(torch.cat((GRID, torch.tensor([-1e-3, 1e-3], dtype=torch.float64))), parameter)
    assert derivative.abs().max() <= entry.lipschitz
    assert derivative.min() >= entry.least_slope
    assert derivative.abs().max() >= 0.99 * entry.lipschitz  # and it is not a loose bound


def test_values_at_zero():
    zero = torch.zeros(1)
    assert activations.get("relu").derivative(zero) == 0
    assert activations.get("elu").derivative(zero) == 1
    assert activations.get("elu").second_derivative(zero) == 0


AT_KINKS = {
    "relu": F.relu,
    "elu": F.elu,
    "selu": F.selu,
    "celu": F.celu,
    "celu(0.5)": lambda a: F.celu(a, 0.5),
    "leaky_relu": F.leaky_relu,
    "leaky_relu(0.2)": lambda a: F.leaky_relu(a, 0.2),
    "hardtanh": F.hardtanh,
}


@pytest.mark.parametrize("name", AT_KINKS)
def test_at_kinks_the_derivatives_are_those_of_torch(name):
    a = torch.tensor([-1.0, -0.0, 0.0, 1.0], dtype=torch.float64, requires_grad=True)
    value = AT_KINKS[name](a)
    (first,) = torch.autograd.grad(value.sum(), a, create_graph=True)
    second = torch.autograd.grad(first.sum(), a)[0] if first.requires_grad else torch.zeros_like(a)
    for got, want in zip(_jets(name, a.detach()), (value, first, second), strict=True):
        torch.testing.assert_close(got, want.detach(), rtol=1e-15, atol=0.0)


@pytest.mark.parametrize("name", [name for name in [*ELEMENTWISE, *MEMBERS] if not name.startswith("sin")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_infinities_have_their_limits(name, dtype):
    infinite = torch.tensor([-torch.inf, torch.inf], dtype=dtype)
    far = torch.tensor([-1e4, 1e4], dtype=dtype)
    value, *derivatives = _jets(name, infinite)
    of_far, *derivatives_of_far = _jets(name, far)
    grows = of_far.abs() > 50.0
    torch.testing.assert_close(value, torch.where(grows, of_far.sign() * torch.inf, of_far), rtol=0.0, atol=1e-6)
    torch.testing.assert_close(derivatives, derivatives_of_far, rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("name", activations.names())
def test_what_is_not_a_number_stays(name):
    entry, nan = activations.get(name), torch.full((1, 2), torch.nan)
    assert entry.value(nan).isnan().all()
    if entry.elementwise and not entry.piecewise_linear:
        assert entry.derivative(nan).isnan().all()
        assert entry.second_derivative(nan).isnan().all()


def test_gelu_keeps_its_digits_on_the_left():
    a = torch.tensor([-1.0, -5.0, -20.0, -37.0], dtype=torch.float64)
    exact = [exact_activations.FUNCTIONS["gelu"](mpf(x), None) for x in a.tolist()]
    want = torch.tensor([float(x) for x in exact], dtype=torch.float64)
    # Rounding a / sqrt(2) counts a^2 times in the tail.
    eps = torch.finfo(torch.float64).eps
    assert bool(((activations.get("gelu").value(a) - want).abs() <= (8.0 + a * a) * eps * want.abs()).all())


def test_lipswish_default_is_its_initial_beta():
    beta = torch.tensor(activations.LIPSWISH_INITIAL_BETA, dtype=torch.float64)
    for name in ("lipswish", "leaky_lswish", "clipswish"):
        entry = activations.get(name)
        a = GRID[None]
        assert torch.equal(entry.value(a), entry.value(a, beta))


@pytest.mark.parametrize("shape", [(3, 6), (2, 4, 3, 5), (0, 2), (3, 5), (2, 1), (2, 3, 4, 5)])
def test_maxmin_sorts_pairs_of_channels(shape):
    """An odd last channel stays as it is."""
    a, paired = torch.randn(shape), shape[1] // 2 * 2
    h = activations.get("maxmin").value(a)
    assert h.shape == a.shape
    assert torch.equal(h[:, 0:paired:2], torch.maximum(a[:, 0:paired:2], a[:, 1:paired:2]))
    assert torch.equal(h[:, 1:paired:2], torch.minimum(a[:, 0:paired:2], a[:, 1:paired:2]))
    assert torch.equal(h[:, paired:], a[:, paired:])
    assert torch.equal(nn.Activation("maxmin")(a), h)


def test_fullsort_sorts_all_channels():
    a = torch.randn(2, 5, 3, 4)
    h = activations.get("fullsort").value(a)
    assert torch.equal(h.sort(1).values, a.sort(1).values)
    assert bool((h[:, :-1] >= h[:, 1:]).all())
    pair = torch.randn(7, 2)
    assert torch.equal(activations.get("fullsort").value(pair), activations.get("maxmin").value(pair))


def test_clipswish_doubles_the_channels():
    entry, a = activations.get("clipswish"), torch.randn(3, 4, dtype=torch.float64)
    lipswish = activations.get("lipswish").value
    assert entry.expansion == 2
    torch.testing.assert_close(entry.value(a) * 1.004, torch.cat((lipswish(a), lipswish(-a)), 1))
    d = activations.get("lipswish").derivative
    norm = torch.hypot(d(GRID), d(-GRID)).max().item() / 1.004
    assert 0.999 * entry.lipschitz < norm <= entry.lipschitz


def test_kernel_ids():
    ids = {name: entry.kernel_id for name, entry in activations.REGISTRY.items() if entry.kernel_id is not None}
    known = ["identity", "relu", "elu", "softplus", "tanh", "sin", "lipswish", "leaky_relu", None, "half_abs", "selu"]
    known += ["sigmoid", "gelu", "swish", "celu", "hardtanh", "leaky_lswish"]
    assert ids == {name: i for i, name in enumerate(known) if name is not None}
    assert activations.get("sin(10)").kernel_id == 8


def test_families_have_members():
    entry = activations.get("leaky_relu(0.2)")
    assert (entry.name, entry.constant) == ("leaky_relu(0.2)", 0.2)
    assert activations.get("leaky_relu(0.2)") is entry
    a = torch.randn(50, dtype=torch.float64)
    torch.testing.assert_close(activations.get("celu(0.5)").value(a), F.celu(a, 0.5))
    torch.testing.assert_close(activations.get("sin(3)").value(a), torch.sin(3.0 * a) / 3.0)


CONSTANTS = {"leaky_relu": "0", "sin": "0", "celu": "-1", "leaky_lswish": "1"}


@pytest.mark.parametrize("family", activations.FAMILIES)
@pytest.mark.parametrize("constant", ["nan", "inf", "1e-40", None])
def test_constants_that_make_no_sense(family, constant):
    constant = CONSTANTS[family] if constant is None else constant
    got = re.escape(str(float(constant)))
    with pytest.raises(ValueError, match=rf"the constant of {family} must be .*got {got}; change it"):
        activations.get(f"{family}({constant})")


@pytest.mark.parametrize("name", ["no_such", "relu(2)", "leaky_relu()", "leaky_relu(x)", "leaky_relu(0.2", None, 3])
def test_unknown_name_lists_the_known_ones(name):
    with pytest.raises(ValueError, match=r"activation must be one of identity, relu.*or register your own") as error:
        activations.get(name)
    assert repr(name) in str(error.value)
    assert "half_abs" not in str(error.value)
    assert "half_abs" not in activations.names()


def arctan(**changes):
    """Arguments of register()."""
    given = {
        "name": "arctan",
        "value": torch.atan,
        "derivative": lambda a: 1.0 / (1.0 + a * a),
        "second_derivative": lambda a: -2.0 * a / (1.0 + a * a) ** 2,
        "lipschitz": 1.0,
        "least_slope": 0.0,
    }
    return given | changes


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(activations, "REGISTRY", dict(activations.REGISTRY))


@pytest.mark.filterwarnings("ignore:iresnet_fast. activation 'arctan' has no kernel")
def test_an_activation_of_ones_own(registry):
    activations.register(**arctan())
    assert "arctan" in activations.names()
    weights = [torch.randn(4, 3).double() / 4, torch.randn(3, 4).double() / 4]
    x = torch.randn(5, 3, dtype=torch.float64)
    got = ops.branch(x, weights, [None, None], ["identity", "arctan"])
    torch.testing.assert_close(got, torch.atan(x @ weights[0].mT) @ weights[1].mT)

    torch.manual_seed(0)
    block = nn.InvertibleResidualBlock(nn.ResidualBranch.dense([3, 8, 3], "arctan"), estimators.Exact()).double().eval()
    z, logdet = block(x)
    jacobian = torch.stack([torch.autograd.functional.jacobian(lambda v: block(v[None])[0][0], row) for row in x])
    torch.testing.assert_close(logdet, torch.linalg.slogdet(jacobian).logabsdet, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(block.inverse(z.detach())[0], x, rtol=1e-4, atol=1e-4)
    for other in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert torch.equal(other(x)[0], z)


def test_a_configuration_with_an_activation_of_ones_own(registry):
    activations.register(**arctan())
    config = models.FlowConfig((2,), blocks=(1,), activation="arctan")
    assert models.FlowConfig.from_dict(config.to_dict()) == config
    x = torch.randn(4, 2)
    assert models.IResNetFlow(config).eval().log_prob(x).isfinite().all()


def test_the_same_may_be_registered_again(registry):
    activations.register(**arctan())
    first = activations.get("arctan")
    activations.register(**arctan(value=lambda a: torch.atan(a)))
    assert activations.get("arctan") is first
    for changes in ({"lipschitz": 1.5}, {"value": lambda a: torch.atan(a) + 1.0}):
        with pytest.raises(ValueError, match="name must be a new one, got 'arctan', which there is already"):
            activations.register(**arctan(**changes))


def test_a_checkpoint_of_an_activation_that_is_not_registered(registry, monkeypatch, tmp_path):
    x = torch.randn(20, 2)
    with monkeypatch.context() as with_it:
        with_it.setattr(activations, "REGISTRY", dict(activations.REGISTRY))
        activations.register(**arctan())
        flow = models.IResNetFlow(models.FlowConfig((2,), blocks=(1,), hidden=(4,), activation="arctan"))
        done = training.fit(flow, data.DataSet("x", x, x), training.TrainConfig(max_steps=1, batch_size=8), tmp_path)
    with pytest.raises(training.CheckpointError, match=r"activations that are registered, got 'arctan'; call ires"):
        training.load_model(done.folder)


def test_modules_of_families_are_pickled():
    for name in ("celu(0.5)", "leaky_lswish(0.25)", "gelu"):
        phi, a = nn.Activation(name), torch.randn(3, 4)
        file = io.BytesIO()
        torch.save(phi, file)
        file.seek(0)
        assert torch.equal(torch.load(file, weights_only=False)(a), phi(a))


def test_piecewise_linear_ones_have_no_second_derivative(registry):
    shrink = arctan(name="shrink", value=lambda a: F.softshrink(a, 0.51), second_derivative=None, least_slope=None)
    activations.register(**shrink | {"derivative": lambda a: (a.abs() > 0.51).to(a.dtype)})
    entry = activations.get("shrink")
    assert entry.piecewise_linear
    assert entry.least_slope == -1.0
    assert not entry.second_derivative(GRID).any()


MISTAKES = {
    "a name that exists": ({"name": "gelu"}, "name must be a new one, got 'gelu'"),
    "that of a family": ({"name": "leaky_relu"}, "name must be a new one"),
    "no name": ({"name": "my phi"}, "name must be a letter"),
    "not even text": ({"name": 3}, "name must be a letter"),
    "a wrong derivative": ({"derivative": torch.cos}, "derivative must be that of value"),
    "a wrong second derivative": ({"second_derivative": torch.cos}, "second_derivative must be that of derivative"),
    "a forgotten second derivative": ({"second_derivative": None}, "second_derivative must be that of derivative"),
    "too small a constant": ({"lipschitz": 0.9}, "lipschitz must be an upper bound of"),
    "too large a slope": ({"least_slope": 0.1}, "least_slope must be a lower bound of"),
    "no bound": ({"lipschitz": torch.inf}, "lipschitz must be a finite number"),
    "text for a bound": ({"lipschitz": "1"}, "lipschitz must be a finite number, got '1'"),
    "a negative bound": ({"lipschitz": -1.0}, "lipschitz must be positive"),
    "another shape": ({"value": torch.sum}, "value must return a tensor of the shape"),
    "no tensor": ({"derivative": lambda a: 1.0}, "derivative must return a tensor of the shape"),
    "functions of numpy": ({"value": np.arctan}, "value must be made of torch functions of a tensor, got RuntimeError"),
    "poles": ({"value": lambda a: a / (a > 0)}, "value must be finite"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistaken_registrations(registry, mistake):
    changes, message = MISTAKES[mistake]
    before = dict(activations.REGISTRY)
    with pytest.raises(ValueError, match=message):
        activations.register(**arctan(**changes))
    assert before == activations.REGISTRY


def test_registered_without_gradients(registry):
    with torch.inference_mode():
        activations.register(**arctan())
    assert activations.get("arctan").lipschitz == 1.0
