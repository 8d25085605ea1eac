"""MaskedBranch: masks of interventions and of a graph's edges, of each sample or of all."""

import pytest
import torch
from branch_kinds import log_determinants
from nn_transforms import exact_block, grown
from torch.nn.utils import prune

from iresnet_fast import nn
from iresnet_fast.estimators import Exact, PowerSeries

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:iresnet_fast.*autograd fallback"),
]
DTYPE = torch.float64
CYCLE = torch.tensor([[0, 1, 0], [0, 0, 1], [1, 0, 0]])  # 0 acts on 1, 1 on 2, 2 on 0


def make_branch(sign=-1, **options):
    return nn.MaskedBranch(grown(nn.ResidualBranch.dense([4, 8, 4], **options)), sign).double()


def jacobians(branch, x, *context):
    """dg/dx of each sample."""
    rows = torch.func.vmap(torch.func.jacrev(lambda a, *c: branch(a[None], *(t[None] for t in c))[0]))
    return rows(x, *context).detach()


def test_a_variable_that_an_intervention_sets_is_kept():
    block, x = exact_block(make_branch()).eval(), torch.randn(6, 4, dtype=DTYPE)
    mask = torch.randint(0, 2, (6, 4)).bool()
    mask[0] = False
    z, logdet = block(x, mask)
    assert torch.equal(z[~mask], x[~mask])
    assert not bool((z[mask] == x[mask]).any())
    torch.testing.assert_close(z, x - mask * block.branch.branch(x))
    torch.testing.assert_close(logdet.detach(), log_determinants(block.branch, x, mask))
    assert float(logdet[0].detach()) == 0.0
    torch.testing.assert_close(block.inverse(z, mask)[0], x, atol=1e-10, rtol=0.0)


@pytest.mark.parametrize("preactivation", [False, True])
@pytest.mark.parametrize("sign", [1, -1])
def test_masks_of_all_samples_are_those_of_each(preactivation, sign):
    block, x = exact_block(make_branch(sign, preactivation=preactivation)), torch.randn(6, 4, dtype=DTYPE)
    output, given = 2.0 * torch.rand(2, 4, dtype=DTYPE) - 1.0
    expected = x + sign * output * block.branch.branch(given * x)
    for masks in (nn.Masks(output, given), nn.Masks(output.expand(6, 4), given.expand(6, 4))):
        found = block(x, masks)
        torch.testing.assert_close(found[0], expected)
    torch.testing.assert_close(block(x, output)[0], x + sign * output * block.branch.branch(x))


def test_a_mask_of_the_input_cuts_what_a_variable_does():
    branch, x = make_branch(), torch.randn(3, 4, dtype=DTYPE)
    given = torch.ones(4, dtype=DTYPE)
    given[2] = 0.0
    found = jacobians(lambda a: branch(a, nn.Masks(input=given)), x)
    assert not bool(found[:, :, 2].any())
    assert bool(found[:, :, 0].any())


def test_masks_that_a_network_draws_get_gradients():
    torch.manual_seed(3)
    branch, x = make_branch(), torch.randn(5, 4, dtype=DTYPE)
    logits = torch.zeros(4, dtype=DTYPE, requires_grad=True)
    edges = torch.distributions.RelaxedBernoulli(torch.tensor(0.5, dtype=DTYPE), logits=logits).rsample((5,))
    z, logdet = nn.InvertibleResidualBlock(branch, PowerSeries(8))(x, nn.Masks(input=edges))
    (gradient,) = torch.autograd.grad(z.square().sum() + logdet.sum(), logits)
    assert bool((gradient != 0.0).all())


@pytest.mark.parametrize("adjacency", [None, CYCLE, CYCLE + torch.eye(3), torch.zeros(3, 3)])
def test_one_network_for_each_variable_sees_its_parents_only(adjacency):
    branch = nn.MaskedBranch.per_node(3, 5, adjacency, coeff=0.7).double()
    x = torch.randn(40, 3, dtype=DTYPE)
    expected = ~torch.eye(3, dtype=torch.bool) if adjacency is None else adjacency.t() != 0
    found = jacobians(branch, x)
    assert torch.equal((found != 0.0).any(0), expected)
    assert float(torch.linalg.matrix_norm(found, 2).max()) <= branch.lipschitz == pytest.approx(0.49)


def test_networks_of_variables_are_bounded_together_and_learn():
    branch = nn.MaskedBranch.per_node(3, 5, CYCLE)
    block, x = nn.InvertibleResidualBlock(branch, Exact()), torch.randn(64, 3)
    optimizer = torch.optim.Adam(block.parameters(), 0.1)
    losses = []
    for _ in range(40):
        z, logdet = block(x)
        loss = 0.5 * z.square().sum(1).mean() - logdet.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    for weight in branch.as_stages(x).weights:
        assert float(torch.linalg.matrix_norm(weight.detach(), 2)) <= 0.9 * (1.0 + 1e-3)
    assert torch.equal((jacobians(branch, x) != 0.0).any(0), CYCLE.t() != 0)


