"""Ways to invert trained branches of several Lipschitz constants: ours, and the loops of other packages.

    python benchmarks/inverse_methods.py [--quick]

Every branch is trained as a density model for a while first, which brings its constant near the declared one; fresh
branches contract faster and need no help. Prints evaluations of the branch a sample (a loop without a mask evaluates
all samples until the last is done), milliseconds a batch, and the largest distance to the inverse in float64, and
writes them to benchmarks/results/bench_inverse.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from machine import environment
from text_table import table
from timing import interleave, medians
from torch import Tensor

from iresnet_fast import estimators, nn, ops, reference
from iresnet_fast.reference.series import sample_norm

RESULT = Path(__file__).parent / "results" / "bench_inverse.md"
LIPSCHITZ = (0.5, 0.73, 0.94, 0.98)
BRANCHES = ("dense 32-64-64-32", "conv 4x7x7, 3-1-3, 16 channels")
TOLERANCE = 1e-5
MOST = 5000


class Inverted(NamedTuple):
    """What a method returns."""

    x: Tensor
    evaluations: Tensor  # [B]


Method = Callable[..., Inverted]


def trained(name: str, lipschitz: float, steps: int) -> tuple[Tensor, Any]:
    """Return z of data and the stages of a branch that was trained on that for some steps."""
    torch.manual_seed(0)
    coeff = lipschitz ** (1 / 3)
    if name.startswith("dense"):
        branch = nn.ResidualBranch.dense([32, 64, 64, 32], coeff=coeff)
        x = torch.randn(256, 8) @ torch.randn(8, 32) / 3 + 0.1 * torch.randn(256, 32)
    else:
        branch = nn.ResidualBranch.conv([4, 16, 16, 4], [3, 1, 3], (7, 7), coeff=coeff)
        smooth = torch.nn.functional.interpolate(torch.randn(64, 4, 4, 4), size=(7, 7), mode="bilinear")
        x = smooth + 0.05 * torch.randn(64, 4, 7, 7)
    block = nn.InvertibleResidualBlock(branch, estimators.PowerSeries(n_terms=8))
    optimizer = torch.optim.Adam(block.parameters(), lr=5e-3)
    for _ in range(steps):
        z, logdet = block(x)
        optimizer.zero_grad()
        ((0.5 * z.square().flatten(1).sum(1) - logdet).mean() / x[0].numel()).backward()
        optimizer.step()
    block.eval()
    with torch.no_grad():
        weights, biases, activations, _ = branch.stages(x.shape[2:])
        stages = [t.detach() for t in weights], [None if t is None else t.detach() for t in biases], activations
        return block(x)[0], stages


def ours(z: Tensor, stages: Any, lipschitz: float, accelerate: bool = True) -> Inverted:
    """The kernels, to a certified error."""
    x, iterations, _ = ops.residual_inverse(z, *stages, lipschitz, TOLERANCE, MOST, accelerate=accelerate)
    return Inverted(x, iterations + 1)


def banach(z: Tensor, stages: Any, lipschitz: float) -> Inverted:
    """Plain torch to the same residual, converged samples left out."""
    x, iterations, _ = reference.residual_inverse(z, *stages, lipschitz, TOLERANCE, MOST, accelerate=False)
    return Inverted(x, iterations + 1)


def residual_flows(z: Tensor, stages: Any, lipschitz: float) -> Inverted:
    """The loop of Residual Flows and normflows: until every number's squared step is below 1e-5 + 1e-5 |z|."""
    x, before = z - reference.branch(z, *stages), z
    count = 1
    while count < 1001 and not bool(((x - before) ** 2 / (1e-5 + 1e-5 * z.abs()) < 1).all()):
        x, before, count = z - reference.branch(x, *stages), x, count + 1
    return Inverted(x, torch.full((len(z),), count))


def fixed_count(z: Tensor, stages: Any, lipschitz: float, count: int) -> Inverted:
    """The loop of i-ResNet: 10 iterations where it samples, 100 as a block's default; no test."""
    x = z
    for _ in range(count):
        x = z - reference.branch(x, *stages)
    return Inverted(x, torch.full((len(z),), count))


def i_resnet_10(z: Tensor, stages: Any, lipschitz: float) -> Inverted:
    """i-ResNet where it samples."""
    return fixed_count(z, stages, lipschitz, 10)


def i_resnet_100(z: Tensor, stages: Any, lipschitz: float) -> Inverted:
    """i-ResNet, a block's default."""
    return fixed_count(z, stages, lipschitz, 100)


def ours_plain(z: Tensor, stages: Any, lipschitz: float) -> Inverted:
    """The kernels without acceleration."""
    return ours(z, stages, lipschitz, accelerate=False)


METHODS: dict[str, Method] = {
    "ours": ours,
    "ours, plain iteration": ours_plain,
    "plain torch": banach,
    "Residual Flows' loop": residual_flows,
    "i-ResNet's, 10": i_resnet_10,
    "i-ResNet's, 100": i_resnet_100,
}


def rows(name: str, lipschitz: float, steps: int, seconds: float) -> list[list[str]]:
    """Return the rows of one branch."""
    z, stages = trained(name, lipschitz, steps)
    wide = [[None if t is None else t.double() for t in tensors] for tensors in stages[:2]]
    truth, *_ = ops.residual_inverse(z.double(), *wide, stages[2], lipschitz, 1e-12, MOST)
    with torch.no_grad():
        found = {title: method(z, stages, lipschitz) for title, method in METHODS.items()}
        calls = {title: (lambda m=method: m(z, stages, lipschitz)) for title, method in METHODS.items()}
        times = medians(interleave(calls, seconds, 5))
    plain = found["plain torch"].evaluations.double().mean()
    return [
        [
            f"{lipschitz:g}",
            title,
            f"{result.evaluations.double().mean():.1f}",
            f"{plain / result.evaluations.double().mean():.1f}x",
            f"{1e3 * times[title]:.2f}",
            f"{float(sample_norm(result.x.double() - truth, z.dim() - 1).max()):.1e}",
        ]
        for title, result in found.items()
    ]


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few steps and one repetition; no file")
    options = parser.parse_args()
    steps, seconds = (3, 0.01) if options.quick else (150, 0.5)
    header = ["L", "method", "evaluations", "fewer than plain", "ms", "largest error"]
    parts = []
    for name in BRANCHES:
        body = [row for lipschitz in LIPSCHITZ for row in rows(name, lipschitz, steps, seconds)]
        parts.append(f"{name}, trained for {steps} steps, tol {TOLERANCE:g}, float32\n\n{table(header, body)}")
        print(parts[-1], end="\n\n", flush=True)
    if not options.quick:
        where = ", ".join(f"{key} {value}" for key, value in environment().items())
        RESULT.write_text("# Ways to invert a trained branch\n\n" + "\n\n".join(parts) + f"\n\n{where}\n")


if __name__ == "__main__":
    sys.exit(main())
