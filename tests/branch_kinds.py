"""Small branches of every class, with weights large enough to be normalised, and what they compute, layer by layer."""

import torch

from iresnet_fast import activations as registry
from iresnet_fast import nn

SHAPES = {"conv": (4, 5, 3)}
BRANCHES = {
    "residual": lambda: nn.ResidualBranch.dense([4, 16, 4], "lipswish"),
    "normalised as a whole": lambda: nn.ResidualBranch.dense([4, 16, 4], normalize="branch"),
    "conv": lambda: nn.ResidualBranch.conv([4, 6, 4], [3, 1], (5, 3)),
    "dense": lambda: nn.DenseBranch.dense(4, 3),
    "conditional": lambda: nn.ConditionalBranch.dense([4, 16, 4], 3),
    "multiplied": lambda: nn.ConditionalBranch.dense([4, 16, 4], 3, mode="multiply"),
    "masked": lambda: nn.MaskedBranch(nn.ResidualBranch.dense([4, 16, 4]), sign=-1),
    "induced": lambda: nn.InducedNormBranch.dense([4, 16, 4], 2.0),
}


def make_branch(kind, gain=3.0):
    """The branch, and the arguments of a call on five samples."""
    branch = BRANCHES[kind]()
    with torch.no_grad():
        for layer in branch.layers:
            layer.weight.mul_(gain)
    x = torch.randn(5, *SHAPES.get(kind, (4,)))
    if kind == "masked":
        return branch, (x, torch.rand(5, 4))
    return branch, (x, torch.randn(5, 3)) if kind in ("conditional", "multiplied") else (x,)


def by_modules(branch, x, context=None):
    """g(x) by calls of the layers, as the documentation of the branch says."""
    if not isinstance(branch, nn.ResidualBranch):
        return branch(x) if context is None else branch(x, context)
    for i, (layer, name) in enumerate(zip(branch.layers, branch.activations, strict=True)):
        x = layer(registry.get(name).value(x, getattr(branch, f"beta_{i}", None)))
    return x


def log_determinants(g, x, *context):
    """log|det(I + J)| of the samples, from Jacobians by autograd."""
    found = []
    for i in range(len(x)):
        others = [c[i : i + 1] for c in context]
        jacobian = torch.autograd.functional.jacobian(
            lambda row, others=others: row + g(row.view(1, *x.shape[1:]), *others).flatten(), x[i].flatten()
        )
        found.append(torch.linalg.slogdet(jacobian)[1])
    return torch.stack(found)


def train(block, arguments, n_steps=3, rate=0.05):
    """Steps of a gradient descent, and z before each."""
    optimizer = torch.optim.SGD(block.parameters(), rate)
    outputs = []
    for _ in range(n_steps):
        z, logdet = block(*arguments)
        outputs.append(z.detach())
        optimizer.zero_grad()
        (z.square().mean() - logdet.mean()).backward()
        optimizer.step()
    return outputs
