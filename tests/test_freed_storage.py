"""Tensors whose memory was given back, as of parameters that sharding has not gathered: an error, never a crash."""

import mutations
import pytest
import torch
from problems import TINY, make

from iresnet_fast import nn, ops
from iresnet_fast._steps import Residual


def freed(tensor):
    tensor = tensor.detach().clone()
    tensor.untyped_storage().resize_(0)
    return tensor


def freed_block(call):
    block = nn.InvertibleResidualBlock(nn.ResidualBranch.dense([2, 4, 2]))
    block(torch.randn(3, 2))
    for parameter in block.parameters():
        parameter.untyped_storage().resize_(0)
    return call(block)


def solve(block):
    with torch.no_grad():
        return block.eval().inverse(torch.randn(3, 2))


PROBLEM = make(TINY[0], torch.float32)
WEIGHTS = [freed(weight) for weight in PROBLEM.weights]
VECTORS = [torch.randn(weight.shape[0]) for weight in PROBLEM.weights]
CALLS = {
    "x": lambda: ops.branch(freed(PROBLEM.x), *PROBLEM.branch, PROBLEM.parameters, factors=PROBLEM.factors),
    "weights": lambda: ops.branch(PROBLEM.x, WEIGHTS, *PROBLEM.branch[1:], PROBLEM.parameters, factors=PROBLEM.factors),
    "probe": lambda: ops.residual_logdet(
        PROBLEM.x,
        *PROBLEM.branch,
        freed(PROBLEM.probe),
        PROBLEM.coefficients,
        parameters=PROBLEM.parameters,
        factors=PROBLEM.factors,
    ),
    "exact": lambda: ops.residual_logdet_exact(
        PROBLEM.x, WEIGHTS, *PROBLEM.branch[1:], PROBLEM.parameters, factors=PROBLEM.factors
    ),
    "flow": lambda: ops.residual_flow(
        PROBLEM.x,
        (Residual(tuple(PROBLEM.activations), "none"),),
        [*WEIGHTS, *PROBLEM.biases, *PROBLEM.parameters, *PROBLEM.factors],
    ),
    "fingerprint": lambda: ops.fingerprint(WEIGHTS),
    "norm": lambda: ops.spectral_norm(WEIGHTS, VECTORS, [torch.randn(w.shape[1]) for w in WEIGHTS], [None, None]),
    "block": lambda: freed_block(lambda block: block(torch.randn(3, 2))),
    "inverse": lambda: freed_block(solve),
}


@pytest.mark.parametrize("call", CALLS)
def test_an_error_and_no_crash(call):
    def check():
        with pytest.raises(RuntimeError, match=r"a tensor must have memory for its \d+ numbers, got one whose storage"):
            CALLS[call]()

    assert mutations.outcome(check, ()) == "loaded"
