"""Find a cyclic causal graph from interventions, as NODAGS-Flow does (arXiv 2301.01849), with one masked block.

    python examples/cyclic_causal_graph.py

The data are solutions of x = m f(x) + e: every variable is moved by its parents, but for those that an intervention has
set, where m is 0. The graph has a cycle, so there is no order to sample in. nn.MaskedBranch.per_node learns f with one
network for each variable, all of them a contraction together; `block(x, m)` returns e = x - m f(x) and the
log-determinant of it, which the likelihood of x needs. Prints the edges found, by the mean slope of every network.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor
from tqdm import trange

from iresnet_fast import nn
from iresnet_fast.estimators import Exact
from iresnet_fast.solvers import FixedPoint

N, HIDDEN = 6, 8
# From which variable to which, and how strongly: a cycle of four, a second one within it, and two effects outside.
EDGES = {(0, 1): 0.7, (1, 2): -0.6, (2, 3): 0.7, (3, 0): 0.5, (2, 0): -0.4, (1, 4): 0.5, (4, 5): 0.8}
NOISE, THRESHOLD = 0.4, 0.12


def main() -> None:
    """Draw data, learn, print the edges."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--samples", type=int, default=4000, help="default: %(default)d")
    options.add_argument("--steps", type=int, default=800, help="of 500 samples (default: %(default)d)")
    options.add_argument("--penalty", type=float, default=0.02, help="on the slopes (default: %(default)g)")
    chosen = options.parse_args()
    torch.manual_seed(0)
    x, mask = draw(chosen.samples)
    model = Equations()
    train(model, x, mask, chosen.steps, chosen.penalty)
    slopes = model.slopes(x)
    found = {(i, j) for i in range(N) for j in range(N) if float(slopes[j, i].abs()) > THRESHOLD}
    for i, j in sorted(found | set(EDGES)):
        says = "right" if (i, j) in found and (i, j) in EDGES else "missed" if (i, j) in EDGES else "wrong"
        print(f"{i} -> {j}: mean slope {float(slopes[j, i]):+.2f}, {says}")
    print(f"{len(found & set(EDGES))} of {len(EDGES)} edges found, {len(found - set(EDGES))} wrong ones")
    model.eval()
    with torch.no_grad():
        e, _ = model.block(x[:500], mask[:500])
        back, _ = model.block.inverse(e, mask[:500])
        print(
            f"Lipschitz constant {model.block.lipschitz:.3f}, largest error of the inverse {(back - x[:500]).abs().max():.1e}"
        )


class Equations(torch.nn.Module):
    """x = m f(x) + e with normal e: a block that returns e, and the size of each."""

    def __init__(self) -> None:
        """Build the networks; none of them sees its own variable."""
        super().__init__()
        branch = nn.MaskedBranch.per_node(N, HIDDEN, activation="tanh", coeff=0.99)
        self.block = nn.InvertibleResidualBlock(branch, Exact(), FixedPoint(1e-5))
        self.log_noise = torch.nn.Parameter(torch.zeros(N))

    def log_prob(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return the log-density [B] of the variables that no intervention has set, but for a constant."""
        e, logdet = self.block(x, mask)
        normal = -0.5 * (e * (-self.log_noise).exp()).square() - self.log_noise
        return logdet + (mask * normal).sum(1)

    def strengths(self) -> Tensor:
        """Return how much each variable can move each other one, [N, N], by the weights alone."""
        first, last = (weight.abs() for weight in self.block.branch.as_stages(self.log_noise[None]).weights)
        return last @ first

    def slopes(self, x: Tensor) -> Tensor:
        """Return the mean of df/dx over the samples, [N, N]."""
        g = self.block.branch.branch
        return torch.func.vmap(torch.func.jacrev(lambda a: g(a[None])[0]))(x).mean(0).detach()


def draw(n: int) -> tuple[Tensor, Tensor]:
    """Return n samples x and masks m, both [n, N]: of two thirds of the samples, one variable is set."""
    mask = torch.ones(n, N)
    is_set = torch.rand(n) < 2.0 / 3.0
    mask[is_set, torch.randint(N, (int(is_set.sum()),))] = 0.0
    e = torch.where(mask == 0.0, torch.randn(n, N), NOISE * torch.randn(n, N))
    strength = torch.zeros(N, N)
    for (i, j), value in EDGES.items():
        strength[i, j] = value
    x = e
    for _ in range(200):  # a contraction
        x = e + mask * (torch.tanh(x) @ strength)
    return x, mask


def train(model: Equations, x: Tensor, mask: Tensor, steps: int, penalty: float) -> None:
    """Maximise the likelihood of random batches, less a penalty on all strengths."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-2, steps + 1)
    bar = trange(steps, desc="training")
    for _ in bar:
        rows = torch.randint(len(x), (500,))
        loss = -model.log_prob(x[rows], mask[rows]).mean()
        optimizer.zero_grad()
        (loss + penalty * model.strengths().sum()).backward()
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}")


if __name__ == "__main__":
    main()
