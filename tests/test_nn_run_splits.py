"""What splits a run, and every way in which a chain can change between two calls: nothing is ever of before."""

import copy
import threading

import pytest
import torch
from chains import ESTIMATORS, check_same, make_chain, outcome, part_by_part
from torch.nn.modules import module as every_module
from torch.nn.utils import parametrize, prune
from torch.utils.checkpoint import checkpoint

from iresnet_fast import _library, nn
from iresnet_fast.estimators import Exact, PowerSeries

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:iresnet_fast.*(autograd fallback|has no kernel)"),
]

CLOSE = {"atol": 1e-11, "rtol": 1e-10}
WHOLE = [6]


def double(estimator="series", kind="dense"):
    return make_chain(kind, estimator, torch.float64)


def halve(module, inputs, output):
    return 0.5 * output[0], output[1]


class Doubled(nn.ActNorm):
    def forward(self, x, context=None):
        z, logdet = super().forward(x)
        return 2.0 * z, logdet


class Negated(nn.InvertibleResidualBlock):
    def __call__(self, *arguments, **options):
        z, logdet = super().__call__(*arguments, **options)
        return -z, logdet


class Named(nn.InvertibleResidualBlock):
    """A class that changes nothing about a call."""


class Squashed(torch.nn.Module):
    def forward(self, weight):
        return torch.tanh(weight)


def replaced(place, make):
    def change(chain):
        chain[place] = make(chain[place]).double()

    return change


def with_fullsort(chain):
    chain[4].branch = nn.ResidualBranch.dense([6, 4, 6], "fullsort").double()


# What is done to the chain of six, and how many parts its runs have then.
CHANGES = {
    "hook of a block": (lambda c: c[1].register_forward_hook(halve), [1, 3]),
    "hook before a block": (lambda c: c[4].register_forward_pre_hook(lambda m, a: (2 * a[0], *a[1:])), [4, 1]),
    "hook of an ActNorm": (lambda c: c[3].register_forward_hook(halve), [2, 2]),
    "hook of a branch": (lambda c: c[4].branch.register_forward_hook(lambda m, i, o: 0.5 * o), [4, 1]),
    "hook of a layer": (lambda c: c[4].branch.layers[1].register_forward_hook(lambda m, i, o: 0.5 * o), [4, 1]),
    "backward hook": (lambda c: c[1].register_full_backward_hook(lambda m, i, o: tuple(2 * g for g in i)), [1, 3]),
    "forward of its own": (lambda c: setattr(c[3], "forward", lambda x: (2.0 * x, x.new_zeros(len(x)))), [2, 2]),
    "subclass": (replaced(3, lambda _: Doubled(6)), [2, 2]),
    "call of its own": (replaced(4, lambda block: Negated(block.branch, Exact())), [4, 1]),
    "subclass like its base": (replaced(4, lambda block: Named(block.branch, Exact())), WHOLE),
    "another branch": (lambda c: setattr(c[4], "branch", torch.nn.Linear(6, 6, dtype=torch.float64)), [4, 1]),
    "another layer": (lambda c: c[4].branch.layers.__setitem__(1, torch.nn.Linear(5, 7).double()), [4, 1]),
    "tolerance": (lambda c: setattr(c[4], "estimator", PowerSeries(5, tol=1e-3)), [4, 1]),
    "gradient of the series": (lambda c: setattr(c[4], "estimator", PowerSeries(5, gradient="series")), [4, 1]),
    "no kernel": (with_fullsort, [4, 1]),
    "new ActNorm": (replaced(3, lambda _: nn.ActNorm(6)), [2, 2]),
    "layer in between": (lambda c: c.insert(2, nn.InvertibleLinear(6).double()), [2, 3]),
    "chain in a chain": (lambda c: c.insert(2, nn.Sequential(nn.ActNorm(6)).eval().double()), [2, 3]),
}


