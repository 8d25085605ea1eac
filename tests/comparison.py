"""What every op is held to: rounding, determinism, compilation, refusal of a second derivative."""

import math

import torch
from problems import ISAS, gradients
from torch.utils._python_dispatch import TorchDispatchMode

from iresnet_fast import _library

# A number the reference happens to round well leaves the 2x rule no room, and in float64 the reference is its own
# oracle: a sum of K rounded terms is off by about sqrt(K) / 2 eps of its largest one, times 4 for the worst of some
# thousand such sums. That is 32 eps for inner products of 250 terms; in float32 the reference sets the scale of the
# error, and 4 eps remain for what it happens to round well. On a CPU longer sums are sums of runs, in kernels as in the
# reference. Kernels of a GPU may add all terms one after the other, as derived here, so that both grow by
# sqrt(K / 250) there.
_FLOOR_EPS = {torch.float32: 4.0, torch.float64: 32.0}
_FLOOR_TERMS = 250


def assert_within_rounding(case, got, same_dtype, exact):
    """Check err(got) <= 2 err(reference in the same dtype) + floor, errors against the reference in float64.

    The last three are sequences of tensors (or None). The terms of a result are products of standard normal inputs,
    probes and upstream gradients with contractions: of size 1 even where they cancel. The gradient of a parameter sums
    K = batch x pixels of them, and the partial sums of K terms of size 1 and random sign reach sqrt(K).
    """
    summed = max(1, case.batch * math.prod(case.event[1:])) ** 0.5
    for a, same, oracle in zip(got, same_dtype, exact, strict=True):
        if a is None or same is None:  # no dependence: None in one, perhaps zeros in the other
            assert not any(t is not None and t.any() for t in (a, same, oracle))
            continue
        assert (a.dtype, a.shape) == (same.dtype, oracle.shape)
        if a.numel() == 0:
            continue
        error, yardstick = ((t.detach().double() - oracle).abs().max().item() for t in (a, same))
        per_sample = case.batch in a.shape[:2]
        scale = max(1.0 if per_sample else summed, oracle.abs().max().item())
        floor_growth = max(1.0, case.longest_reduction / _FLOOR_TERMS) ** 0.5 if a.is_cuda else 1.0
        limit = 2.0 * yardstick + _FLOOR_EPS[a.dtype] * floor_growth * torch.finfo(a.dtype).eps * scale
        assert error <= limit, f"{tuple(a.shape)}: error {error:.2e}, limit {limit:.2e}, reference {yardstick:.2e}"


def assert_deterministic(function):
    """Check that `function` (-> tensors) gives the same bits twice at 1, 2 and 3 threads, and nearly the same between.

    Across thread counts and instruction sets only the order of sums differs.
    """
    results = []
    for isa in ISAS:
        _library.set_cpu_isa(isa)
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            first, second = function(), function()
            for a, b in zip(first, second, strict=True):
                assert torch.equal(a, b)
            results.append(first)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            # At most a few hundred terms per sum: 100 eps of the largest number.
            tolerance = 100 * torch.finfo(a.dtype).eps if a.is_floating_point() else 0.0
            torch.testing.assert_close(b, a, rtol=0.0, atol=tolerance * max(a.abs().max().item(), 1.0))


def assert_compiles(function, leaves, backend="aot_eager"):
    """Check that `function` (-> differentiable tensors) compiles without a graph break to the same numbers."""
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend=backend)
    results = []
    for f in (function, compiled):
        outputs = f()
        seeds = [torch.linspace(-1.0, 2.0, t.numel(), dtype=t.dtype, device=t.device).view(t.shape) for t in outputs]
        results.append([*outputs, *torch.autograd.grad(outputs, leaves, seeds)])
    torch.testing.assert_close(results[1], results[0])


def assert_second_derivatives_agree(function, oracle, leaves):
    """Check a double backward of `function` (-> differentiable tensors) against that of `oracle`.

    The second path to the leaves matters: with it autograd could leave out, in silence, a term it cannot differentiate.
    """
    results = []
    for f in (function, oracle):
        first = [g for g in gradients(f(), leaves, create_graph=True) if g is not None and g.requires_grad]
        second = gradients([*first, sum((t * t).sum() for t in leaves)], leaves, seed=5)
        results.append([torch.zeros_like(t) if g is None else g for g, t in zip(second, leaves, strict=True)])
    torch.testing.assert_close(*results)


class RecordedOps(TorchDispatchMode):
    """Records the names of the package's raw ops that run inside a with block."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "iresnet_fast":
            self.names.append(function._schema.name.split("::")[1])
        return function(*args, **(kwargs or {}))
