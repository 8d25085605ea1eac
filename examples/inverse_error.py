"""Error of the inverse against iterations, for several Lipschitz constants (i-ResNet, section 2 and figure 3).

    python examples/inverse_error.py

x <- z - g(x) from x_0 = z is compared with a solution in float64, and with Banach's bound c^n / (1 - c) |x_1 - x_0|,
sample by sample: an error above it ends the program. Two branches g for each constant c: one of random weights, scaled
so that c, the product of the norms of its layers, is certified; and g(x) = -c x, the worst case, which attains the
bound. Writes docs/results/inverse_error.{json,md,png}.
"""

from __future__ import annotations

from typing import Any

import _common
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from iresnet_fast import _library, models, nn, ops

CONSTANTS = (0.3, 0.5, 0.7, 0.9, 0.97)
CHANNELS, KERNELS, SIZE = (4, 32, 32, 4), (3, 1, 3), (14, 14)  # a branch of the MNIST model
TOL = 1e-6


def main() -> None:
    """Iterate, compare, write."""
    parser = _common.parser(__doc__)
    parser.add_argument("--backend", choices=("kernels", "reference"), help="default: kernels, if they are built")
    parser.add_argument("--iterations", type=int, default=60, help="of the curves (default: 60)")
    options = parser.parse_args()
    batch, iterations = (4, 10) if options.quick else (64, options.iterations)
    results: dict[str, Any] = {"settings": {"seed": options.seed, "batch": batch, "tol": TOL}, "runs": []}
    with _library.use_backend(options.backend):
        results["machine"] = _common.machine()
        for c in CONSTANTS:
            _common.start(options)
            z = torch.randn(batch, CHANNELS[0], *SIZE, dtype=torch.float64)
            for branch, stages in (("random", random_branch(c)), ("worst", worst_branch(c))):
                for dtype in (torch.float64, torch.float32):
                    name = str(dtype).removeprefix("torch.")
                    found = measure(dtype, z, stages, c, iterations)
                    results["runs"].append({"c": c, "branch": branch, "dtype": name, **found})
    _common.write(options.out, "inverse_error", results, text(results))
    _common.save(picture(results["runs"]), options.out, "inverse_error")


def random_branch(c: float) -> Any:
    """Return weights, biases and activations of a random branch of certified Lipschitz constant c."""
    branch = nn.ResidualBranch.conv(CHANNELS, KERNELS, SIZE, "elu", coeff=0.9).double()
    block = nn.InvertibleResidualBlock(branch, estimator=None).eval()
    certified = models.certified_lipschitz(block).worst
    with torch.no_grad():
        weights, biases, activations, _ = branch.stages(SIZE)
    return [weight * (c / certified) ** (1 / len(weights)) for weight in weights], biases, activations


def worst_branch(c: float) -> Any:
    """Return those of g(x) = -c x."""
    return [-c * torch.eye(CHANNELS[0], dtype=torch.float64)[:, :, None, None]], [None], ("identity",)


def measure(dtype: torch.dtype, z: Tensor, stages: Any, c: float, iterations: int) -> dict[str, Any]:
    """Return errors and bounds after 0, 1, ... iterations, and what the solver needs to TOL, in one precision."""
    z, (weights, biases, activations) = z.to(dtype), stages
    weights = [weight.to(dtype) for weight in weights]
    biases = [None if bias is None else bias.detach().to(dtype) for bias in biases]
    # The rounded problem has a solution of its own, and that is what float32 iterates towards.
    wide = [[None if t is None else t.double() for t in tensors] for tensors in (weights, biases)]
    solution = ops.residual_inverse(z.double(), *wide, activations, c, 1e-15)[0]
    x, first = z, norm(ops.branch(z, weights, biases, activations))
    # Every evaluation is rounded, to some units in the last place of what it adds up; 1 / (1 - c) of that remains.
    rounding = 8.0 * torch.finfo(dtype).eps * norm(solution) / (1.0 - c)
    errors, bounds = [], []
    for n in range(iterations + 1):
        error, bound = norm(x.double() - solution), c**n / (1.0 - c) * first
        if not bool((error <= bound + rounding).all()):
            raise AssertionError(f"an error after {n} iterations with c = {c} in {dtype} is above Banach's bound")
        errors.append(float(error.max()))
        bounds.append(float(bound.max()))
        x = z - ops.branch(x, weights, biases, activations)
    x, needed, _ = ops.residual_inverse(z, weights, biases, activations, c, TOL, accelerate=False)
    return {
        "errors": errors,
        "bounds": bounds,
        "solver_iterations": float(needed.double().mean()),
        "solver_iterations_most": int(needed.max()),
        "solver_error": float(norm(x.double() - solution).max()),
    }


def norm(x: Tensor) -> Tensor:
    """Return the Euclidean norm of every sample, [B]."""
    return torch.linalg.vector_norm(x.double().flatten(1), dim=1)


def text(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    header = ["branch", "c", "precision", "error, n = 5", "bound", "error, n = 10", "bound", "solver: n", "its error"]
    rows = [
        [
            run["branch"],
            f"{run['c']:g}",
            run["dtype"],
            *(f"{run[key][n]:.1e}" for n in (5, 10) for key in ("errors", "bounds")),
            f"{run['solver_iterations']:.1f}, at most {run['solver_iterations_most']}",
            f"{run['solver_error']:.1e}",
        ]
        for run in sorted(results["runs"], key=lambda run: run["branch"])
    ]
    note = (
        f"Largest Euclidean errors over {results['settings']['batch']} samples of 4 x 14 x 14 normal numbers. No error "
        f"is above its bound. The worst case attains it; random branches contract faster than their constant says. "
        f"The solver stops a sample at a certified error of {TOL:g}, or where rounding allows no progress any more. "
        f"{results['machine']}."
    )
    drawn = "![Error of the inverse against iterations, with Banach's bound](inverse_error.png)"
    return _common.page("Error of the inverse", _common.table(header, rows), note, drawn)


def picture(runs: list[dict[str, Any]]) -> Figure:
    """Return errors, solid and dotted, and bounds, dashed, against iterations."""
    figure, grid = plt.subplots(1, 2, figsize=(10, 4.5), sharey=True)
    for axes, branch in zip(grid, ("random", "worst"), strict=True):
        for run in (run for run in runs if run["branch"] == branch):
            colour = plt.get_cmap("viridis")(CONSTANTS.index(run["c"]) / len(CONSTANTS))
            if run["dtype"] == "float64":
                axes.semilogy(run["errors"], color=colour, label=f"c = {run['c']:g}")
                axes.semilogy(run["bounds"], "--", color=colour)
            else:
                axes.semilogy(run["errors"], ":", color=colour)
        axes.set(xlabel="iterations", ylim=(1e-12, None), title=f"{branch} branch")
        axes.spines[["top", "right"]].set_visible(False)
    grid[0].set_ylabel("largest error (dotted: float32, dashed: bound)")
    grid[1].legend(frameon=False, loc="lower right")
    return figure


if __name__ == "__main__":
    main()
