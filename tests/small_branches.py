"""Small contractive float64 branches for the tests of the reference, and gradients under a non-uniform upstream."""

import torch

from iresnet_fast import activations as registry

LIPSCHITZ = 0.8


def make_branch(kind, activation, batch=3, requires_grad=True, lipschitz=LIPSCHITZ):
    """Return x, weights, biases, activations, parameters of a contractive float64 branch with one bias missing."""
    if kind == "dense":
        shapes, event = ((6, 4), (6, 6), (4, 6)), (4,)
    else:
        shapes, event = ((4, 2, 3, 3), (4, 4, 1, 1), (2, 4, 3, 3)), (2, 3, 4)
    weights = [torch.randn(s, dtype=torch.float64) for s in shapes]
    # |conv| <= k |W as a matrix|, so every layer has norm at most lipschitz^(1/3).
    weights = [
        w * lipschitz ** (1 / 3) / torch.linalg.matrix_norm(w.flatten(1), 2) / (1 if w.dim() == 2 else w.shape[-1])
        for w in weights
    ]
    biases = [torch.randn(s[0], dtype=torch.float64) for s in shapes]
    parameters = None
    if registry.get(activation).has_parameter:
        parameters = [None, torch.tensor(0.7, dtype=torch.float64), torch.tensor([-0.2], dtype=torch.float64)]
    x = torch.randn(batch, *event, dtype=torch.float64)
    for tensor in (x, *weights, *biases, *(parameters or ())):
        if tensor is not None:
            tensor.requires_grad_(requires_grad)
    biases[1] = None
    return x, weights, biases, ["identity", activation, activation], parameters


def leaves(x, weights, biases, parameters):
    return [t for t in (x, *weights, *biases, *(parameters or ())) if t is not None]


def gradients(z, logdet, tensors, seed=1):
    """Gradients under a random, per-sample different upstream."""
    generator = torch.Generator().manual_seed(seed)
    gz = torch.randn(z.shape, dtype=z.dtype, generator=generator)
    gl = torch.randn(logdet.shape, dtype=z.dtype, generator=generator)
    return torch.autograd.grad((z * gz).sum() + (logdet * gl).sum(), tensors, allow_unused=True, materialize_grads=True)