@pytest.mark.filterwarnings("ignore:iresnet_fast. evaluation of an ActNorm")
@pytest.mark.parametrize("change", CHANGES)
def test_what_splits_a_run(change, runs):
    chain, x = double()
    make, expected = CHANGES[change]
    make(chain)
    twin = copy.deepcopy(chain) if "own" not in change and "hook" not in change else chain
    runs.clear()
    torch.manual_seed(5)
    z, logdet = chain(x)
    assert runs == expected
    torch.manual_seed(5)
    torch.testing.assert_close((z, logdet), part_by_part(twin, x), **CLOSE)
    check_same(chain, x, **CLOSE)


def test_hooks_are_called_once_and_see_what_passes(runs):
    chain, x = double("exact")
    seen = []
    handle = chain[4].register_forward_hook(lambda m, inputs, output: seen.append((inputs[0], output[0])))
    z, _ = chain(x)
    assert len(seen) == 1
    torch.testing.assert_close(part_by_part(chain[:4], x)[0], seen[0][0])
    torch.testing.assert_close(part_by_part(chain[5:], seen[0][1])[0], z)
    handle.remove()
    runs.clear()
    chain(x)
    assert len(seen) == 1
    assert runs == WHOLE


def test_hooks_of_all_modules(runs):
    chain, x = double("exact")
    called = []
    with every_module.register_module_forward_hook(lambda m, inputs, output: called.append(m)):
        runs.clear()
        chain(x)
    assert set(chain) <= set(called)
    assert runs == []


