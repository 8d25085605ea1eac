"""Layers, blocks and models in transforms of torch.func: batches, Jacobians, ensembles, gradients of each sample."""

import copy

import pytest
import torch
from torch import nn as torch_nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, linearize, stack_module_state, vmap

from iresnet_fast import models, nn
from iresnet_fast.estimators import Exact, PowerSeries, RussianRoulette
from iresnet_fast.solvers import FixedPoint

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:iresnet_fast. (InvertibleResidualBlock|Block) runs"),
    pytest.mark.filterwarnings("ignore:iresnet_fast. (activation|there are no kernels)"),
]
SOLVER = FixedPoint(tol=1e-11)
MEMBERS = 3


class Own(torch_nn.Module):
    """A branch of the user's: a spectral layer, a plain one, a buffer."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.SpectralLinear(3, 5), torch_nn.Linear(5, 3)
        self.register_buffer("factor", torch.tensor(0.1))

    def forward(self, x):
        return self.factor * self.last(torch.tanh(self.first(x)))


class Inverse(torch_nn.Module):
    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, z):
        return self.block.inverse(z)[0]


def block(branch, estimator=Exact(), lipschitz=None):  # noqa: B008  # frozen
    return nn.InvertibleResidualBlock(branch, estimator, SOLVER, lipschitz)


def flow():
    return models.IResNetFlow(models.FlowConfig((3,), (2,), (6, 6), linear=True, solver=SOLVER))


DENSE = nn.ResidualBranch.dense
MAKE = {
    "exact": lambda: block(DENSE([3, 5, 3], "lipswish")),
    "neumann": lambda: block(DENSE([3, 5, 3]), PowerSeries(6)),
    "series": lambda: block(DENSE([3, 5, 3], "tanh"), PowerSeries(6, gradient="series")),
    "tolerance": lambda: block(DENSE([3, 5, 3], "tanh"), PowerSeries(8, tol=1e-3)),
    "roulette": lambda: block(DENSE([3, 5, 3], "sin"), RussianRoulette(eval_terms=4, per_sample=True)),
    "slack": lambda: block(DENSE([3, 5, 3], "tanh", normalize="branch")),
    "maxmin": lambda: block(DENSE([4, 6, 4], "maxmin")),
    "conv": lambda: block(nn.ResidualBranch.conv([2, 3, 2], [3, 1], (2, 3), "softplus"), PowerSeries(5)),
    "dense branch": lambda: block(nn.DenseBranch.dense(3, 4, 2)),
    "induced norm": lambda: block(nn.InducedNormBranch.dense([3, 5, 3]), lipschitz=0.9),
    "own module": lambda: block(Own(), lipschitz=0.5),
    "actnorm": lambda: nn.ActNorm(3),
    "linear": lambda: nn.InvertibleLinear(3),
    "sequence": lambda: nn.Sequential(nn.ActNorm(3), block(DENSE([3, 4, 3])), nn.InvertibleLinear(3)),
    "flow": flow,
}
EVENTS = {"conv": (2, 2, 3), "maxmin": (4,)}
kinds = pytest.mark.parametrize("kind", MAKE)


def make(kind, training=False):
    """Return a transform in use, on weights above their bound, and a batch."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(20, *EVENTS.get(kind, (3,)), generator=generator, dtype=torch.float64)
    torch.manual_seed(3)
    module = MAKE[kind]().double().train()
    module.initialize(x) if kind == "flow" else module(x)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    module.eval()(x)
    return module.train(training), x[:2]


def value(module, x, state=None):
    """One number for each sample of z and log-determinant, with the probes of a seed."""
    torch.manual_seed(5)
    z, logdet = module(x) if state is None else functional_call(module, state, (x,))
    return z.flatten(1).sin().sum(1) + logdet


def inverse(module, z):
    torch.manual_seed(5)
    return module.inverse(z)[0]


def gradients(module, loss):
    found = torch.autograd.grad(loss, list(module.parameters()), allow_unused=True, materialize_grads=True)
    return dict(zip(dict(module.named_parameters()), found, strict=True))


