"""Norms follow the weights, whoever writes them and however."""

import threading

import pytest
import torch
from nn_models import make_conv, make_linear, matrix_of

from iresnet_fast import models, nn
from iresnet_fast.nn import _freshness, _norms
from iresnet_fast.nn._group import SpectralGroup
from iresnet_fast.nn.spectral import effective_weights

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS = [pytest.param(make_linear, id="linear"), pytest.param(make_conv, id="conv")]


def by_data(layer):
    layer.weight.data.mul_(7.0)


def by_another_tensor(layer):
    layer.weight.data = 7.0 * layer.weight.data


def by_a_numpy_view(layer):
    view = layer.weight.detach().numpy()
    view *= 7.0


def in_one_entry(layer):
    layer.weight.detach().numpy().flat[-1] = 9.0


def by_an_average(layer):
    layer.weight.data.copy_(torch.randn_like(layer.weight))


def by_two_entries_exchanged(layer):
    """The numbers are the same, the norm is not."""
    with torch.no_grad():
        layer.weight.fill_(1.0)
        layer.weight.view(-1)[0] = 30.0
    effective_weights([layer])
    values = layer.weight.data.view(-1)
    values[0], values[1] = values[1].clone(), values[0].clone()
    layer.weight.data[0].mul_(2.0)


def by_a_vector(layer):
    torch.nn.utils.vector_to_parameters(5.0 * torch.randn(layer.weight.numel()), [layer.weight])


def by_exchange(layer):
    other = torch.nn.Parameter(5.0 * torch.randn_like(layer.weight))
    torch.utils.swap_tensors(layer.weight, other)


def by_another_shape(layer):
    """As when neurons are taken away for good: half of the outputs."""
    layer.weight = torch.nn.Parameter(7.0 * layer.weight.detach()[::2])
    layer.bias = None


WRITERS = [
    by_data,
    by_another_tensor,
    by_a_numpy_view,
    in_one_entry,
    by_an_average,
    by_two_entries_exchanged,
    by_a_vector,
    by_exchange,
    by_another_shape,
]


@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("write", WRITERS)
def test_a_write_is_seen(make, training, write):
    layer = make(coeff=0.9).train(training)
    effective_weights([layer])
    write(layer)
    with torch.no_grad():
        (weight,) = effective_weights([layer])
    norm = float(torch.linalg.matrix_norm(matrix_of(layer, layer.weight.detach().double()), 2))
    assert norm > 0.95  # else there is nothing to see
    attained = float(torch.linalg.matrix_norm(matrix_of(layer, weight.double()), 2))
    assert attained == pytest.approx(0.9, rel=1e-3)
    assert attained <= 0.9 * (1 + 1e-4)


