"""Bounds of whole dense branches: between what a search attains and the product of the layers."""

import itertools
import math

import pytest
import torch
from trust.certificates import Branches

from iresnet_fast import activations as registry
from iresnet_fast import certify
from iresnet_fast.certify import _lipsdp

pytestmark = pytest.mark.usefixtures("one_thread")
ELEMENTWISE = [name for name in registry.names() if registry.get(name).elementwise]


def make(widths, coeff=0.9):
    weights = [torch.randn(b, a) for a, b in itertools.pairwise(widths)]
    return [coeff * weight / torch.linalg.matrix_norm(weight, 2) for weight in weights]


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_slopes_are_those_of_the_activation(name):
    entry = registry.get(name)
    a = torch.linspace(-40.0, 40.0, 2_000_001, dtype=torch.float64)
    slopes = entry.derivative(a)
    assert entry.least_slope <= float(slopes.min()) <= entry.least_slope + 1e-4
    assert entry.lipschitz - 2e-4 <= float(slopes.max()) <= entry.lipschitz


@pytest.mark.parametrize("name", ["relu", "elu", "softplus", "tanh", "lipswish"])
@pytest.mark.parametrize("preactivation", [False, True])
@pytest.mark.parametrize("widths", [(2, 64, 2), (8, 32, 32, 8)])
def test_tighter_than_the_product(name, preactivation, widths):
    weights = make(widths)
    names = [name if preactivation else "identity"] + [name] * (len(weights) - 1)
    closed, improved = (certify.branch_bound(weights, names, n_steps=n).upper for n in (0, 20))
    assert improved <= closed < 0.8 * 0.9 ** len(weights)


def test_eclipse_fast_is_among_the_closed_forms():
    """For ReLU and its like: D = |S| / 2 after each layer."""
    weights = [weight.double() for weight in make((6, 20, 20, 6))]
    ellipsoid = weights[0] @ weights[0].mT
    for weight in weights[1:]:
        largest = torch.linalg.matrix_norm(ellipsoid, 2)
        outputs = largest**2 * torch.linalg.inv(2.0 * largest * torch.eye(20, dtype=torch.float64) - ellipsoid)
        ellipsoid = weight @ outputs @ weight.mT
    expected = float(torch.linalg.matrix_norm(ellipsoid, 2).sqrt())
    stages = [_lipsdp.Stage(weights[0], 1.0), *(_lipsdp.Stage(w, 1.0, 0.0, 1.0) for w in weights[1:])]
    found, _, _ = _lipsdp._start(stages, by_rows=False, s=1.0)
    assert float(found) ** 0.5 == pytest.approx(expected, rel=1e-10)
    assert certify.branch_bound(weights, ["identity", "elu", "elu"], n_steps=0).upper <= expected * (1.0 + 1e-7)


@pytest.mark.parametrize("margin", [-1e-3, -0.1, -0.5])
def test_what_is_too_small_is_not_proved(margin):
    """At the bound itself the inequality is tight, so that anything smaller fails whatever was proposed."""
    weights = [weight.double() for weight in make((4, 12, 12, 4))]
    stages = [_lipsdp.Stage(weights[0], 1.0), *(_lipsdp.Stage(w, 1.0, -0.1, 1.0) for w in weights[1:])]
    square, diagonals, _ = _lipsdp._start(stages, True, 0.5)
    assert _lipsdp._proved(stages, diagonals, float(square) * (1.0 + 1e-8)) ** 2 <= float(square) * (1.0 + 1e-6)
    assert _lipsdp._proved(stages, diagonals, float(square) * (1.0 + margin)) == math.inf
    broken = [0.2 * diagonal for diagonal in diagonals]
    assert _lipsdp._proved(stages, broken, float(square)) == math.inf


def test_slopes_that_are_not_there_give_bounds_that_are_too_small():
    """sin(x) - sin(x + pi) = 2 sin(x): one unit has the slope 1 where the other has -1."""
    branch = Branches(
        [torch.ones(1, 2, 1, dtype=torch.float64), torch.tensor([[[1.0, -1.0]]], dtype=torch.float64)],
        [torch.tensor([[0.0, math.pi]], dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)],
        ["identity", "sin"],
    )
    assert float(branch.search()) == pytest.approx(2.0)
    assert branch.bounds(20)[0] >= 2.0 * (1.0 - 1e-12)
    stages = [_lipsdp.Stage(w[0], 2.0**0.5, alpha, 1.0) for w, alpha in zip(branch.weights, (1.0, 0.0), strict=True)]
    assert 1.0 <= _lipsdp.bound(stages, 20) < 1.5