@kinds
@pytest.mark.parametrize("training", [False, True])
def test_batches_and_jacobians(kind, training):
    module, x = make(kind, training)
    xs = torch.stack([x, x.flip(0) + 0.1, 2.0 * x])
    batched = vmap(lambda x: value(module, x), randomness="same")(xs)
    torch.testing.assert_close(batched, torch.stack([value(module, x) for x in xs]), rtol=1e-10, atol=1e-10)
    expected = torch.autograd.functional.jacobian(lambda x: value(module, x), x)
    for transform in (jacrev, jacfwd):
        options = {"randomness": "same"} if transform is jacfwd else {}
        found = transform(lambda x: value(module, x), **options)(x)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@kinds
def test_jacobians_of_single_samples_and_hessians(kind):
    module, x = make(kind)

    def single(row):
        return value(module, row[None])[0]

    expected = torch.stack([torch.autograd.functional.jacobian(single, row) for row in x])
    for transform in (jacrev, jacfwd):
        torch.testing.assert_close(vmap(transform(single))(x), expected, rtol=1e-9, atol=1e-9)
    expected = torch.stack([torch.autograd.functional.hessian(single, row) for row in x])
    torch.testing.assert_close(vmap(hessian(single))(x), expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(vmap(jacrev(jacfwd(single)))(x), expected, rtol=1e-8, atol=1e-8)


# torch 2.13 cannot linearize the derivative of torch.maximum.
@pytest.mark.parametrize("kind", [kind for kind in MAKE if kind != "maxmin"])
def test_linearized(kind):
    module, x = make(kind)
    tangent = torch.randn(x.shape, generator=torch.Generator().manual_seed(4), dtype=x.dtype)
    found, tangent_of = linearize(lambda x: value(module, x), x)
    torch.testing.assert_close(found, value(module, x))
    expected = torch.autograd.functional.jvp(lambda x: value(module, x), x, tangent)[1]
    torch.testing.assert_close(tangent_of(tangent), expected, rtol=1e-9, atol=1e-9)


@kinds
def test_inverses(kind):
    module, x = make(kind)
    z = module(x)[0].detach()
    zs = torch.stack([z, 0.9 * z])
    batched = vmap(lambda z: inverse(module, z))(zs)
    torch.testing.assert_close(batched, torch.stack([inverse(module, z) for z in zs]), rtol=1e-8, atol=1e-8)
    expected = torch.autograd.functional.jacobian(lambda z: inverse(module, z), z)
    functional = torch.autograd.functional.jacobian
    for found in (
        jacrev(lambda z: inverse(module, z))(z),
        jacfwd(lambda z: inverse(module, z))(z),
        functional(lambda z: inverse(module, z), z, vectorize=True),
        functional(lambda z: inverse(module, z), z, vectorize=True, strategy="forward-mode"),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)

    # The derivative of the Jacobian of the inverse at z along t is that of the inverse function theorem.
    def inverse_of_jacobian(z):
        at = inverse(module, z[None])[0]
        jacobian = jacrev(lambda a: module(a[None])[0][0].flatten())(at)
        return torch.linalg.inv(jacobian.flatten(1))

    def jacobian_of_inverse(z):
        return jacrev(lambda z: inverse(module, z[None])[0].flatten())(z).flatten(1)

    found, expected = (jvp(function, (z[0],), (x[0],)) for function in (jacobian_of_inverse, inverse_of_jacobian))
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


@kinds
@pytest.mark.parametrize("training", [False, True])
def test_gradients_of_each_sample(kind, training):
    module, x = make(kind, training)
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    found = vmap(grad(lambda p, row: value(module, row[None], p).sum()), (None, 0), randomness="same")(parameters, x)
    for i, row in enumerate(x):
        expected = gradients(module, value(module, row[None]).sum())
        for name in parameters:
            torch.testing.assert_close(found[name][i], expected[name], rtol=1e-8, atol=1e-8)


@kinds
def test_tangents_of_parameters_count_those_of_the_norms(kind):
    module, x = make(kind)
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    tangents = {name: torch.cos(3.0 * p + 1.0) for name, p in parameters.items()}
    _, found = jvp(lambda p: value(module, x, p).sum(), (parameters,), (tangents,))
    by_name = gradients(module, value(module, x).sum())
    expected = sum((by_name[name] * tangents[name]).sum() for name in parameters)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@kinds
@pytest.mark.parametrize("training", [False, True])
def test_an_ensemble_is_its_members(kind, training):
    """Each member is normalised by its own norms, whatever the model that stands for them holds."""
    module, x = make(kind, training)
    members = [copy.deepcopy(module) for _ in range(MEMBERS)]
    for i, member in enumerate(members):
        with torch.no_grad():
            for parameter in member.parameters():
                parameter.mul_(1.0 + 0.7 * i)
        member.eval()(x)
        member.train(training)
    parameters, buffers = stack_module_state(members)
    expected = torch.stack([value(member, x) for member in members])
    xs = torch.stack([x + 0.1 * i for i in range(MEMBERS)])

    for base in (module, copy.deepcopy(module).to("meta")):

        def output(p, b, x, base=base):
            return value(base, x, (p, b))

        together = vmap(output, (0, 0, None), randomness="same")
        torch.testing.assert_close(together(parameters, buffers, x), expected, rtol=1e-9, atol=1e-9)
        found = vmap(output, randomness="same")(parameters, buffers, xs)
        loop = torch.stack([value(member, x) for member, x in zip(members, xs, strict=True)])
        torch.testing.assert_close(found, loop, rtol=1e-9, atol=1e-9)
    leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
    loss = vmap(output, (0, 0, None), randomness="same")(leaves, buffers, x).sum()
    found = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()), allow_unused=True), strict=True))
    by_func = vmap(grad(lambda p, b: output(p, b, x).sum()), randomness="same")(parameters, buffers)
    for i, member in enumerate(members):
        single = gradients(member, value(member, x).sum())
        for name in parameters:
            torch.testing.assert_close(by_func[name][i], single[name], rtol=1e-8, atol=1e-8)
            if found[name] is not None:
                torch.testing.assert_close(found[name][i], single[name], rtol=1e-8, atol=1e-8)


