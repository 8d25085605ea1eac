from functools import cache

import pytest
import torch
from comparison import (
    RecordedOps,
    assert_compiles,
    assert_deterministic,
    assert_second_derivatives_agree,
    assert_within_rounding,
)
from flows import FLOWS, SMALL, WIDE_FLOWS, Block, FlowCase, make_flow, one_by_one
from problems import DTYPES, ISAS, gradients, named, run_on, upstream

from iresnet_fast import _library, ops, reference
from iresnet_fast._steps import Normalize, Rearrange, Residual


def evaluate(function, case, dtype):
    """z, logdet and the gradients of all leaves under an upstream gradient of both."""
    flow = make_flow(case, dtype).requires_grad()
    outputs = function(*flow)
    return [*outputs, *gradients_of(outputs, flow)]


def gradients_of(outputs, flow):
    """The gradients of all leaves; a flow without log-determinants has only those of z."""
    return gradients([output for output in outputs if output.requires_grad], flow.leaves)


@cache
def expected(case, dtype):
    """What the reference gives: the same for every instruction set."""
    return evaluate(reference.residual_flow, case, dtype)


@pytest.mark.parametrize("case", **named(FLOWS))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_matches_reference(isa, dtype, case):
    run_on(isa)
    got = evaluate(ops.residual_flow, case, dtype)
    assert_within_rounding(case, got, expected(case, dtype), expected(case, torch.float64))


@pytest.mark.parametrize("case", **named(FLOWS))
@pytest.mark.parametrize("dtype", DTYPES)
def test_without_gradients_the_numbers_are_the_same(dtype, case):
    flow = make_flow(case, dtype)
    plain = ops.residual_flow(*flow)
    trained = ops.residual_flow(*flow.requires_grad())
    assert not any(t.requires_grad for t in plain)
    assert torch.equal(plain[0], trained[0].detach())
    torch.testing.assert_close(plain[1], trained[1].detach())  # the last term of a series takes another way


BLOCKS = [
    FlowCase("blocks", (5,), (Block(probes=2), "permute", Block((7,)), Block(per_sample=True)), batch=70),
    FlowCase("images", (2, 4, 6), (Block(kernels=(3, 1)), "squeeze", Block(kernels=(3, 3)), "flatten", Block((6,)))),
    FlowCase("exact", (5,), (Block(logdet="exact"), "permute", Block((7,), logdet="exact")), batch=70),
    FlowCase("without", (5,), (Block(logdet="none"), "permute", Block((7,), logdet="none"))),
]


