"""Small chains of every kind of part, called together and part by part."""

import torch

from iresnet_fast import nn
from iresnet_fast.estimators import Exact, PowerSeries, RussianRoulette
from iresnet_fast.nn._call import Call, apply_part
from iresnet_fast.nn._transform import total_logdet

ESTIMATORS = {
    "none": None,
    "exact": Exact(),
    "auto": PowerSeries(6),
    "series": PowerSeries(6, exact_terms=0),
    "probes": PowerSeries(5, n_probes=3, eval_seed=4, exact_terms=1),
    "gaussian": PowerSeries(5, probe="gaussian", exact_terms=0),
    "roulette": RussianRoulette(exact_terms=1),
    "per sample": RussianRoulette(per_sample=True, n_probes=2, exact_terms=1),
}
SHAPES = {"dense": (6,), "images": (2, 6, 4)}


def dense_chain(estimator, normalize="layers"):
    """Six parts of vectors that are one run."""
    block = nn.InvertibleResidualBlock
    return nn.Sequential(
        nn.ActNorm(6),
        block(nn.ResidualBranch.dense([6, 9, 6], "lipswish", normalize=normalize), estimator),
        nn.Permutation([3, 0, 5, 1, 4, 2]),
        nn.ActNorm(6),
        block(nn.ResidualBranch.dense([6, 5, 7, 6], "elu", preactivation=True), estimator),
        block(nn.ResidualBranch.dense([6, 4, 6], "tanh", bias=False), estimator),
    )


def image_chain(estimator):
    """Seven parts of images that are one run, and one before and after it."""
    block, conv = nn.InvertibleResidualBlock, nn.ResidualBranch.conv
    return nn.Sequential(
        nn.Squeeze(),
        nn.ActNorm(8),
        block(conv([8, 3, 8], [3, 1], activation="softplus"), estimator),
        nn.Permutation.reverse(8),
        block(conv([8, 4, 8], [1, 3], activation="lipswish", preactivation=True), estimator),
        nn.Flatten((8, 3, 2)),
        nn.ActNorm(48),
        block(nn.ResidualBranch.dense([48, 8, 48], "sin"), estimator),
        nn.Permutation.reverse(48),
    )


CHAINS = {"dense": dense_chain, "images": image_chain}


def make_chain(kind, estimator, dtype=torch.float32, gain=3.0):
    """A chain whose weights are large enough to be normalised and whose ActNorms are initialised, and its input."""
    torch.manual_seed(0)
    chain = CHAINS[kind](ESTIMATORS[estimator] if isinstance(estimator, str) else estimator).to(dtype)
    with torch.no_grad():
        for module in chain.modules():
            if isinstance(module, (nn.SpectralLinear, nn.SpectralConv2d)):
                module.weight.mul_(gain)
    x = torch.randn(7, *SHAPES[kind], dtype=dtype)
    chain(x)
    return chain, x


def part_by_part(chain, x, context=None, call=None):
    """What the chain returns when its parts are called one after the other."""
    call = Call.given(call, x)
    logdets = []
    for i, part in enumerate(chain):
        x, logdet = apply_part(part, x, context, call.part(i))
        logdets.append(logdet)
    return x, total_logdet(logdets, x)


def outcome(function, chain, x, seed=5):
    """z, the log-determinant, all gradients, and the state of the generator after a call from a seed."""
    x = x.detach().requires_grad_()
    torch.manual_seed(seed)
    z, logdet = function(x)
    state = torch.get_rng_state()
    chain.zero_grad()
    (z.cos().sum() + logdet.square().sum()).backward()
    gradients = [x.grad, *(p.grad for p in chain.parameters())]
    chain.zero_grad()
    return [z.detach(), logdet.detach()], gradients, state


def check_same(chain, x, seed=5, **tolerance):
    """Whether a chain does what its parts do."""
    found, expected = (outcome(function, chain, x, seed) for function in (chain, lambda x: part_by_part(chain, x)))
    torch.testing.assert_close(found[0], expected[0], **tolerance)
    torch.testing.assert_close(found[1], expected[1], **tolerance)
    assert torch.equal(found[2], expected[2])
