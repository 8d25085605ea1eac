"""Exact traces from the Jacobian as a band, and which way to them costs least."""

import importlib

import pytest
import torch
from comparison import RecordedOps, assert_within_rounding
from problems import CASES, Case, Problem, gradients, make, named
from torch.utils.flop_counter import FlopCounterMode

from iresnet_fast import ops, reference
from iresnet_fast._lowering import lowered
from iresnet_fast._trace_costs import cheapest, rings_of
from iresnet_fast._traces import chain_products, coloured_probes, places_of
from iresnet_fast.ops import _local_jacobian
from iresnet_fast.ops._local_jacobian import local_traces

jacobian_traces = importlib.import_module("iresnet_fast.ops.jacobian_traces")  # the op has its name

AFTER_NOTHING, AFTER_TANH = ("identity", "elu", "lipswish"), ("tanh", "elu", "sin")
MORE = [
    Case("3-1-3", (2, 5, 7), (3, 4), (3, 1, 3), AFTER_NOTHING, sample_bias=(0,)),
    Case("3-1-3 after tanh", (2, 5, 7), (3, 4), (3, 1, 3), AFTER_TANH, sample_factor=(0, 2), pixel_factor=(1,)),
    Case("5-1-5", (1, 9, 8), (4, 3), (5, 1, 5), AFTER_TANH, batch=1),
    Case("5-1-3", (2, 6, 5), (3, 4), (5, 1, 3), AFTER_NOTHING),
    Case("3-1-5 on one line", (2, 1, 4), (3, 4), (3, 1, 5), AFTER_NOTHING, pixel_bias=(1,)),
    Case("smaller than the reach", (2, 2, 1), (3, 4), (5, 1, 3), AFTER_TANH),
    Case("one pixel of 3-1-3", (3, 1, 1), (4, 4), (3, 1, 3), AFTER_NOTHING),
    Case("3-1-1-3", (2, 4, 5), (3, 5, 4), (3, 1, 1, 3), AFTER_NOTHING),
    Case("1-3-1", (2, 4, 5), (3, 5), (1, 3, 1), AFTER_TANH),
    Case("48 channels", (48, 3, 2), (20, 24), (3, 1, 3), AFTER_TANH, batch=2),
    Case("no images", (2, 3, 4), (3, 3), (3, 1, 3), AFTER_NOTHING, batch=0),
    Case("no derivative at all", (2, 3, 4), (3,), (3, 3), ("identity",)),
    Case("a bottleneck", (9,), (4, 2, 5), (), AFTER_TANH),
    Case("a wide middle", (3,), (7, 8, 9), (), AFTER_NOTHING, sample_factor=(1, 3)),
]
# Which channels MaxMin leads to a number, and the kernel in front of which it stands, are lowered to other stages.
MIXING = [
    Case("maxmin 3-1-3", (4, 4, 5), (5, 6), (3, 1, 3), ("maxmin", "elu", "maxmin")),
    Case("maxmin in a mask", (3, 4, 4), (4,), (3, 3), ("identity", "maxmin"), sample_factor=(1,)),
    Case("dense maxmin", (5,), (4, 3), (), ("maxmin",)),
]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)  # for so few numbers


def stages_of(problem):
    return lowered(*problem.branch, problem.parameters, problem.factors)


def all_rings(stages):
    return rings_of(stages.weights, stages.activations, stages.factors)


def way_of(problem, n_terms, differentiable=False):
    stages = stages_of(problem)
    lists = stages.weights, stages.activations, stages.factors
    return cheapest(*lists, problem.x.shape[2:], n_terms, differentiable)


def call(package, problem, n_terms=2):
    return package.jacobian_traces(problem.x, *problem.branch, n_terms, problem.parameters, problem.factors)