def test_inverses_of_an_ensemble():
    module, x = make("exact")
    members = [copy.deepcopy(module) for _ in range(MEMBERS)]
    for i, member in enumerate(members):
        with torch.no_grad():
            member.branch.layers[0].weight.mul_(1.0 + i)
    parameters, _ = stack_module_state([member.branch for member in members])

    def inverse_of(p):
        return functional_call(Inverse(module), {f"block.branch.{name}": value for name, value in p.items()}, (x,))

    expected = torch.stack([member.inverse(x)[0] for member in members])
    torch.testing.assert_close(vmap(inverse_of)(parameters), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.SpectralConv2d(2, 4, 3, stride=2, padding=1, groups=2, image_size=6),
        lambda: nn.SpectralConv2d(2, 4, 1),
        lambda: nn.SpectralConv2d(2, 3, 2, dilation=2, image_size=6),
        lambda: nn.SpectralLinear(6, 3, sigma_gradient=False),
        lambda: nn.SpectralLinear(6, 160, strict=True),
    ],
)
def test_stacked_layers_have_norms_of_their_own(layer):
    x = torch.randn(2, 2, 6, 6, dtype=torch.float64)
    layers = [layer().double().eval() for _ in range(MEMBERS)]
    for i, member in enumerate(layers):
        with torch.no_grad():
            member.weight.mul_(3.0 * (i + 1))
    parameters, _ = stack_module_state(layers)
    before = {name: buffer.clone() for name, buffer in layers[0].named_buffers()}
    found = vmap(lambda p: functional_call(layers[0], p, (x,)))(parameters)
    assert all(torch.equal(buffer, before[name]) for name, buffer in layers[0].named_buffers())
    expected = torch.stack([member(x) for member in layers])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_tangents_of_an_inverse_that_would_be_refined():
    """Rounding to float32 leaves more than this tol, so that the solver goes on in float64, outside transforms."""
    torch.manual_seed(0)
    module = nn.InvertibleResidualBlock(DENSE([3, 5, 3]), Exact(), FixedPoint(tol=1e-7)).eval()
    z, tangent = 30.0 * torch.randn(8, 3), torch.randn(8, 3)
    _, expected = jvp(lambda z: inverse(module, z), (z,), (tangent,))
    with forward_ad.dual_level():
        found = forward_ad.unpack_dual(inverse(module, forward_ad.make_dual(z, tangent))).tangent
    assert expected.abs().min() > 0.0
    torch.testing.assert_close(found, expected)


