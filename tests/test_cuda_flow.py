"""A flow in one call on a GPU against the plain-torch reference on the same GPU: `pytest -m cuda`."""

import pytest
import torch
from comparison import RecordedOps, assert_within_rounding
from flows import FLOWS, SMALL, Block, Flow, FlowCase, make_flow, one_by_one
from problems import DTYPES, gradients, make, named
from trace_cases import CASES as TRACES
from trace_cases import places

from iresnet_fast import ops, reference
from iresnet_fast._steps import Residual
from iresnet_fast._traces import maps_of

pytestmark = pytest.mark.cuda

LARGE = FlowCase(
    "wide images",
    (4, 16, 16),
    ("normalize", Block((64, 64), (3, 1, 3), ("identity", "elu", "lipswish")), "squeeze", Block((64,), (3, 3))),
    batch=5,
)


def has_exact(case):
    return any(isinstance(part, Block) and part.logdet == "exact" for part in case.parts)


CASES = [case for case in [*FLOWS, LARGE] if not has_exact(case)]


def evaluate(function, case, dtype, device):
    flow = make_flow(case, dtype, device).requires_grad()
    outputs = function(flow)
    return [*outputs, *gradients([output for output in outputs if output.requires_grad], flow.leaves)]


@pytest.mark.parametrize("case", **named(CASES))
@pytest.mark.parametrize("dtype", DTYPES)
def test_matches_reference(dtype, case, device):
    ours, same, oracle = (
        evaluate(lambda flow, package=package: package.residual_flow(*flow), case, type_, device)
        for package, type_ in ((ops, dtype), (reference, dtype), (reference, torch.float64))
    )
    assert_within_rounding(case, ours, same, oracle)


@pytest.mark.parametrize("case", **named([FlowCase("blocks", (5,), (Block(), "permute", Block(probes=2)), 7), LARGE]))
def test_blocks_give_the_bits_of_the_parts(case, device):
    case = case._replace(parts=tuple(part for part in case.parts if part != "normalize"))
    whole, parts = (
        evaluate(function, case, torch.float32, device)
        for function in (lambda flow: ops.residual_flow(*flow), lambda flow: one_by_one(ops, flow))
    )
    for a, b in zip(whole, parts, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("case", **named([case for case in SMALL if not has_exact(case)]))
def test_one_call_forward_and_one_backward(case, device):
    with RecordedOps() as recorded:
        evaluate(lambda flow: ops.residual_flow(*flow), case, torch.float32, device)
    assert recorded.names == ["residual_flow", "residual_flow_backward"]


# Blocks one after the other, and how many of their first terms are exact.
EXACT = {
    "dense": ((5,), {"one stage": 2, "straight with a mask": 1, "activation first": 1, "three stages": 1}),
    "images": ((3, 4, 5), {"two convolutions with masks": 1, "activation before images": 1, "one stage of images": 1}),
}


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("dtype", DTYPES)
def test_exact_first_terms_match_reference(dtype, kind, device):
    event, blocks = EXACT[kind]
    cases = {case.name: case._replace(event=event, batch=9) for case in TRACES}

    def flow_of(type_):
        steps, tensors, draws = [], [], []
        for name, terms in blocks.items():
            p, traces = make(cases[name], type_, device), places(cases[name])[:terms]
            steps.append(Residual(tuple(p.activations), "series", traces))
            maps = [t.detach().clone() for t in maps_of(traces, p.weights, p.x.shape[2:])]
            tensors += [*p.weights, *p.biases, *p.parameters, *p.factors, *maps]
            draws.append((p.probe, p.coefficients))
        return Flow(make(cases[next(iter(blocks))], type_, device).x, tuple(steps), tensors, draws).requires_grad()

    results = []
    for package, type_ in ((ops, dtype), (reference, dtype), (reference, torch.float64)):
        flow = flow_of(type_)
        outputs = package.residual_flow(*flow)
        results.append([*outputs, *gradients(outputs, flow.leaves)])
    assert_within_rounding(cases["one stage"], *results)


def test_an_exact_log_determinant_has_no_kernel(device):
    flow = make_flow(FlowCase("exact", (3,), (Block(logdet="exact"),)), torch.float32, device)
    same = reference.residual_flow(*flow)
    if flow.x.is_cuda:
        torch.testing.assert_close(ops.residual_flow(*flow), same)
        return
    with pytest.raises(RuntimeError, match='must be "none" or "series", got "exact"; call residual_logdet_exact'):
        ops.residual_flow(*flow)