@pytest.mark.parametrize("case", **named(BLOCKS))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_the_numbers_are_those_of_the_parts(isa, dtype, case):
    run_on(isa)
    flows = [make_flow(case, dtype).requires_grad() for _ in range(2)]
    whole, parts = ops.residual_flow(*flows[0]), one_by_one(ops, flows[1])
    assert torch.equal(whole[0], parts[0])
    # Their sum is rounded once, those of parts after each one.
    torch.testing.assert_close(whole[1], parts[1])
    both = [gradients_of(outputs, flow) for outputs, flow in zip((whole, parts), flows, strict=True)]
    for a, b in zip(*both, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("used", ["z", "logdet"])
@pytest.mark.parametrize("case", **named([*SMALL, *BLOCKS]))
def test_gradients_of_what_is_used(case, used):
    results = []
    for function in (ops.residual_flow, reference.residual_flow):
        flow = make_flow(case).requires_grad()
        output = dict(zip(("z", "logdet"), function(*flow), strict=True))[used]
        if not output.requires_grad:  # of a flow without log-determinants
            return
        grads = gradients([output], flow.leaves)
        results.append([torch.zeros_like(t) if g is None else g for g, t in zip(grads, flow.leaves, strict=True)])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("case", **named(SMALL))
def test_frozen_tensors_get_no_gradient(case):
    full = make_flow(case).requires_grad()
    all_gradients = gradients(ops.residual_flow(*full), full.leaves)
    for index in range(len(full.leaves)):
        flow = make_flow(case)
        leaf = flow.leaves[index].requires_grad_()
        (got,) = gradients(ops.residual_flow(*flow), [leaf])
        assert torch.equal(got, all_gradients[index])


def without_series(part):
    return part._replace(logdet="none") if isinstance(part, Block) and part.logdet == "series" else part


@pytest.mark.parametrize("case", **named(SMALL))
def test_gradcheck(case):
    # The Neumann gradient is not that of the value: z is what can be checked, and of blocks without it all of it.
    flow = make_flow(case).requires_grad()
    assert torch.autograd.gradcheck(lambda *_: ops.residual_flow(*flow)[0], flow.leaves)
    flow = make_flow(case._replace(parts=tuple(map(without_series, case.parts)))).requires_grad()
    assert torch.autograd.gradcheck(lambda *_: ops.residual_flow(*flow), flow.leaves)


def raw_arguments(flow, save, keep):
    """The arguments of the raw op."""
    with RecordedArguments() as recorded, torch.no_grad():
        ops.residual_flow(*flow)
    x, tensors, draws, program, *_ = recorded.arguments
    return x, tensors, draws, program, save, keep


class RecordedArguments(RecordedOps):
    """Records the arguments of the last raw op that ran inside a with block."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.arguments = args if function.namespace == "iresnet_fast" else self.arguments
        return function(*args, **(kwargs or {}))

    arguments = ()


@pytest.mark.parametrize("case", **named(SMALL))
def test_opcheck(case):
    flow = make_flow(case, torch.float32)
    for save in (False, True):
        arguments = raw_arguments(flow, save, False)
        torch.library.opcheck(torch.ops.iresnet_fast.residual_flow.default, arguments)
    x, tensors, draws, program, *_ = arguments
    z, logdet, saved, kept = torch.ops.iresnet_fast.residual_flow(*arguments)
    for input_gradient in (False, True):
        backward = (x, z, tensors, draws, program, saved, kept, z, logdet, input_gradient)
        torch.library.opcheck(torch.ops.iresnet_fast.residual_flow_backward.default, backward)


@pytest.mark.parametrize("case", **named(SMALL))
def test_compiles(case):
    flow = make_flow(case).requires_grad()
    assert_compiles(lambda: ops.residual_flow(*flow), flow.leaves)


@pytest.mark.slow
def test_compiles_with_inductor():
    flow = make_flow(SMALL[0], torch.float32).requires_grad()
    assert_compiles(lambda: ops.residual_flow(*flow), flow.leaves, "inductor")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", **named(WIDE_FLOWS))
def test_deterministic(case, dtype):
    assert_deterministic(lambda: evaluate(ops.residual_flow, case, dtype))


def test_one_call_forward_and_one_backward(monkeypatch):
    monkeypatch.setattr(reference, "residual_flow", None)
    with RecordedOps() as recorded:
        evaluate(ops.residual_flow, SMALL[0], torch.float32)
    assert recorded.names == ["residual_flow", "residual_flow_backward"]


@pytest.mark.parametrize("case", **named(SMALL))
def test_function_transforms(case):
    flow = make_flow(case)
    seeds = upstream(ops.residual_flow(*flow))
    place = next(i for i, t in enumerate(flow.tensors) if t.is_floating_point())

    def loss(x, tensor):
        tensors = [tensor if i == place else t for i, t in enumerate(flow.tensors)]
        outputs = ops.residual_flow(x, flow.steps, tensors, flow.draws)
        return sum((out * seed).sum() for out, seed in zip(outputs, seeds, strict=True))

    got = torch.func.grad(loss, argnums=(0, 1))(flow.x, flow.tensors[place])
    leaves = [flow.x.requires_grad_(), flow.tensors[place].requires_grad_()]
    torch.testing.assert_close(got, torch.autograd.grad(loss(*leaves), leaves))


def test_vmap_and_forward_mode():
    flow = make_flow(FlowCase("pair", (3,), (Block(probes=2), "normalize", Block(logdet="none"))))
    stacked = torch.stack([flow.x, 2.0 * flow.x])

    def call(x):
        return ops.residual_flow(x, *flow[1:])

    for got, want in zip(torch.func.vmap(call)(stacked), zip(*map(call, stacked), strict=True), strict=True):
        torch.testing.assert_close(got, torch.stack(want))
    tangent = torch.ones_like(flow.x)
    got = torch.func.jvp(call, (flow.x,), (tangent,))
    want = torch.func.jvp(lambda x: reference.residual_flow(x, *flow[1:]), (flow.x,), (tangent,))
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("case", **named(SMALL))
def test_second_derivatives_match_reference(case):
    flow = make_flow(case).requires_grad()
    assert_second_derivatives_agree(
        lambda: ops.residual_flow(*flow), lambda: reference.residual_flow(*flow), flow.leaves
    )


def test_a_missing_parameter_is_the_initial_one():
    flow = make_flow(FlowCase("initial", (3,), (Block(activations=("lipswish",)),)))
    missing = flow._replace(tensors=[*flow.tensors[:-2], None, None])
    for got, want in zip(ops.residual_flow(*missing), reference.residual_flow(*missing), strict=True):
        torch.testing.assert_close(got, want)


def test_without_gradients_memory_does_not_grow_with_the_steps():
    x = torch.randn(64, 512)
    few, many = (FlowCase("many", (512,), ("normalize", "permute", Block((1,), terms=1)) * n, 64) for n in (2, 12))
    event = x.numel() * x.element_size()
    peaks = []
    for case in (few, many):
        flow = make_flow(case, torch.float32)
        with torch.no_grad(), torch.profiler.profile(profile_memory=True) as profile:
            ops.residual_flow(*flow)
        peaks.append(_peak(profile))
    assert peaks[1] < peaks[0] + 0.5 * event
    assert peaks[1] < 3 * event


@pytest.mark.parametrize("case", **named(WIDE_FLOWS))
def test_a_training_step_holds_no_more_than_the_parts(case):
    whole, parts = (
        _held(function, make_flow(case, torch.float32).requires_grad())
        for function in (lambda flow: ops.residual_flow(*flow), lambda flow: one_by_one(ops, flow))
    )
    assert whole <= parts


def _held(function, flow):
    """The bytes of all memory that is held for the backward pass, besides the arguments."""
    given = {
        t.untyped_storage().data_ptr() for t in (*flow.leaves, *flow.tensors, *sum(flow.draws, ())) if t is not None
    }
    found = {}

    def pack(tensor):
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = function(flow)  # alive: no memory is used twice
    assert outputs[0].requires_grad
    return sum(size for address, size in found.items() if address not in given)


def _peak(profile):
    """The most memory, in bytes, that torch's allocator had handed out at a time."""
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


D = torch.ones(2, 3)
GOOD = {
    "x": D,
    "steps": (Normalize(), Residual(("elu", "relu"), "series"), Rearrange((3,))),
    "tensors": [*torch.ones(2, 3), torch.ones(4, 3), torch.ones(3, 4), *[None] * 6, torch.tensor([2, 0, 1])],
    "draws": [(D, [1.0, 1.0])],
}


def changed(place, tensor):
    return {"tensors": [tensor if i == place else t for i, t in enumerate(GOOD["tensors"])]}


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"x": torch.ones(3)}, ValueError, r"x must have shape \[B, \*event\], got \(3,\)"),
        ({"x": D.int()}, TypeError, "x must be a floating point tensor, got torch.int32"),
        ({"x": torch.ones(2, 3, 4)}, ValueError, r"x must have shape \[B, d\] or \[B, C, H, W\], got \(2, 3, 4\)"),
        ({"steps": [Normalize(), "elu"]}, TypeError, r"steps\[1\] must be a Normalize, Rearrange or Residual"),
        ({"steps": (Residual(("elu",), "all"),)}, ValueError, r"logdet of steps\[0\] must be one of"),
        ({"tensors": GOOD["tensors"][:-1]}, ValueError, "tensors must hold the 11 of the steps, got 10"),
        ({"tensors": [*GOOD["tensors"], None]}, ValueError, "tensors must hold the 11 of the steps, got 12"),
        (
            {"draws": [None]},
            TypeError,
            r"^draws must hold pairs of a probe and coefficients, got None.*\(steps\[1\]\)\.$",
        ),
        ({"draws": []}, ValueError, "draws must hold a probe and coefficients for each of 1 steps"),
        (
            {"draws": [(torch.ones(3, 2), [1.0])]},
            ValueError,
            r"^probe must have the shape of x, \(2, 3\).*\(steps\[1\]\)\.$",
        ),
        ({"draws": [(D.double(), [1.0])]}, TypeError, r"^probe must have the dtype of x.*\(steps\[1\]\)\.$"),
        ({"draws": [(D, [])]}, ValueError, r"^coefficients must have shape \[n\] or \[B, n\].*\(steps\[1\]\)\.$"),
        (
            {"draws": [(D, torch.ones(3, 4))]},
            ValueError,
            r"^coefficients must have shape .* got \(3, 4\).*\(steps\[1\]\)\.$",
        ),
        (changed(0, torch.ones(1, 3)), ValueError, r"^bias must have shape \(3,\), .* got \(1, 3\).*\(steps\[0\]\)\.$"),
        (changed(1, torch.ones(4)), ValueError, r"^log_scale must have shape \(3,\).*\(steps\[0\]\)\.$"),
        (changed(1, torch.ones(3).double()), TypeError, r"^log_scale must have the dtype of x.*\(steps\[0\]\)\.$"),
        (changed(1, None), TypeError, r"^log_scale must be a torch.Tensor, got None.*\(steps\[0\]\)\.$"),
        (changed(2, torch.ones(4, 2)), ValueError, r"^x must have shape \[B, 2\] for weights\[0\].*\(steps\[1\]\)\.$"),
        (changed(3, torch.ones(2, 4)), ValueError, r"^weights\[1\] must have 3 outputs.*\(steps\[1\]\)\.$"),
        (changed(4, torch.ones(4, 1)), ValueError, r"^biases\[0\] must have shape \(4,\).*\(steps\[1\]\)\.$"),
        (changed(6, torch.ones(())), ValueError, r"^parameters\[0\] must be None since elu.*\(steps\[1\]\)\.$"),
        (
            changed(10, torch.tensor([0, 0, 1])),
            ValueError,
            r"^index must hold every number below 3 once.*\(steps\[2\]\)\.$",
        ),
        (
            changed(10, torch.tensor([0, 3, 1])),
            ValueError,
            r"^index must hold every number below 3 once.*\(steps\[2\]\)\.$",
        ),
        (changed(10, torch.arange(4)), ValueError, r"^index must be int64 of shape \(3,\).*\(steps\[2\]\)\.$"),
        (changed(10, torch.arange(3).int()), ValueError, r"index must be int64 of shape \(3,\).* got torch.int32"),
        ({"steps": (*GOOD["steps"][:2], Rearrange((3, 1)))}, ValueError, r"event_shape must be \(d,\) or \(C, H, W\)"),
        ({"steps": (*GOOD["steps"][:2], Rearrange((4,)))}, ValueError, r"event_shape must be .* with 3 numbers"),
    ],
)
@pytest.mark.parametrize("backend", ["kernels", "reference"])
def test_errors(backend, changes, error, sentence):
    with _library.use_backend(backend), pytest.raises(error, match=sentence):
        ops.residual_flow(**{**GOOD, **changes})


def test_good_arguments_are_good():
    got, want = (package.residual_flow(**GOOD) for package in (ops, reference))
    torch.testing.assert_close(got, want)


def test_under_autocast_narrow_numbers_become_float32():
    narrow = {
        **GOOD,
        "x": D.bfloat16(),
        "tensors": [t.bfloat16() if t is not None and t.is_floating_point() else t for t in GOOD["tensors"]],
        "draws": [(D.bfloat16(), [1.0, 1.0])],
    }
    with torch.autocast("cpu", torch.bfloat16):
        got = ops.residual_flow(**narrow)
        with pytest.raises(ValueError, match="draws must hold a probe"):
            ops.residual_flow(**{**narrow, "draws": []})
    torch.testing.assert_close(got, ops.residual_flow(**GOOD))


def test_maxmin_is_served_by_the_reference():
    flow = make_flow(FlowCase("pairs", (4,), (Block((6,), activations=("identity", "maxmin")), "normalize")))
    for got, want in zip(ops.residual_flow(*flow), reference.residual_flow(*flow), strict=True):
        assert torch.equal(got, want)
