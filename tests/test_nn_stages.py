"""Branches as stages: what a block computes of them is what their own formula says, on the kernels."""

import copy
import pickle
import warnings

import pytest
import torch
from branch_kinds import log_determinants, train
from comparison import RecordedOps
from nn_transforms import exact_block, grown
from torch.nn.utils import parametrizations

from iresnet_fast import _library, nn, reference
from iresnet_fast.estimators import Exact, PowerSeries
from iresnet_fast.solvers import FixedPoint

pytestmark = pytest.mark.usefixtures("one_thread")
DTYPE = torch.float64
MODES = ("add", "concat", "multiply")
SIZE = (3, 4)


def conditional(mode, **options):
    return grown(nn.ConditionalBranch.dense([4, 6, 6, 4], 3, 8, mode=mode, **options))


def conditional_conv(mode, kernel=3, **options):
    return grown(nn.ConditionalBranch.conv([2, 4, 4, 2], [3, kernel, 1], 3, 8, SIZE, mode=mode, **options))


def conditional_image(mode):
    sizes = [(2, 4, 3), (8 if mode == "concat" else 4, 4, 3), (4, 2, 1)]
    layers = [nn.SpectralConv2d(a, b, k, padding=k // 2) for a, b, k in sizes]
    network = torch.nn.Conv2d(3, 4, 3, padding=1)
    return grown(nn.ConditionalBranch(layers, ["identity", "tanh", "elu"], network, mode))


def orthogonal():
    layers = [parametrizations.orthogonal(torch.nn.Linear(*size)) for size in ((4, 8), (8, 4))]
    return nn.ParametrizedBranch(layers, ["identity", "lipswish"])


def bounded_kernels():
    layers = [torch.nn.Conv2d(2, 4, 3, padding=1), torch.nn.Conv2d(4, 2, 1)]
    return nn.ParametrizedBranch(layers, ["identity", "elu"], norm=[3.0, 2.0])


def residual(**options):
    return grown(nn.ResidualBranch.dense([4, 8, 4], **options))


# name: (make the branch, shape of an event, make the context of a batch)
KINDS = {
    **{
        f"{mode} dense": (lambda mode=mode: conditional(mode), (4,), "vector") for mode in ("add", "concat", "multiply")
    },
    **{f"{mode} conv": (lambda m=mode: conditional_conv(m), (2, *SIZE), "vector") for mode in ("add", "multiply")},
    "concat conv": (lambda: conditional_conv("concat"), (2, *SIZE), "vector"),
    "concat 1 x 1": (lambda: conditional_conv("concat", 1, activation="maxmin"), (2, *SIZE), "vector"),
    "concat beta": (lambda: conditional("concat", activation="lipswish"), (4,), "vector"),
    **{f"{mode} image": (lambda mode=mode: conditional_image(mode), (2, *SIZE), "image") for mode in MODES},
    "induced": (lambda: grown(nn.InducedNormBranch.dense([4, 8, 4], 2.0, "lipswish")), (4,), None),
    "induced pairs": (lambda: grown(nn.InducedNormBranch.dense([4, 7, 4], 2.0, "maxmin")), (4,), None),
    "induced doubled": (lambda: grown(nn.InducedNormBranch.dense([4, 6, 4], 2.0, "clipswish")), (4,), None),
    "induced conv": (lambda: grown(nn.InducedNormBranch.conv([2, 6, 2], [3, 3], 2.0)), (2, *SIZE), None),
    "parametrized": (orthogonal, (4,), None),
    "parametrized conv": (bounded_kernels, (2, *SIZE), None),
    "masked": (lambda: nn.MaskedBranch(residual(), sign=-1), (4,), "mask"),
    "masked, no mask": (lambda: nn.MaskedBranch(residual(), sign=-1), (4,), None),
    "masked twice": (lambda: nn.MaskedBranch(residual()), (4,), "masks"),
    "masked, activated": (lambda: nn.MaskedBranch(residual(preactivation=True), -1), (4,), "masks"),
    "masked, doubled": (lambda: nn.MaskedBranch(residual(preactivation=True, activation="clipswish")), (4,), "masks"),
    "masked conv": (lambda: nn.MaskedBranch(nn.ResidualBranch.conv([2, 4, 2], [3, 1], SIZE), -1), (2, *SIZE), "masks"),
    "per node": (lambda: nn.MaskedBranch.per_node(4, 3), (4,), "mask"),
}


def make_context(kind, event, batch):
    if kind == "vector":
        return torch.randn(batch, 3, dtype=DTYPE)
    if kind == "image":
        return torch.randn(batch, 3, *event[1:], dtype=DTYPE)
    if kind == "mask":
        return torch.rand(batch, *event, dtype=DTYPE).round()
    masks = 2.0 * torch.rand(2, batch, *event, dtype=DTYPE) - 1.0
    return nn.Masks(*masks) if kind == "masks" else None


def make(name, batch=3):
    """The branch in float64, x and the arguments of a call after x."""
    build, event, context = KINDS[name]
    branch = build().double()
    x = torch.randn(batch, *event, dtype=DTYPE)
    return branch, x, () if context is None else (make_context(context, event, batch),)


def tensors_of(context):
    return [t for c in context for t in ([c] if isinstance(c, torch.Tensor) else c)]


def by_autograd(branch, x, context):
    """z and log|det(I + J)| of each sample, differentiable, by Jacobians of the branch's own formula."""
    n, d = len(x), x[0].numel()
    z, logdets = x + branch(x, *context), []
    for i in range(n):
        own = [_row(c, i) for c in context]
        jacobian = torch.autograd.functional.jacobian(
            lambda a, own=own: (a + branch(a[None], *own)[0]).flatten(), x[i], create_graph=True
        )
        logdets.append(torch.linalg.slogdet(jacobian.view(d, d))[1])
    return z, torch.stack(logdets)


def _row(context, i):
    return context[i : i + 1] if isinstance(context, torch.Tensor) else nn.Masks(*(c[i : i + 1] for c in context))


@pytest.mark.parametrize("name", KINDS)
def test_block_computes_the_formula_of_the_branch(name):
    branch, x, context = make(name)
    block = exact_block(branch).eval()
    assert branch.why_no_kernels() is None
    torch.testing.assert_close(reference.branch(x, *branch.as_stages(x, *context)), branch(x, *context))
    leaves = [x, *tensors_of(context), *block.parameters()]
    for leaf in leaves:
        leaf.requires_grad_()
    found, expected = block(x, *context), by_autograd(branch, x, context)
    torch.testing.assert_close(found, expected)
    torch.manual_seed(1)
    upstream = [torch.randn_like(t) for t in found]
    gradients = [
        torch.autograd.grad(outputs, leaves, upstream, allow_unused=True, materialize_grads=True)
        for outputs in (found, expected)
    ]
    torch.testing.assert_close(*gradients)
    used = [bool(gradient.any()) for gradient in gradients[0]]
    assert all(used)


@pytest.mark.parametrize("name", KINDS)
def test_inverse_is_certified(name):
    branch, x, context = make(name)
    block = exact_block(branch).eval()
    with torch.no_grad():
        z, logdet = block(x, *context)
        found = block.certified_inverse(z, *context)
        assert bool(found.converged.all())
        assert bool(((found.x - x).flatten(1).norm(dim=1) <= found.error).all())
        torch.testing.assert_close(block.inverse(z, *context)[1], -logdet, atol=1e-8, rtol=0.0)


@pytest.mark.parametrize("name", KINDS)
def test_the_kernels_are_used(name):
    branch, x, context = make(name)
    block = nn.InvertibleResidualBlock(branch, PowerSeries(5), FixedPoint(1e-8))
    with RecordedOps() as recorded, warnings.catch_warnings():
        warnings.simplefilter("error")
        z, logdet = block(x, *context)
        (z.square().sum() + logdet.sum()).backward()
        block.eval().inverse(z.detach(), *context)
    assert {"residual_logdet", "branch_backward", "residual_inverse"} <= set(recorded.names)
    assert "path=kernels" in repr(block)


@pytest.mark.parametrize("name", KINDS)
def test_batches_of_none_and_one(name):
    for batch in (0, 1):
        branch, x, context = make(name, batch)
        block = nn.InvertibleResidualBlock(branch, Exact())
        z, logdet = block(x, *context)
        assert (z.shape, logdet.shape) == (x.shape, (batch,))
        assert block.inverse(z, *context)[0].shape == x.shape


@pytest.mark.parametrize("name", KINDS)
def test_copies_and_states(name):
    branch, x, context = make(name)
    block = nn.InvertibleResidualBlock(branch, PowerSeries(4))
    train(block, (x, *context))
    block.eval()
    expected = [t.detach() for t in block(x, *context)]
    other = nn.InvertibleResidualBlock(make(name)[0], PowerSeries(4)).eval()
    other.load_state_dict(block.state_dict())
    twins = [copy.deepcopy(block), other]
    if name not in ("parametrized", "per node"):  # torch pickles no parametrised modules
        twins.append(pickle.loads(pickle.dumps(block)))
    for twin in twins:
        torch.testing.assert_close([t.detach() for t in twin(x, *context)], expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_it_compiles_in_one_graph(name):
    torch.compiler.reset()
    branch, x, context = make(name)
    block = nn.InvertibleResidualBlock(branch, PowerSeries(4, exact_terms=1)).eval()
    expected = block(x, *context)
    found = torch.compile(block, backend="aot_eager", fullgraph=True)(x, *context)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["add dense", "concat conv", "multiply image", "masked twice", "per node", "induced"])
def test_reference_and_kernels_agree_in_float32(name):
    branch, x, context = make(name, 70)
    block, x = exact_block(branch.float()).eval(), x.float()
    context = [c.float() if isinstance(c, torch.Tensor) else nn.Masks(*(t.float() for t in c)) for c in context]
    found = block(x, *context)
    with _library.use_backend("reference"):
        expected = block(x, *context)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_network_is_called_once_in_each_call():
    branch, x, context = make("multiply dense")
    block, calls = exact_block(branch), []
    branch.network.register_forward_hook(lambda *_: calls.append(1))
    z, _ = block(x, *context)
    assert len(calls) == 1
    block.eval().solve(z.detach(), *context)
    assert len(calls) == 2


def test_a_network_that_draws_draws_once_for_z_and_its_log_determinant():
    branch, x, context = make("multiply dense")
    branch.network = torch.nn.Sequential(branch.network, torch.nn.Dropout(0.5))
    block = exact_block(branch)
    torch.manual_seed(2)
    z, logdet = block(x, *context)
    torch.manual_seed(2)
    stages = branch.as_stages(x, *context)
    torch.testing.assert_close(z, x + reference.branch(x, *stages))
    torch.testing.assert_close(
        logdet.detach(), log_determinants(lambda a, *t: _with_factor(stages, a, *t), x, stages.factors[1])
    )


def _with_factor(stages, a, factor):
    return reference.branch(a, *stages._replace(factors=[None, factor, None]))


def test_factors_of_a_context_begin_near_one():
    branch, x, context = make("multiply dense")
    stages = branch.as_stages(x, *(0.0 * c for c in context))
    assert 0.5 < float(stages.factors[1].min()) <= float(stages.factors[1].max()) <= 1.0


@pytest.mark.parametrize(("name", "width"), [("maxmin", 5), ("fullsort", 6)])
def test_channels_that_mix_with_those_of_the_context_take_the_autograd_path(name, width):
    branch = grown(nn.ConditionalBranch.dense([4, width, 5, 4], 3, 8, name, mode="concat")).double()
    assert f"{name} mixes channels" in branch.why_no_kernels()
    x, context = torch.randn(3, 4, dtype=DTYPE), torch.randn(3, 3, dtype=DTYPE)
    block = exact_block(branch)
    with pytest.warns(UserWarning, match="autograd fallback since .* mixes channels"):
        found = block(x, context)
    torch.testing.assert_close(found, by_autograd(branch, x, (context,)))


def test_a_convolution_of_another_kind_takes_the_autograd_path():
    layers = [nn.InducedNormConv2d(2, 2, 3, padding=2, dilation=2, domain=2.0, codomain=2.0, dtype=DTYPE)]
    branch = nn.InducedNormBranch(layers, ["elu"])
    assert "layers[0] has no odd square kernel" in branch.why_no_kernels()
    x, block = torch.randn(2, 2, 5, 5, dtype=DTYPE), exact_block(branch)
    with pytest.warns(UserWarning, match="autograd fallback"):
        torch.testing.assert_close(block(x), by_autograd(branch, x, ()))


def test_the_base_has_no_stages():
    with pytest.raises(NotImplementedError, match="a DenseBranch has no stages"):
        nn.DenseBranch.dense(4, 3).as_stages(torch.randn(2, 4))