def test_hooks_of_the_branch_within_are_called():
    branch, x = make_branch(), torch.randn(3, 4, dtype=DTYPE)
    block, mask = exact_block(branch), torch.rand(3, 4, dtype=DTYPE)
    branch.branch.layers[0].register_forward_hook(lambda m, inputs, output: 0.5 * output)
    assert branch.why_no_kernels() == "layers[0] has hooks"
    z, logdet = block(x, mask)
    torch.testing.assert_close(z, x + branch(x, mask))
    torch.testing.assert_close(logdet.detach(), log_determinants(branch, x, mask))


def test_what_is_made_of_weights_within_is_used():
    branch, x = make_branch(), torch.randn(3, 4, dtype=DTYPE)
    prune.l1_unstructured(branch.layers[0], "weight", 0.5)
    block = exact_block(branch)
    torch.testing.assert_close(block(x)[0], x - branch.branch(x))
    assert branch.why_no_kernels() is None


def test_a_mask_that_nobody_can_read_is_cut_off():
    branch, x = make_branch(), torch.randn(3, 4, dtype=DTYPE)
    mask = torch.full((3, 4), 5.0, dtype=DTYPE)
    found = torch.func.vmap(lambda a, m: branch(a[None], m[None])[0])(x, mask)
    torch.testing.assert_close(found, branch(x))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.MaskedBranch(torch.nn.Linear(4, 4)), TypeError, "branch must be a ResidualBranch, .* got Linear"),
        (lambda: nn.MaskedBranch(nn.DenseBranch.dense(4, 3)), TypeError, "got DenseBranch"),
        (lambda: nn.MaskedBranch(nn.ConditionalBranch.dense([4, 8, 4], 3)), TypeError, "got ConditionalBranch"),
        (lambda: make_branch(0), ValueError, "sign must be 1 or -1, got 0"),
        (lambda: make_branch(True), ValueError, "sign must be 1 or -1, got True"),
        (lambda: make_branch(torch.ones(2)), ValueError, "sign must be 1 or -1, got tensor"),
        (lambda: nn.MaskedBranch.per_node(0, 5), ValueError, "n must be at least 1"),
        (lambda: nn.MaskedBranch.per_node(3, 0), ValueError, "hidden must be at least 1"),
        (lambda: nn.MaskedBranch.per_node(3, 5, torch.ones(2, 2)), ValueError, r"adjacency must have shape \(3, 3\)"),
        (lambda: nn.MaskedBranch.per_node(3, 4, activation="maxmin"), ValueError, "each unit by itself, got maxmin"),
        (lambda: make_branch()(torch.ones(2, 5).double()), ValueError, "x must have shape"),
        (lambda: call(torch.ones(3, 4)), ValueError, r"mask of the output must have shape \(2, 4\) or \(4,\), got"),
        (lambda: call(nn.Masks(input=torch.ones(2))), ValueError, "mask of the input must have shape"),
        (lambda: call(torch.full((4,), 1.5)), ValueError, r"must have values in \[-1, 1\], got values from 1.5 to 1.5"),
        (lambda: call(torch.full((4,), float("nan"))), ValueError, r"must have values in \[-1, 1\]"),
        (
            lambda: call([1.0] * 4),
            TypeError,
            r"context must be Masks or a tensor, .*, got list; pass Masks\(",
        ),
        (lambda: call(torch.ones(4) * 1j), TypeError, "mask of the output must have real numbers, got torch.complex64"),
        (lambda: call(torch.ones(4) + 2e-7), ValueError, "got values from 1.00000024 to 1.00000024"),
        (lambda: call(nn.Masks([1.0] * 4)), TypeError, r"mask of the output .* got list; pass torch.tensor\(it\)"),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()


def call(masks):
    return nn.InvertibleResidualBlock(make_branch(), PowerSeries(2))(torch.ones(2, 4, dtype=DTYPE), masks)


def test_a_hooked_branch_gives_its_masks_the_same_gradients():
    """On the autograd path the masks are found inside their tuple."""
    block, x = exact_block(make_branch()), torch.randn(6, 4, dtype=DTYPE)
    drawn = torch.rand(2, 6, 4, dtype=DTYPE, requires_grad=True)
    found = []
    for hooked in (False, True):
        handle = block.branch.branch.layers[0].register_forward_hook(lambda *_: None) if hooked else None
        z, logdet = block(x, nn.Masks(*drawn))
        found.append(torch.autograd.grad((z.sin().sum() + logdet.square().sum()), drawn)[0])
        if handle is not None:
            handle.remove()
    torch.testing.assert_close(*found)