# Each is done to a chain that has been called, and must show at once.
WRITES = {
    "weight": lambda c: c[1].branch.layers[0].weight.mul_(-0.5),
    "weight, through data": lambda c: c[1].branch.layers[0].weight.data.mul_(-0.5),
    "bias": lambda c: c[4].branch.layers[2].bias.add_(1.0),
    "beta": lambda c: c[1].branch.beta_1.add_(1.0),
    "coeff": lambda c: setattr(c[1].branch.layers[0], "coeff", 0.3),
    "bias of an ActNorm": lambda c: c[3].bias.add_(1.0),
    "scale of an ActNorm": lambda c: setattr(c[3], "log_scale", torch.nn.Parameter(torch.ones(6).double())),
    "order": lambda c: c[2].indices.copy_(torch.arange(6)),
    "activation": lambda c: setattr(c[5].branch, "activations", ("sin", "softplus")),
    "estimator": lambda c: setattr(c[4], "estimator", PowerSeries(1)),
    "no estimator": lambda c: setattr(c[4], "estimator", None),
    "branch": lambda c: setattr(c[4], "branch", nn.ResidualBranch.dense([6, 3, 6], "relu").double()),
    "layer": lambda c: c[5].branch.layers.__setitem__(0, nn.SpectralLinear(6, 4, coeff=0.4).double()),
    "part": lambda c: c.__setitem__(2, nn.Permutation.reverse(6)),
    "pruned": lambda c: prune.l1_unstructured(c[1].branch.layers[0], "weight", 0.5),
    "pruned ActNorm": lambda c: prune.l1_unstructured(c[3], "bias", 0.5),
    "parametrised": lambda c: parametrize.register_parametrization(c[1].branch.layers[0], "weight", Squashed()),
    "parametrised ActNorm": lambda c: parametrize.register_parametrization(c[3], "bias", Squashed()),
    "loaded": lambda c: c.load_state_dict(make_chain("dense", "exact", torch.float64, gain=1.0)[0].state_dict()),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("write", WRITES)
def test_a_change_shows_at_once(write, training):
    chain, x = double("exact")
    chain.train(training)
    before = chain(x)[0].detach()
    with torch.no_grad():
        before_without_graph = chain(x)[0]
        WRITES[write](chain)
        chain.train(training)
        assert write == "loaded" or not torch.allclose(chain(x)[0], before_without_graph) or "estimator" in write
    torch.testing.assert_close(before, before_without_graph, **CLOSE)
    check_same(chain, x, **CLOSE)


def test_the_mode_and_the_kind_of_numbers():
    chain, x = double("series")
    check_same(chain, x, **CLOSE)
    chain.eval()
    check_same(chain, x, **CLOSE)
    chain[4].train()
    check_same(chain, x, **CLOSE)
    chain.float()
    check_same(chain, x.float(), atol=2e-4, rtol=1e-4)
    with pytest.raises(TypeError, match="x must have the dtype of the layer"):
        chain(x)


def test_other_tensors_lent_for_a_call():
    chain, x = double("exact")
    chain(x)
    tensors = {name: (0.8 * p).detach().requires_grad_() for name, p in chain.named_parameters()}
    z, logdet = torch.func.functional_call(chain, tensors, (x,))
    gradients = torch.autograd.grad(z.sum() + logdet.sum(), list(tensors.values()))
    twin = copy.deepcopy(chain)
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            parameter.copy_(tensors[name])
    expected = part_by_part(twin, x)
    torch.testing.assert_close((z, logdet), expected, atol=1e-6, rtol=1e-6)
    expected = torch.autograd.grad(sum(t.sum() for t in expected), list(twin.parameters()))
    torch.testing.assert_close(gradients, expected, atol=1e-5, rtol=1e-5)
    check_same(chain, x, **CLOSE)


def test_the_first_batch_initialises_and_evaluation_before_it_warns(runs):
    chain, x = nn.Sequential(nn.ActNorm(6), nn.Permutation.reverse(6), nn.ActNorm(6)), torch.randn(9, 6)
    with pytest.warns(RuntimeWarning, match="evaluation of an ActNorm that has seen no batch"):
        chain.eval()(x)
    z, _ = chain.train()(x)
    assert runs == []
    torch.testing.assert_close(z.mean(0), torch.zeros(6), atol=1e-5, rtol=0.0)
    chain(x)
    assert runs == [3]
    chain[2].reset_parameters()
    chain(x)
    assert runs == [3, 1]


@pytest.mark.parametrize(
    ("x", "error"),
    [
        (torch.zeros(3, 5), ValueError),
        (torch.zeros(6), ValueError),
        (torch.zeros(3, 6, 2), ValueError),
        (torch.zeros(3, 6, dtype=torch.float64), TypeError),
        (torch.zeros(3, 6, dtype=torch.int64), TypeError),
        (torch.zeros(3, 6, device="meta"), ValueError),
        (torch.zeros(3, 6).to_sparse(), TypeError),
    ],
)
@pytest.mark.parametrize("first", [0, 1, 2])
def test_bad_input_is_refused_in_the_words_of_its_part(first, x, error):
    chain, _ = make_chain("dense", "series")
    chain = chain[first:]
    with pytest.raises(error) as found:
        chain(x)
    with pytest.raises(error) as expected:
        part_by_part(chain, x)
    assert str(found.value) == str(expected.value)


def test_parts_that_do_not_fit_each_other():
    chain, x = double("exact")
    chain[3] = nn.ActNorm(4)
    chain[4] = nn.InvertibleResidualBlock(nn.ResidualBranch.dense([5, 4, 5]).double(), Exact())
    with pytest.raises(TypeError, match=r"x must have the dtype of the layer, torch\.float32"):
        chain(x)
    chain[3].double()
    with pytest.raises(ValueError, match=r"x must have shape \[B, 4\] or"):
        chain(x)
    del chain[3]
    with pytest.raises(ValueError, match=r"x must have shape \[B, 5\]"):
        chain(x)
    with pytest.raises(ValueError, match="context must be None since no transform here takes one"):
        chain(x, torch.ones(7, 1))


def test_without_kernels_each_part_is_called(runs):
    chain, x = double("exact")
    expected = chain(x)
    runs.clear()
    with _library.use_backend("reference"):
        torch.testing.assert_close(chain(x), expected)
    assert runs == []


def test_transforms_of_functions(runs):
    chain, x = double("exact")
    chain.eval()
    logdet = chain(x)[1]
    runs.clear()
    jacobian = torch.func.vmap(torch.func.jacrev(lambda row: chain(row[None])[0][0]))(x)
    torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], logdet, atol=1e-9, rtol=1e-9)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        tangent = torch.autograd.forward_ad.unpack_dual(chain(dual)[0]).tangent
    torch.testing.assert_close(tangent, jacobian.sum(-1), atol=1e-9, rtol=1e-9)
    assert runs == []


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("estimator", ["exact", "series", "roulette"])
@pytest.mark.parametrize("is_new", [True, False])
def test_checkpoints(reentrant, estimator, is_new):
    """A checkpoint makes its call again in the backward pass, after the first one may have initialised a part."""
    chain, x = double(estimator)
    if is_new:
        chain[3].reset_parameters()
        chain[3].initialized.fill_(0.0)
    twin = copy.deepcopy(chain)
    found = outcome(lambda x: checkpoint(chain, x, use_reentrant=reentrant), chain, x)
    expected = outcome(lambda x: part_by_part(twin, x), twin, x)
    torch.testing.assert_close(found[:2], expected[:2], **CLOSE)
    halves = outcome(lambda x: in_halves(chain, x, reentrant), chain, x)
    torch.testing.assert_close(halves[:2], outcome(lambda x: part_by_part(chain, x), chain, x)[:2], **CLOSE)