def oracle(problem):
    """tr J and tr J^2 of Jacobians by autograd, [B, 2]."""
    n, d = problem.x.shape[0], problem.x.shape[1:].numel()
    if n == 0:
        return problem.x.new_empty(0, 2)
    x = problem.x.clone().requires_grad_()
    value = reference.branch(x, *problem.branch, problem.parameters, problem.factors).reshape(n, d)
    rows = [
        torch.autograd.grad(value[:, i].sum(), x, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
        for i in range(d)
    ]
    jacobian = torch.stack([row.reshape(n, d) for row in rows], 1)
    square = torch.einsum("bij,bji->b", jacobian, jacobian)
    return torch.stack((jacobian.diagonal(dim1=1, dim2=2).sum(1), square), 1)


def of_clipswish():
    """A branch with CLipSwish, which doubles channels, in front of either convolution."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(5, 4, 3, 3), (3, 5, 1, 1), (2, 6, 3, 3)]
    weights = [0.3 * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    x = torch.randn(3, 2, 4, 5, generator=generator, dtype=torch.float64)
    return Problem(x, weights, [None] * 3, ["clipswish", "elu", "clipswish"], [None] * 3, None, None, [None] * 3)


@pytest.mark.parametrize("n_terms", [1, 2])
@pytest.mark.parametrize("case", **named(CASES + MORE + MIXING))
def test_every_ring_has_the_traces_of_the_autograd_jacobian(case, n_terms):
    problem = make(case)
    stages, want = stages_of(problem), oracle(problem)[:, :n_terms]
    for ring in all_rings(stages):
        torch.testing.assert_close(local_traces(problem.x, stages, ring, n_terms), want, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("case", **named(MORE + MIXING))
def test_there_is_a_ring_if_only_neighbours_in_it_have_kernels(case):
    assert all_rings(stages_of(make(case)))


def test_clipswish():
    problem = of_clipswish()
    stages = stages_of(problem)
    (ring, *_) = all_rings(stages)
    assert [link.side for link in ring.links] == [3, 1, 3]  # the doubling of channels joins the last convolution
    torch.testing.assert_close(local_traces(problem.x, stages, ring, 2), oracle(problem), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kernels", [(3, 3, 3), (3, 1, 3, 1)])
def test_kernels_that_are_apart_leave_no_ring(kernels):
    problem = make(Case("apart", (2, 3, 4), (3, 3, 3)[: len(kernels) - 1], kernels, AFTER_TANH))
    assert not all_rings(stages_of(problem))
    assert way_of(problem, 2).ring is None
    torch.testing.assert_close(call(ops, problem), oracle(problem))


@pytest.mark.parametrize("n_terms", [1, 2])
@pytest.mark.parametrize("case", **named(MORE))
def test_slices_of_samples_and_lines_change_nothing(case, n_terms, monkeypatch):
    problem = make(case._replace(batch=5))
    stages = stages_of(problem)
    for ring in all_rings(stages):
        whole = local_traces(problem.x, stages, ring, n_terms)
        n_lines = set()
        through = _local_jacobian._Slice._through

        def watched(part, columns, lines, through=through, n_lines=n_lines):
            n_lines.add((part.n, len(lines)))
            return through(part, columns, lines)

        for workspace in (1, 1 << 14):
            with monkeypatch.context() as patched:
                patched.setattr(_local_jacobian, "_WORKSPACE", workspace)
                patched.setattr(_local_jacobian._Slice, "_through", watched)
                torch.testing.assert_close(local_traces(problem.x, stages, ring, n_terms), whole)
        assert n_lines == set() or (1, 1) in n_lines


@pytest.mark.parametrize("case", **named(MORE))
def test_rounds_as_the_twin(case):
    problems = [make(case, dtype) for dtype in (torch.float32, torch.float64)]
    same, exact = (call(reference, problem) for problem in problems)
    stages = stages_of(problems[0])
    for ring in all_rings(stages):
        assert_within_rounding(case, [local_traces(problems[0].x, stages, ring, 2)], [same], [exact])


@pytest.mark.parametrize("n_terms", [1, 2])
@pytest.mark.parametrize("case", **named(MORE))
def test_the_products_of_a_ring_are_those_that_are_made(case, n_terms):
    """But for those with diagonals, of which no counter knows, and those of weights alone."""
    stages = stages_of(make(case))
    n_pixels = torch.Size(case.event[1:]).numel()
    for ring in all_rings(stages):
        counts = []
        for batch in (1, 3):
            some = make(case._replace(batch=batch))
            with FlopCounterMode(display=False) as counter:
                local_traces(some.x, stages_of(some), ring, n_terms)
            counts.append(sum(n for op, n in counter.get_flop_counts()["Global"].items() if "mm" in str(op)))
        made = (counts[1] - counts[0]) // 4  # two samples, and a sum for every product
        made -= chain_products(stages.weights[:-1], n_pixels)  # of the evaluation
        first, last = ring.links[0], ring.links[-1]
        diagonal = 0
        if n_terms == 2:
            pairs = (first.side + last.side - 1) ** 2 * first.n_in**2
            diagonal = first.side**2 * first.n_in * first.n_out + pairs
        elif not ring.by_regions:
            diagonal = min(first.side, last.side) ** 2 * first.n_in * first.n_out
        assert made == ring.products(n_terms, n_pixels) - diagonal * n_pixels


def test_the_cost_of_3_1_3():
    """h^2 a pixel for tr J after no activation; J as a band for the rest, by probes only if a gradient is wanted."""
    problem = make(Case("costs", (2, 8, 8), (32, 32), (3, 1, 3), AFTER_NOTHING))
    weights, activations = problem.weights, problem.activations
    chain = chain_products(weights, 64)

    def of(n_terms, differentiable, names=activations):
        return cheapest(weights, names, problem.factors, (8, 8), n_terms, differentiable).products

    assert of(1, False) == 64 * 32 * 32 < chain
    assert of(1, True) == 2 * 9 * chain  # of two channels, pixels three apart
    assert of(2, True) == 2 * 9 * chain + 2 * 25 * 2 * chain
    assert of(1, False, AFTER_TANH) == 64 * 18 * (32 + 32 * 32 + 32) < of(1, True)
    assert of(2, False) == 64 * (18 * (32 + 32 * 32) + 18 * 18 * 32 + 25 * 4) < of(2, True) // 2


@pytest.mark.parametrize(
    ("names", "places", "want"),
    [
        (("identity", "elu"), ((1, -1), (1, 1)), 7 + 49),
        (("tanh", "elu"), ((1, 0),), 3 * (7 + 21 + 3)),  # J itself is less than what the probes of tr J^2 take
        (("fullsort", "elu"), (), 3 * 42 + 3 * 2 * 42),
    ],
)
def test_the_cost_of_two_dense_layers(names, places, want):
    weights = [torch.ones(7, 3), torch.ones(3, 7)]
    if names[0] != "fullsort":
        assert places_of(weights, names, [None, None]) == places
    assert cheapest(weights, names, [None] * len(weights), (), 2, False).products == want


@pytest.mark.parametrize("case", **named(MORE + MIXING))
def test_the_op_takes_probes_for_gradients_or_where_they_cost_less(case):
    problem = make(case)
    with RecordedOps() as recorded:
        got = call(ops, problem)
    taken = {"residual_logdet"} if way_of(problem, 2).ring is None else set()
    assert set(recorded.names) == taken
    torch.testing.assert_close(got, oracle(problem))
    problem = problem.requires_grad()
    with RecordedOps() as recorded:
        got = call(ops, problem)
    assert "residual_logdet" in recorded.names
    assert got.requires_grad
    with torch.no_grad(), RecordedOps() as recorded:
        assert not call(ops, problem).requires_grad
    assert set(recorded.names) == taken


def test_inference_mode_and_autocast():
    problem = make(MORE[1], torch.float32)
    plain = call(ops, problem)
    with torch.inference_mode():
        assert torch.equal(call(ops, problem), plain)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(call(ops, problem), plain)


APART = Case("apart", (2, 5, 4), (3, 3), (3, 3, 3), AFTER_TANH, batch=4, sample_bias=(0,), pixel_factor=(1,))


def traces_and_gradients(create_graph=False):
    problem = make(APART).requires_grad()
    with RecordedOps() as recorded:
        traces = call(ops, problem)
    got = gradients([traces], problem.leaves, create_graph=create_graph)
    if create_graph:
        got = gradients([g for g in got if g is not None and g.requires_grad], problem.leaves, seed=5)
    return recorded.names.count("residual_logdet"), [traces, *got]


@pytest.mark.parametrize("create_graph", [False, True])
def test_slices_of_probes_change_nothing(create_graph, monkeypatch):
    n_calls, whole = traces_and_gradients(create_graph)
    problem = make(APART)
    n_probes = [len(coloured_probes(problem.x, [(3, 3)] * 3, k)) for k in (1, 2)]
    monkeypatch.setattr(jacobian_traces, "_WORKSPACE", 7 * problem.x.numel() * problem.x.element_size())
    n_sliced, sliced = traces_and_gradients(create_graph)
    assert (n_calls, n_sliced) == (2, sum(-(-n // 7) for n in n_probes))
    torch.testing.assert_close(sliced, whole)
    with torch.no_grad():
        torch.testing.assert_close(call(ops, problem), whole[0])


def test_slices_of_probes_keep_nothing_for_the_backward_pass(monkeypatch):
    """Of a slice its inputs alone: they are few bytes beside the probes of all slices, for every sample."""
    problem = make(APART).requires_grad()
    monkeypatch.setattr(jacobian_traces, "_WORKSPACE", 7 * problem.x.numel() * problem.x.element_size())
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        traces = call(ops, problem)
    assert traces.requires_grad
    assert sum(saved) < 40 * problem.x.numel()  # two slices would keep more
