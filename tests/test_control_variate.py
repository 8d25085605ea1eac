"""The control variate of tr J: of mean zero, and what is left of the noise beside it."""

import itertools

import pytest
import torch
from comparison import RecordedOps
from problems import Case, make, named

from iresnet_fast import activations as registry
from iresnet_fast import reference
from iresnet_fast.nn._control_variate import trace_control
from iresnet_fast.reference.branch import spread

SMALL = [
    Case("3-1-3", (2, 2, 2), (3, 4), (3, 1, 3), ("elu", "tanh", "sin")),
    Case("given", (2, 1, 3), (3, 3), (3, 1, 3), ("lipswish", "tanh"), sample_bias=(0,), pixel_factor=(0, 2), batch=1),
    Case("a mask of each sample", (2, 2, 2), (3, 3), (3, 1, 3), ("tanh",), sample_factor=(0,), batch=4),
    Case("3-1-3 of one number each", (2, 1, 1), (6, 5), (3, 1, 3), ("elu",)),
    Case("maxmin behind", (2, 2, 2), (4, 4), (3, 1, 3), ("elu", "maxmin", "maxmin")),
    Case("a dense mask", (5,), (6, 7), (), ("elu",), sample_factor=(0,)),
]
NOT = [
    Case("after nothing", (2, 3, 4), (3, 4), (3, 1, 3), ("identity", "elu", "sin")),
    Case("two layers have a closed form", (2, 3, 4), (5,), (3, 3), ("elu",)),
    Case("maxmin leads", (4, 3, 4), (5, 4), (3, 1, 3), ("maxmin", "elu", "elu")),
    Case("kernels apart", (2, 3, 4), (3, 4), (3, 3, 3), ("elu",)),
]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)  # for so few numbers


def control(problem, probe):
    return trace_control(problem.x, *problem.branch, probe, problem.parameters, problem.factors)


def jacobians(problem):
    """J, and J with its first derivatives replaced by their mean over each sample, [B, d, d], by autograd."""
    n, d = problem.x.shape[0], problem.x.shape[1:].numel()
    x = problem.x.clone().requires_grad_()
    h = registry.get(problem.activations[0]).value(x, problem.parameters[0])
    if problem.factors[0] is not None:
        h = h * spread(problem.factors[0], x.dim())
    (slopes,) = torch.autograd.grad(h.sum(), x, retain_graph=True)
    value = reference.branch(
        h,
        problem.weights,
        problem.biases,
        ["identity", *problem.activations[1:]],
        [None, *problem.parameters[1:]],
        [None, *problem.factors[1:]],
    ).reshape(n, d)
    of_x, of_h = (
        torch.stack(
            [torch.autograd.grad(value[:, i].sum(), t, retain_graph=True)[0].reshape(n, d) for i in range(d)], 1
        )
        for t in (x, h)
    )
    return of_x, of_h * slopes.flatten(1).mean(1)[:, None, None]


def signs(problem):
    """All vectors of signs, as probes of all samples."""
    d = problem.x.shape[1:].numel()
    vectors = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=d)), dtype=problem.x.dtype)
    return vectors.view(-1, 1, *problem.x.shape[1:]).expand(-1, *problem.x.shape)


def products(matrices, probes):
    """<v, M v> of each probe and sample, [m, B]."""
    v = probes.flatten(2)
    return torch.einsum("mbi,bij,mbj->mb", v, matrices, v)


@pytest.mark.parametrize("case", **named(SMALL))
def test_each_probe_gets_what_the_autograd_jacobian_says(case):
    problem = make(case._replace(probes=3))
    near = jacobians(problem)[1]
    traces = near.diagonal(dim1=1, dim2=2).sum(1)
    for probe in problem.probe:
        want = traces - products(near, probe[None])[0]
        torch.testing.assert_close(control(problem, probe), want)
    torch.testing.assert_close(control(problem, problem.probe), (traces - products(near, problem.probe)).mean(0))


@pytest.mark.parametrize("case", **named(SMALL))
def test_its_mean_over_all_signs_is_zero_and_not_by_being_zero(case):
    problem = make(case)
    probes = signs(problem)
    some = torch.stack([control(problem, probe) for probe in probes[:4]])
    assert some.abs().max() > 1e-3
    mean = control(problem, probes)
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0.0, atol=1e-13)


@pytest.mark.parametrize("case", **named([SMALL[0], SMALL[3], SMALL[4]]))
def test_it_takes_most_of_the_variance(case):
    """Over all signs. Slopes of an ELU on normal numbers are near their mean: less than half is left."""
    problem = make(case)
    probes = signs(problem)
    estimates = products(jacobians(problem)[0], probes)
    controlled = estimates + torch.stack([control(problem, probe) for probe in probes])
    torch.testing.assert_close(controlled.mean(0), estimates.mean(0))
    assert (controlled.var(0).mean() < 0.5 * estimates.var(0).mean()).item()


@pytest.mark.parametrize("case", **named(NOT))
def test_none_where_it_saves_nothing(case):
    problem = make(case)
    assert control(problem, problem.probe) is None


@pytest.mark.filterwarnings("ignore:iresnet_fast")
def test_none_without_kernels():
    problem = make(SMALL[0])
    assert control(problem._replace(activations=["fullsort", "tanh", "sin"]), problem.probe) is None
    assert torch.func.vmap(lambda x: torch.zeros(()) if control(problem._replace(x=x), x) is None else x.sum())(
        problem.x[None]
    ) == torch.zeros(1)


def test_no_gradient_and_one_step_of_the_chain():
    problem = make(SMALL[0], torch.float32).requires_grad()
    with RecordedOps() as recorded:
        assert not control(problem, problem.probe).requires_grad
    assert recorded.names == ["residual_logdet"]
    empty = make(SMALL[0]._replace(batch=0))
    assert control(empty, empty.probe).shape == (0,)