def in_halves(chain, x, reentrant):
    middle, first = checkpoint(chain[:3], x, use_reentrant=reentrant)
    z, second = checkpoint(chain[3:], middle, use_reentrant=reentrant)
    return z, first + second


def test_saved_tensors_are_packed():
    chain, x = double("exact")
    packed = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t.shape) or t, lambda t: t):
        z, logdet = chain(x)
    assert packed
    (z.sum() + logdet.sum()).backward()


def test_autocast():
    chain, x = make_chain("dense", "exact")
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", torch.bfloat16):
            found, expected = chain(x.to(dtype)), part_by_part(chain, x.to(dtype))
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
        assert found[0].dtype == expected[0].dtype


def test_threads_call_one_chain_at_once():
    chain, x = double("exact")
    chain.eval()
    inputs = [x + i for i in range(8)]
    expected = [part_by_part(chain, one) for one in inputs]
    found = [None] * 8

    def work(i):
        for _ in range(5):
            found[i] = chain(inputs[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.testing.assert_close(found, expected, **CLOSE)


def test_copies_are_of_their_own():
    chain, x = double("exact")
    chain(x)
    twin = copy.deepcopy(chain)
    with torch.no_grad():
        twin[1].branch.layers[0].weight.mul_(0.1)
    check_same(twin, x, **CLOSE)
    check_same(chain, x, **CLOSE)
    average = torch.optim.swa_utils.AveragedModel(chain)
    average.update_parameters(twin)
    average.update_parameters(chain)
    check_same(average.module, x, **CLOSE)


def test_inference_mode():
    chain, x = double("series")
    chain.eval()
    expected = chain(x)
    with torch.inference_mode():
        torch.testing.assert_close(chain(x), expected, **CLOSE)
    z, logdet = chain(x.requires_grad_())
    (z.sum() + logdet.sum()).backward()


def test_estimators_of_a_class_of_their_own():
    class Drawn(PowerSeries):
        def draw(self, x, training, generator=None, keys=None):
            return torch.randn_like(x), torch.ones(3, dtype=x.dtype)

    chain, x = double(Drawn())
    check_same(chain, x, **CLOSE)
    chain[1].estimator = ESTIMATORS["series"]
    check_same(chain, x, **CLOSE)


@pytest.mark.slow
def test_compiled_chains_are_computed_part_by_part(runs):
    torch.compiler.reset()
    chain, x = make_chain("dense", "exact")
    expected = outcome(chain, chain, x)
    runs.clear()
    compiled = torch.compile(chain, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(outcome(compiled, chain, x)[:2], expected[:2], atol=2e-4, rtol=1e-4)
    assert runs == []
    chain[4].compile(backend="aot_eager")
    torch.testing.assert_close(outcome(chain, chain, x)[:2], expected[:2], atol=2e-4, rtol=1e-4)
    assert runs == [4, 1]
