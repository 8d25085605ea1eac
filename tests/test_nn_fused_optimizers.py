"""Spectral layers see what fused optimizers write: torch itself does not count it."""

import pytest
import torch

from iresnet_fast import nn
from iresnet_fast.nn._group import SpectralGroup

OPTIMIZERS = [(torch.optim.Adam, 0.1), (torch.optim.AdamW, 0.1), (torch.optim.SGD, 0.1), (torch.optim.Adagrad, 1.0)]


@pytest.mark.parametrize(("optimizer_class", "rate"), OPTIMIZERS)
def test_norms_follow_a_fused_optimizer(optimizer_class, rate):
    layer = nn.SpectralLinear(6, 6, coeff=0.9)
    optimizer = optimizer_class(layer.parameters(), lr=rate, fused=True)
    before = torch.linalg.matrix_norm(layer.weight.detach(), 2)
    target = torch.outer(torch.randn(6), torch.randn(6))  # of rank one: its norm has no near second to be mistaken for
    for _ in range(60):  # towards a map of another norm
        x = torch.randn(32, 6)
        loss = (layer(x) - x @ target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert SpectralGroup.of([layer]).is_stale(layer)
    layer(x)
    norm = torch.linalg.matrix_norm(layer.weight, 2)
    assert norm > 1.1 * before  # else there was nothing to follow
    torch.testing.assert_close(layer.sigma, norm.detach(), rtol=1e-3, atol=0.0)