class DataSGD(torch.optim.Optimizer):
    """Writes `p.data`, which autograd's counters of versions do not see."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                p.data.add_(torch.sign(p.grad), alpha=-group["lr"])


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_training_with_an_optimizer_that_writes_data(compiled):
    torch.manual_seed(0)
    flow = models.IResNetFlow(models.FlowConfig(event_shape=(2,), blocks=(2,), hidden=(16, 16)))
    x = torch.randn(64, 2)
    flow.initialize(x)
    call = torch.compile(flow, backend="aot_eager") if compiled else flow
    optimizer = DataSGD(flow.parameters(), 0.02)
    layers = [module for module in flow.modules() if isinstance(module, nn.SpectralLinear)]
    for step in range(40):
        optimizer.zero_grad()
        z, logdet = call(x + 0.1 * torch.randn_like(x))
        (0.5 * z.square().sum(1) - logdet).mean().backward()
        if step % 8 == 7:
            for layer in layers:
                norm = float(torch.linalg.matrix_norm(layer.weight.detach(), 2))
                assert norm / max(1.0, float(layer.sigma) / layer.coeff) <= layer.coeff * (1 + 1e-3)
        optimizer.step()
    assert any(torch.linalg.matrix_norm(layer.weight.detach(), 2) > 1.5 for layer in layers)


@pytest.mark.slow
def test_a_compiled_evaluation_sees_a_swap():
    branch = nn.ResidualBranch.dense([4, 16, 4]).eval()
    x = torch.randn(5, 4)
    with torch.no_grad():
        compiled = torch.compile(branch, fullgraph=True, backend="aot_eager")
        compiled(x)
        for layer in branch.layers:
            layer.weight.data.mul_(5.0)
        torch.testing.assert_close(compiled(x), branch(x))
        norms = [float(torch.linalg.matrix_norm(w, 2)) for w in branch.stages()[0]]
    assert max(norms) <= 0.9 * (1 + 1e-4)


@pytest.mark.slow
def test_a_compiled_branch_with_the_weights_of_a_functional_call():
    branch = nn.ResidualBranch.dense([4, 16, 4]).eval()
    x = torch.randn(5, 4)
    weights = {name: 4.0 * p.detach() for name, p in branch.named_parameters()}

    def call(tensors, x):
        return torch.func.functional_call(branch, tensors, (x,))

    with torch.no_grad():
        branch(x)
        expected = call(weights, x)
        torch.testing.assert_close(torch.compile(call, backend="aot_eager")(weights, x), expected)


def test_weights_on_a_gpu_are_expected_to_change_after_backward_passes_and_steps():
    layer = make_linear()
    before = _freshness._Writes.last
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    layer(torch.randn(2, 7)).sum().backward()
    optimizer.step()
    assert _freshness._Writes.last == before + 1  # on the CPU the bits tell, backward passes need not
    y = torch.randn(2, requires_grad=True).exp()
    y.grad_fn.register_prehook(_freshness.expect_writes)
    y.sum().backward()
    assert _freshness._Writes.last == before + 2


def test_no_event_is_lost_to_another_thread_in_the_midst_of_it(monkeypatch):
    """Every assignment shows a number that nobody can have seen before."""
    assigned = []

    class Interrupted(type(_freshness._Writes)):
        def __setattr__(cls, name, value):
            if not assigned:
                assigned.append(cls.last)
                _freshness.expect_writes()  # of another thread, before this one gets to its assignment
            super().__setattr__(name, value)
            assigned.append(value)

    writes = Interrupted("Writes", (), dict(vars(_freshness._Writes)))
    monkeypatch.setattr(_freshness, "_Writes", writes)
    _freshness.expect_writes()
    _freshness.expect_writes()
    assert len(assigned) == len(set(assigned)) == 4


def test_groups_that_meet_become_one(calls):
    first, second, third = make_linear(), make_linear(), make_linear()
    effective_weights([first])
    effective_weights([second, third])
    group = SpectralGroup.of([first, second])
    assert set(group.members()) == {first, second, third}
    assert all(layer.group is group for layer in (first, second, third))
    calls.clear()
    effective_weights([first, second, third])
    assert calls == []  # what was known goes over


def test_eight_threads_evaluate_what_one_does():
    torch.manual_seed(0)
    flow = models.IResNetFlow(models.FlowConfig(event_shape=(4,), blocks=(3,), hidden=(16, 16)))
    x = torch.randn(32, 4)
    flow.initialize(x)
    flow.eval()
    with torch.no_grad():
        expected = flow(x)[0]
        for layer in (module for module in flow.modules() if isinstance(module, nn.SpectralLinear)):
            layer.weight.data.mul_(1.0)
            layer.sigma = layer.sigma.clone()  # nobody knows the norms any more
    found = [None] * 8

    def evaluate(i):
        with torch.no_grad():
            found[i] = flow(x)[0]

    threads = [threading.Thread(target=evaluate, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(z, expected) for z in found)


@pytest.mark.parametrize("training", [True, False])
def test_buffers_that_somebody_writes_are_not_trusted(training):
    """As averages of models do that copy all buffers."""
    layer, other = make_linear(), make_linear()
    for one in (layer, other):
        effective_weights([one.train(training)])
    with torch.no_grad():
        other.weight.mul_(20.0)
        effective_weights([other])
        for mine, theirs in zip(other.buffers(), layer.buffers(), strict=True):
            mine.copy_(theirs)
        (weight,) = effective_weights([other])
    assert float(torch.linalg.matrix_norm(weight, 2)) <= 0.9 * (1 + 1e-3)


@pytest.mark.parametrize("training", [True, False])
def test_a_write_during_a_refresh_is_seen_by_the_next_call(training, monkeypatch):
    layer = make_linear().train(training)
    effective_weights([layer])
    name = "follow" if training else "settle"
    original, written = getattr(_norms, name), []

    def interrupted(*arguments):
        norms = original(*arguments)
        if not written:
            written.append(layer.weight.data.mul_(30.0))
        return norms

    monkeypatch.setattr(_norms, name, interrupted)
    layer.weight.data.mul_(2.0)
    with torch.no_grad():
        effective_weights([layer])
        (weight,) = effective_weights([layer])
    assert written
    assert float(torch.linalg.matrix_norm(weight, 2)) <= 0.9 * (1 + 1e-3)


def test_a_layer_that_becomes_strict_is_bounded_from_above():
    layer = nn.SpectralLinear(200, 150).eval()
    effective_weights([layer])
    before = float(layer.sigma)
    layer.strict = True
    with torch.no_grad():
        effective_weights([layer])
    assert float(layer.sigma) != before
    assert float(layer.sigma) >= float(torch.linalg.matrix_norm(layer.weight.detach().double(), 2))


def test_a_parametrised_weight_is_refreshed_when_it_changes_only(calls):
    layer = torch.nn.utils.parametrizations.weight_norm(make_linear()).eval()
    with torch.no_grad():
        for _ in range(3):
            layer(torch.randn(2, 7))
    assert len(calls) == 1
