"""The log-density of a flow, as one estimate, as the mean of several, or as exactly as wanted."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor

from .. import likelihood
from .._torch_private import outside_compiled_graphs
from ..nn import Affine, Call, MultiScale, Sequential
from ..nn._survey import Survey
from ._blocks import Block
from ._norms import GroupsNorms
from ._report import LogProbReport, check_alike, check_complete, check_measurable, check_request
from ._spread import FEWEST, Spread, largest_factor
from .flow_config import FlowConfig
from .prior import DiagonalNormal
from .truncation import truncation_bound

# The place of the body in a call. The preprocessing draws what it would draw alone; it has fewer parts than this.
BODY = 1000


_MOST_PROBES = 256


class _Start(NamedTuple):
    """What the body of a flow gets."""

    u: Tensor
    context: Tensor | None
    call: Call

    def rows(self, rows: Tensor) -> _Start:
        """Return that of some of the samples."""
        return _Start(self.u[rows], None if self.context is None else self.context[rows], self.call.rows(rows))


class Density(GroupsNorms):
    """A flow as a density."""

    config: FlowConfig
    preprocessing: Sequential
    body: Sequential | MultiScale
    prior: DiagonalNormal
    context_preprocessing: Affine | None

    @overload
    def log_prob(
        self,
        x: Tensor,
        context: Tensor | None = ...,
        call: Call | None = ...,
        *,
        report: Literal[False] = ...,
        probes: int | None = ...,
        tol: float | None = ...,
        max_probes: int = ...,
    ) -> Tensor: ...

    @overload
    def log_prob(
        self,
        x: Tensor,
        context: Tensor | None = ...,
        call: Call | None = ...,
        *,
        report: Literal[True],
        probes: int | None = ...,
        tol: float | None = ...,
        max_probes: int = ...,
    ) -> LogProbReport: ...

    def log_prob(
        self,
        x: Tensor,
        context: Tensor | None = None,
        call: Call | None = None,
        *,
        report: bool = False,
        probes: int | None = None,
        tol: float | None = None,
        max_probes: int = _MOST_PROBES,
    ) -> Tensor | LogProbReport:
        """Return the log-density [B] of the data, in nats: one estimate, differentiable.

        With any of the arguments after `call` the mean of several estimates, without gradient, of a model in eval
        mode. They differ in their probes alone: the noise of `n_levels` and `noise_channels`, and what is exact of a
        log-determinant, are those of one call. The first is `log_prob(x)`, and all are functions of each sample alone,
        as in `forward`.

        Args:
            x: [B, *event_shape].
            context: as in `forward`.
            call: as in `forward`.
            report: return a LogProbReport, with the standard error, the truncation bound and the terms of each sample.
            probes: how many estimates; None: 8 for a report.
            tol: standard error wanted of each sample, in nats: the samples that need them get more probes, 8, 16, 32
                and so on, until a sample's standard error is at most tol with probability 0.95 given the spread of its
                estimates, or their number max_probes: then a warning says how many samples missed it. That is for
                Rademacher probes; with Gaussian ones, whose estimates are skewed, more samples miss it unseen.
            max_probes: estimates of a sample at most, for tol.

        Raises:
            ValueError: as in `forward`; with several estimates also a number that is out of range, a model in training
                mode, or a block that is not handed the call.
            TypeError: an argument is of another kind.
        """
        if not report and probes is None and tol is None and max_probes == _MOST_PROBES:
            z, logdet = self(x, context, call)
            log_prob: Tensor = self.latent_log_prob(z, context) + logdet
            return log_prob
        check_request(report, probes, tol, max_probes)
        if tol is None and max_probes != _MOST_PROBES:
            raise ValueError(f"max_probes must be left out without tol, got {max_probes}; pass tol, or probes.")
        check_measurable(self)
        if tol is not None:
            check_alike(self, "tol")
        with torch.no_grad():
            found, missed = self._measured(x, context, call, FEWEST if probes is None else probes, tol, max_probes)
        if missed is not None:
            warnings.warn(f"iresnet_fast: {missed}", RuntimeWarning, stacklevel=2)
        return found if report else found.log_prob

    def latent_log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the log-density [B] that the prior gives a latent [B, d]; arguments and errors as in `forward`."""
        log_prob: Tensor = self.prior.log_prob(self._latent(z), self._contexts(context, z.shape[0]))
        return log_prob

    def bits_per_dim(self, x: Tensor, context: Tensor | None = None, n_levels: int = 1) -> Tensor:
        """Return -log_prob [B] in bits for each value of the data: 784 for a 1 x 28 x 28 image.

        Args:
            x: [B, *event_shape].
            context: as in `forward`.
            n_levels: 1 if the model dequantises; else the levels of data that came as (integers + noise) / n_levels.

        Raises:
            ValueError: as `forward`, or the model dequantises and n_levels is not 1.
        """
        if self.config.n_levels is not None and n_levels != 1:
            raise ValueError(
                f"n_levels must be 1 for a model that dequantises, got {n_levels}; its {self.config.n_levels} levels "
                f"are in log_prob already."
            )
        return likelihood.bits_per_dim(self.log_prob(x, context), self.config.n_dims, n_levels)

    def truncation_bound(self) -> float:
        """Return how many bits/dim the estimates of evaluation can be off for their truncation, in the worst case.

        The sum over the blocks of theorem 3 of arXiv 1811.00995, as if every eigenvalue of every Jacobian were as large
        as coeff allows: usually far above the real bias, and above the bound of each sample in a LogProbReport. Zero
        where all estimates are exact. The variance of the probes is not in it.
        """
        blocks = [module for module in self.modules() if isinstance(module, Block)]
        return sum(truncation_bound(block) for block in blocks) / (math.log(2.0) * self.config.n_dims)

    @outside_compiled_graphs  # which would hold every round of probes
    def _measured(
        self, x: Tensor, context: Tensor | None, call: Call | None, probes: int, tol: float | None, most: int
    ) -> tuple[LogProbReport, str | None]:
        """Return the report, and in words what was missed if something was; arguments as of `log_prob`."""
        x = self._data(x)
        call = Call.given(call, x)
        start, logdet = self._start(x, context, call)
        survey = Survey(0, probes)
        z, more = self._estimated(start, survey)
        first = self.latent_log_prob(z, context) + (logdet + more)
        check_complete(self, survey)
        if survey.found is None:
            none = torch.zeros_like(first)
            return LogProbReport(first, none, none, none.long(), none.long() + 1), None
        values, bound, terms = survey.found
        rest, done = first.double() - values[0], probes
        spread = Spread(len(first), first.device)
        spread.add(slice(None), values)
        rows = torch.arange(len(first), device=first.device)
        largest = torch.zeros_like(spread.mean)
        while tol is not None:
            largest = spread.standard_error[rows] * largest_factor(spread.count[rows] - 1.0)
            missing = largest > tol
            rows, largest = rows[missing], largest[missing]
            if len(rows) == 0 or done >= most:
                break
            survey = Survey(done, min(done, most - done))
            self._estimated(start.rows(rows), survey)
            assert survey.found is not None  # as in the first round
            done += survey.count
            spread.add(rows, survey.found.values)
            bound[rows] = torch.lerp(bound[rows], survey.found.bound, survey.count / done)
            terms[rows] = torch.maximum(terms[rows], survey.found.terms)
        missed = None
        if tol is not None and len(rows):
            missed = (
                f"{len(rows)} of {len(first)} samples may have a standard error above tol, {tol:g}, after max_probes, "
                f"{most}: up to {float(largest.max()):.2g} with probability 0.95; raise one of them."
            )
        error, dtype = spread.standard_error, first.dtype
        numbers = (rest + spread.mean).to(dtype), error.to(dtype), bound.to(dtype)
        return LogProbReport(*numbers, terms, spread.count.long()), missed

    def _start(self, x: Tensor, context: Tensor | None, call: Call) -> tuple[_Start, Tensor]:
        """Return what the body gets, and the log-determinant [B] of the preprocessing."""
        u, logdet = self.preprocessing(x, call=call)
        return _Start(u, self._contexts(context, x.shape[0]), call.part(BODY)), logdet

    def _estimated(self, start: _Start, survey: Survey) -> tuple[Tensor, Tensor]:
        """Return the latent and the log-determinant [B] of the body, of the first estimate of a survey."""
        with self._grouped_norms():
            z, logdet = self.body(start.u, start.context, call=start.call.surveyed(survey))
        return z, logdet

    @abstractmethod
    def _data(self, x: Tensor) -> Tensor:
        """Return x as floating point numbers; raises if it does not fit."""

    @abstractmethod
    def _latent(self, z: Tensor) -> Tensor:
        """Return a latent; raises if it does not fit."""

    @abstractmethod
    def _contexts(self, context: Tensor | None, n: int) -> Tensor | None:
        """Return a context [n, context_features] as the networks see it."""