def test_parts_between_linear_stages_and_pairs():
    weights = make((4, 16, 16, 4))
    whole = certify.branch_bound(weights, ["identity", "elu", "elu"]).upper
    divided = certify.branch_bound(weights, ["identity", "elu", "maxmin"]).upper
    product = certify.branch_bound(weights, ["identity", "maxmin", "maxmin"])
    assert whole < divided < product.upper
    assert product.method == "product"
    assert product.upper == pytest.approx(0.729)
    expected = certify.branch_bound(weights[:2], ["identity", "elu"]).upper * certify.norm_bounds(weights[2]).upper
    assert divided == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("scales", [(1e-30, 1e30), (1e-18, 1e-18), (1e18, 1e18)])
def test_linear_in_every_weight(scales):
    weights = make((3, 10, 3))
    plain = certify.branch_bound(weights, ["identity", "elu"]).upper
    moved = certify.branch_bound([s * w for s, w in zip(scales, weights, strict=True)], ["identity", "elu"]).upper
    assert moved == pytest.approx(plain * scales[0] * scales[1], rel=1e-4)


@pytest.mark.parametrize("kind", ["dead", "rank one", "graded", "one unit", "zero", "nan"])
def test_odd_weights(kind):
    first, second = make((5, 9, 5))
    if kind == "dead":
        first[2:] = 0.0
    elif kind == "rank one":
        first = first[:, :1] @ first[:1]
    elif kind == "graded":
        first = first * torch.logspace(0, -30, 9).unsqueeze(1)
    elif kind == "one unit":
        second[:, 1:] = 0.0
    elif kind == "zero":
        second = torch.zeros_like(second)
    else:
        first[0, 0] = math.nan
    found = certify.branch_bound([first, second], ["elu", "elu"])
    product = certify.norm_bounds(first).upper * certify.norm_bounds(second).upper
    if kind == "nan":
        assert found.upper == math.inf
    else:
        assert (found.upper > 0.0) == (kind != "zero")
        assert found.upper <= product * (1.0 + 1e-12)


def test_wide_branches_have_the_product():
    weights = make((3, 2100, 3))
    assert certify.branch_bound(weights, ["identity", "elu"]).method == "product"


def test_slack_can_be_spent():
    weights, names = make((4, 32, 4)), ["identity", "elu"]
    factor = certify.branch_scale(weights, names, 0.81)
    assert factor > 1.2
    scaled = [weights[0], weights[1].double() * factor]
    assert certify.branch_bound(scaled, names, n_steps=0).upper == pytest.approx(0.81, rel=1e-6)
    assert certify.branch_scale(weights, names, 0.1) == pytest.approx(0.1 * factor / 0.81)  # too much is taken back
    assert certify.branch_scale([math.nan * weights[0], weights[1]], names, 0.1) == 0.0
    assert certify.branch_scale([weights[0], torch.zeros(4, 32)], names, 0.1) == 1.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: certify.branch_bound([], []), "there must be a weight, got 0 names for 0 weights"),
        (lambda: certify.branch_bound([torch.ones(2, 2)], []), "one name per weight and there must be a weight, got 0"),
        (lambda: certify.branch_bound([torch.ones(2, 2)], ["no_such"]), "activation must be one of"),
        (lambda: certify.branch_bound([torch.ones(2, 2, 1)], ["elu"]), r"weights\[0\] must have shape \[out, in\]"),
        (
            lambda: certify.branch_bound([torch.ones(3, 2), torch.ones(2, 2)], ["elu", "elu"]),
            r"weights\[1\] must have shape \[out, 3\], got \(2, 2\)",
        ),
        (lambda: certify.branch_scale([torch.ones(2, 2)], ["elu"], 0.0), "target must be positive and finite, got 0.0"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