def test_contexts():
    torch.manual_seed(0)
    conditional = block(nn.ConditionalBranch.dense([3, 6, 6, 3], 2)).double().eval()
    x, c = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    z, logdet = conditional(x, c)
    z = z.detach()
    found = vmap(lambda x, c: conditional(x[None], c[None])[1][0])(x, c)
    torch.testing.assert_close(found, logdet, rtol=1e-12, atol=1e-12)
    found = vmap(lambda z, c: conditional.inverse(z[None], c[None])[0][0])(z, c)
    torch.testing.assert_close(found, x, rtol=1e-9, atol=1e-9)
    cs = torch.stack([c, c + 1.0])
    found = vmap(lambda c: conditional.inverse(z, c)[0])(cs)
    torch.testing.assert_close(found, torch.stack([conditional.inverse(z, c)[0] for c in cs]), rtol=1e-9, atol=1e-9)
    expected = torch.autograd.functional.jacobian(lambda c: conditional.inverse(z, c)[0], c)
    for transform in (jacrev, jacfwd):
        found = transform(lambda c: conditional.inverse(z, c)[0])(c)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("estimator", [RussianRoulette(), RussianRoulette(distribution="poisson", per_sample=True)])
def test_members_draw_depths_of_their_own(estimator):
    module = block(DENSE([3, 5, 3]), estimator).double().train()
    x = torch.randn(2, 3, dtype=torch.float64)
    module(x)
    torch.manual_seed(0)
    different = vmap(lambda x: module(x)[1], randomness="different")(x.expand(64, 2, 3))
    assert len(different[:, 0].unique()) > 8  # one probe of three signs has 8 values at a depth
    same = vmap(lambda x: module(x)[1], randomness="same")(x.expand(4, 2, 3))
    assert len(same[:, 0].unique()) == 1


def test_scores_and_log_densities_of_a_flow_of_images():
    config = models.FlowConfig(
        (1, 4, 4), (1, 1), (4,), (3, 3), squeeze_first=True, factor_out=True, noise_channels=1, linear=True,
        n_levels=256, preprocess="logit", solver=SOLVER, eval_estimator=PowerSeries(5),
    )  # fmt: skip
    torch.manual_seed(0)
    images = torch.randint(0, 256, (8, 1, 4, 4)).double()
    model = models.IResNetFlow(config).double().train()
    model.initialize(images)
    model.eval()
    found = vmap(lambda image: model.log_prob(image[None])[0])(images)
    torch.testing.assert_close(found, model.log_prob(images), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_where_no_gradient_is_recorded(mode):
    module, x = make("exact")
    expected = torch.autograd.functional.jacobian(lambda x: value(module, x), x)
    with mode():
        torch.testing.assert_close(jacrev(lambda x: value(module, x))(x), expected)
        torch.testing.assert_close(vmap(lambda x: value(module, x))(x[None]), value(module, x)[None])
        torch.testing.assert_close(vmap(lambda z: inverse(module, z))(x[None]), inverse(module, x)[None])


@pytest.mark.parametrize("kind", ["exact", "slack", "own module"])
def test_nothing_of_a_transform_stays_on_a_module(kind):
    module, x = make(kind)
    vmap(jacrev(lambda row: value(module, row[None])[0]))(x)
    for part in module.modules():
        held = [entry for entry in vars(part).values() if isinstance(entry, torch.Tensor)]
        held += [*part.buffers(), *(tensor for pair in vars(part).get("_scaled") or () for tensor in pair)]
        assert not any(torch._C._functorch.is_functorch_wrapped_tensor(tensor) for tensor in held)
