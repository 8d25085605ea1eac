"""What flows are compared with on tables: a Gaussian, a mixture of ten, and the residual flow of normflows."""

from __future__ import annotations

import copy
import time
from typing import NamedTuple

import normflows as nf
import torch
from rich.progress import Progress
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn

from iresnet_fast.training.table_sizes import TableSizes

COMPONENTS = 10
REGULARISATIONS = (1e-3, 1e-2, 1e-1)  # of whitened rows; the one that is best on rows held out
EVERY, PATIENCE = 50, 12  # as our recipe has it: steps from one evaluation to the next, and how many without a gain


class Parts(NamedTuple):
    """Rows [n, d] float64: all to train on, those of them to fit and to choose by, and those to test on."""

    train: Tensor
    fit: Tensor
    held_out: Tensor
    test: Tensor


def gaussian(train: Tensor, noise: Tensor) -> torch.distributions.MultivariateNormal:
    """Return the Gaussian of rows [n, d] that get noise of a variance [d]."""
    covariance = torch.cov(train.T, correction=0).reshape(len(noise), -1) + noise.diag()
    return torch.distributions.MultivariateNormal(train.mean(0), covariance)


def mixture(parts: Parts, law: torch.distributions.MultivariateNormal, seed: int) -> Tensor:
    """Return the log-densities [m] of the test rows under a mixture fitted to rows that a Gaussian has whitened."""

    def white(rows: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(law.scale_tril, (rows - law.mean).T, upper=False).T

    def fitted(rows: Tensor, regularisation: float) -> GaussianMixture:
        n = min(COMPONENTS, len(rows))
        return GaussianMixture(n, reg_covar=regularisation, random_state=seed).fit(white(rows).numpy())

    held_out = white(parts.held_out).numpy()
    best = max(REGULARISATIONS, key=lambda value: fitted(parts.fit, value).score(held_out))
    found = torch.from_numpy(fitted(parts.train, best).score_samples(white(parts.test).numpy()))
    result: Tensor = found - law.scale_tril.diagonal().log().sum()
    return result


def residual_flow(parts: Parts, sizes: TableSizes, seconds: float, seed: int) -> tuple[Tensor, int]:
    """Return the log-densities [m] of the test rows under normflows' residual flow, and the steps it took.

    Blocks as in the package's own example, of which there are as many and as wide as of ours, on standardised rows; the
    model is the best one on the rows held out. It trains for so many seconds, or until patience ends it.
    """
    torch.manual_seed(seed)
    centre, scale = parts.train.mean(0), parts.train.std(0, correction=0)
    fit, held_out, test = (((part - centre) / scale).float() for part in parts[1:])
    d = fit.shape[1]
    flows: list[nn.Module] = []
    for _ in range(sizes.blocks):
        net = nf.nets.LipschitzMLP([d, *sizes.hidden, d], lipschitz_const=0.9, init_zeros=True)
        flows += [nf.flows.Residual(net, reduce_memory=True), nf.flows.ActNorm((d,))]
    model = nf.NormalizingFlow(nf.distributions.DiagGaussian(d, trainable=False), flows)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, weight_decay=1e-5)
    best, value, steps, worse, began = None, -torch.inf, 0, 0, time.monotonic()
    with Progress(transient=True) as progress:
        task = progress.add_task("normflows", total=seconds)
        while (used := time.monotonic() - began) < seconds and worse < PATIENCE:
            progress.update(task, completed=used)
            rows = fit[torch.randint(len(fit), (min(sizes.batch_size, len(fit)),))]
            loss = model.forward_kld(rows)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            nf.utils.update_lipschitz(model, 5)
            steps += 1
            if steps % EVERY == 1:
                score = float(exact_log_prob(model, held_out).mean())
                worse = 0 if score > value else worse + 1
                if worse == 0:
                    best, value = copy.deepcopy(model), score
    return exact_log_prob(best or model, test).double() - scale.log().sum(), steps


def exact_log_prob(model: nf.NormalizingFlow, x: Tensor) -> Tensor:
    """Return log-densities [n] with the exact Jacobians of the blocks: normflows' own are estimates."""
    total = torch.zeros(len(x))
    for flow in reversed(model.flows):
        if isinstance(flow, nf.flows.Residual):
            x = x.detach().requires_grad_()
            change = flow.iresblock.nnet(x)
            rows = [torch.autograd.grad(column.sum(), x, retain_graph=True)[0] for column in change.T]
            total += torch.linalg.slogdet(torch.eye(x.shape[1]) + torch.stack(rows, 1))[1]
            x = (x + change).detach()
        else:
            with torch.no_grad():
                x, logdet = flow.inverse(x)
                total += logdet
    with torch.no_grad():
        result: Tensor = total + model.q0.log_prob(x)
    return result
