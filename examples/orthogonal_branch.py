"""A density model whose branches have torch's own orthogonal weights, so that their norm is 1 whatever training does.

    python examples/orthogonal_branch.py

Four blocks of nn.ParametrizedBranch learn a two-dimensional density. Prints the log-likelihood of the test set, the
bound of each block beside the norms that its weights have, and the error of the inverse: orthogonal weights spend all
of the bound, where dividing by a norm leaves every other direction below it.
"""

from __future__ import annotations

import argparse
import math

import torch
from torch import Tensor
from torch.nn.utils.parametrizations import orthogonal
from tqdm import trange

from iresnet_fast import data, nn
from iresnet_fast.estimators import Exact
from iresnet_fast.solvers import FixedPoint

WIDTH, COEFF, BLOCKS = 32, 0.97, 4


def main() -> None:
    """Train, then print what holds."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--steps", type=int, default=600, help="of 500 points (default: %(default)d)")
    options.add_argument("--set", choices=data.NAMES, default="moons", help="default: %(default)s")
    chosen = options.parse_args()
    torch.manual_seed(0)
    points = data.load(chosen.set)
    flow = build(points.train)
    train(flow, points.train, chosen.steps)
    flow.eval()
    x = points.test[:1000]
    with torch.no_grad():
        z, _ = flow(x)
        back, _ = flow.inverse(z)
        print(f"log-likelihood {float(log_prob(flow, x).mean()):.3f} nats")
        for i, block in enumerate(part for part in flow if isinstance(part, nn.InvertibleResidualBlock)):
            norms = [float(torch.linalg.matrix_norm(layer.weight, 2)) for layer in block.branch.layers]
            print(f"block {i}: Lipschitz constant {block.lipschitz:.4f}, norms of the weights {norms}")
        print(f"largest error of the inverse {float((back - x).norm(dim=1).max()):.1e}")


def build(points: Tensor) -> nn.Sequential:
    """Return a flow of blocks between ActNorms that start from the points [B, 2]."""
    parts: list[torch.nn.Module] = [nn.ActNorm(2)]
    for _ in range(BLOCKS):
        layers = [orthogonal(torch.nn.Linear(*size)) for size in ((2, WIDTH), (WIDTH, WIDTH), (WIDTH, 2))]
        branch = nn.ParametrizedBranch(layers, ["identity", "maxmin", "maxmin"], coeff=COEFF)
        parts += [nn.InvertibleResidualBlock(branch, Exact(), FixedPoint(1e-5)), nn.ActNorm(2)]
    flow = nn.Sequential(*parts)
    with torch.no_grad():
        flow(points[:1000])
    return flow


def train(flow: nn.Sequential, points: Tensor, steps: int) -> None:
    """Maximise the likelihood of random batches of the points."""
    optimizer = torch.optim.Adam(flow.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, steps + 1)
    bar = trange(steps, desc="training")
    for _ in bar:
        batch = points[torch.randint(len(points), (500,))]
        loss = -log_prob(flow, batch).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        bar.set_postfix(nats=f"{-loss.item():.3f}")


def log_prob(flow: nn.Sequential, x: Tensor) -> Tensor:
    """Return the log-density of points [B, 2] under the flow and a standard normal, [B]."""
    z, logdet = flow(x)
    return logdet - 0.5 * z.square().sum(1) - math.log(2.0 * math.pi)


if __name__ == "__main__":
    main()
