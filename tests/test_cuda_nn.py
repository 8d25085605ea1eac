"""Layers and blocks on a GPU against the same on the CPU. `pytest -m cuda`."""

import copy

import pytest
import torch
from nn_models import CLOSE, KINDS, grow, input_of, make_block, make_conv, make_input, make_linear

from iresnet_fast import nn
from iresnet_fast.estimators import Exact, PowerSeries, RussianRoulette

pytestmark = pytest.mark.cuda

ESTIMATORS = {
    "series": PowerSeries(6),
    "tolerance": PowerSeries(30, tol=1e-3),
    "roulette": RussianRoulette(per_sample=True),
    "exact": Exact(),
    "none": None,
}


def results(block, x):
    """z, log-det and all gradients in eval mode: there the probe does not depend on the device."""
    x = x.clone().requires_grad_()
    z, logdet = block(x)
    factors = torch.arange(1.0, 1.0 + len(x), device=x.device)
    ((z.sin().flatten(1).sum(1) + logdet) * factors).sum().backward()
    return [z.detach(), logdet.detach(), x.grad, *(p.grad for p in block.parameters())]


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("kind", KINDS)
def test_block_gives_the_numbers_of_the_cpu(kind, estimator, device):
    block = make_block(kind, ESTIMATORS[estimator]).double().eval()
    moved = copy.deepcopy(block).to(device)
    assert "path=kernels" in repr(moved)
    x = make_input(kind, dtype=torch.float64)
    for ours, theirs in zip(results(moved, x.to(device)), results(block, x), strict=True):
        # Two power iterations to 1e-5, and their sums in another order.
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_inverse_of_a_block(kind, dtype, device):
    block = make_block(kind).to(device, dtype).eval()
    x = make_input(kind, dtype=dtype).to(device)
    z, logdet = block(x)
    again, logdet_of_inverse = block.inverse(z)
    assert (again - x).flatten(1).norm(dim=1).max() < 2e-5
    torch.testing.assert_close(logdet_of_inverse, -logdet, rtol=1e-3, atol=1e-3)
    again.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_training_reduces_the_loss(kind, device):
    block = make_block(kind).to(device)
    optimizer = torch.optim.Adam(block.parameters(), 1e-2)
    x, losses = make_input(kind, 32).to(device), []
    for _ in range(20):
        z, logdet = block(x)
        loss = (0.5 * z.square().flatten(1).sum(1) - logdet).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("make", [make_linear, make_conv])
def test_spectral_norm_of_a_layer(make, device):
    layer = make(coeff=0.8).to(device)
    grow(layer)
    nn.update_spectral_norm(layer, n_iterations=200, tol=1e-6)
    other = copy.deepcopy(layer).cpu()
    nn.update_spectral_norm(other, n_iterations=200, tol=1e-6)
    torch.testing.assert_close(layer.sigma.cpu(), other.sigma, rtol=CLOSE, atol=0.0)
    x = input_of(other)
    torch.testing.assert_close(layer(x.to(device)).cpu(), other(x), rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_work_under_autocast(kind, device):
    """What a torch layer hands over in bfloat16 is widened, and its gradient comes back."""
    block = make_block(kind).to(device)
    before = torch.nn.Linear(6, 6) if kind == "dense" else torch.nn.Conv2d(4, 4, 3, padding=1)
    before.to(device)
    with torch.autocast(torch.device(device).type, torch.bfloat16):
        narrow = before(make_input(kind).to(device))
        z, logdet = block(narrow)
        loss = z.square().sum() - logdet.sum()
    assert (narrow.dtype, z.dtype, logdet.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    loss.backward()
    for parameter in (*before.parameters(), *block.parameters()):
        assert parameter.grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_block_compiles_to_one_graph(kind, device):
    block = make_block(kind).to(device).eval()
    nn.update_spectral_norm(block)
    x = make_input(kind).to(device)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), block(x))
