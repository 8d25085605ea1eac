"""How a block estimates its log-determinant: small objects that draw the probe and the coefficients of the series."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from iresnet_fast import _capture, _checks
from iresnet_fast._inputs import check_tensor
from iresnet_fast._keys import hashed_probe, sample_keys
from iresnet_fast._traces import MOST_TERMS
from iresnet_fast._tracing import drawn_from, under_transforms

# The spacing of uniform float64 numbers in [0, 1): a geometric depth, drawn by inverting one, is no rarer than this.
_NEVER = 2.0**-53
_SIGN, _ONE = -(1 << 31), 0x3F800000  # as 32 bits: the sign of a float32 number, and the number 1.0


@dataclass(frozen=True)
class PowerSeries:
    """Truncated power series (i-ResNet, arXiv 1811.00995, section 3.2): biased, its cost fixed.

    Attributes:
        n_terms: number of terms.
        n_probes: number of probes averaged.
        probe: "rademacher" (its variance is never above the Gaussian's) or "gaussian".
        gradient: "neumann" (memory independent of n_terms) or "series" (the exact gradient of the value).
        tol: a sample stops adding terms when its tail bound is below it; None: all terms.
        eval_seed: seed of the probes outside training, where the estimate of a sample is a function of its own bits.
        exact_terms: 0, 1 or 2: in so many first terms tr J^k itself takes the place of its estimate, at any cost: in
            training of wide convolutions many times that of the series.
            "auto": in training one, of dense branches of two layers without a leading activation and batches of at
            least 512, where it takes about 3 % of a step; outside as many as take at most 1.5 times the
            multiplications of the series itself, or a control variate of the first. There a gradient stays that of the
            estimate where a trace has no closed form, and a graph of torch.compile takes fewer of those.

    Raises:
        ValueError: a field is out of range.
        TypeError: an integer field is not an integer.
    """

    n_terms: int = 10
    n_probes: int = 1
    probe: str = "rademacher"
    gradient: str = "neumann"
    tol: float | None = None
    eval_seed: int = 0
    exact_terms: int | str = "auto"

    def __post_init__(self) -> None:
        """Check the fields."""
        _checks.check_count("n_terms", self.n_terms, 1)
        _check_common(self.n_probes, self.probe, self.gradient, self.eval_seed, self.exact_terms)
        if self.tol is not None:
            _checks.check_tolerance(self.tol)

    def draw(
        self, x: Tensor, training: bool, generator: torch.Generator | None = None, keys: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the probe, the shape of x (or [n_probes, *x.shape]), and the coefficients [n_terms].

        Args:
            x: [B, *event], for its shape, dtype and device.
            training: draw from `generator`; otherwise the probe of a sample is a hash of its key and `eval_seed`.
            generator: None: torch's global one.
            keys: of the samples, [B] integers below 2^32, outside training; None: a hash of the bits of each.
        """
        check_tensor(x)
        if training:
            probe = draw_probe(x, self.n_probes, self.probe, generator)
        else:
            probe = hashed_probe(_keys_of(x, keys), x, self.n_probes, self.probe, self.eval_seed)
        return probe, torch.ones(self.n_terms, dtype=x.dtype, device=x.device)


@dataclass(frozen=True)
class RussianRoulette:
    """Unbiased power series of random length (Residual Flows, arXiv 1906.02735, section 3.1).

    In a CUDA graph the number of coefficients is fixed, `n_exact + n_captured`: each replay draws its own N, and those
    beyond are 0. The kernels compute no term after a sample's last coefficient that is not; the autograd fallback and
    the backward pass of gradient "series" compute them all.

    Attributes:
        n_exact: terms that are always there, with weight 1.
        distribution: of the number N of further terms: "geometric" on {1, 2, ...} or "poisson" on {0, 1, ...}.
        parameter: p of P(N >= m) = (1 - p)^(m - 1), or lambda; None: 0.5 or 2.0.
        n_probes: number of probes averaged.
        probe: "rademacher" (its variance is never above the Gaussian's) or "gaussian".
        gradient: "neumann" (memory independent of the number of terms) or "series".
        eval_terms: outside training, so many further terms of weight 1 instead of a random number.
        per_sample: draw N for each sample instead of once for the batch.
        eval_seed: seed of the probes outside training, where the estimate of a sample is a function of its own bits.
        exact_terms: as of `PowerSeries`; those beyond n_exact keep the random weights of the roulette.

    Raises:
        ValueError: a field is out of range.
        TypeError: an integer field is not an integer.
    """

    n_exact: int = 2
    distribution: str = "geometric"
    parameter: float | None = None
    n_probes: int = 1
    probe: str = "rademacher"
    gradient: str = "neumann"
    eval_terms: int = 20
    per_sample: bool = False
    eval_seed: int = 0
    exact_terms: int | str = "auto"

    def __post_init__(self) -> None:
        """Check the fields and fill in the parameter of the distribution."""
        _checks.check_count("n_exact", self.n_exact, 0)
        _checks.check_count("eval_terms", self.eval_terms, 0)
        _checks.check_flag("per_sample", self.per_sample)
        _check_common(self.n_probes, self.probe, self.gradient, self.eval_seed, self.exact_terms)
        if self.n_exact + self.eval_terms == 0:
            raise ValueError("n_exact + eval_terms must be at least 1, got 0; increase eval_terms.")
        if self.distribution not in ("geometric", "poisson"):
            raise ValueError(
                f"distribution must be 'geometric' or 'poisson', got {self.distribution!r}; use one of the two."
            )
        parameter = self.parameter
        if parameter is None:
            parameter = 0.5 if self.distribution == "geometric" else 2.0
            object.__setattr__(self, "parameter", parameter)
        _checks.check_number("parameter", parameter, "0.5")
        if self.distribution == "geometric" and not 0.0 < parameter < 1.0:
            raise ValueError(f"parameter must be in (0, 1) for geometric, got {parameter}; pass e.g. 0.5.")
        if not 0.0 < parameter <= 500.0:
            raise ValueError(f"parameter must be in (0, 500] for poisson, got {parameter}; pass e.g. 2.0.")

    @property
    def n_captured(self) -> int:
        """The smallest m with P(N > m) <= 2^-53, the number of further terms in a CUDA graph.

        Less than one draw in 10^15 goes deeper, so no run can tell the estimate from one without a limit. As a formula:
        all coefficients keep expectation 1, and the expectation lacks the terms after these. For a geometric N and a
        branch with Lipschitz constant L^2 < 1 - p, where the variance is finite, L^m < 2^-26.

        53 for a geometric N with p = 0.5 and 22 for a Poisson one with rate 2, of which 2 are not 0 on average.
        A branch too wide to stay on chip still launches the kernels of all of them, which find nothing to do.
        """
        assert self.parameter is not None  # set by __post_init__
        if self.distribution == "geometric":
            return math.ceil(math.log(_NEVER) / math.log1p(-self.parameter))
        depths = range(int(self.parameter), int(self.parameter) + 1000)  # from the mean on the probabilities fall
        return next(m for m in depths if _poisson_tail(self.parameter, m) <= _NEVER)

    def survival(self, n: int, device: torch.device | str = "cpu") -> Tensor:
        """Return P(N >= m) for m = 1 .. n, float64, right to about 1e-12 relative at any m.

        Args:
            n: how many.
            device: where they are computed.
        """
        assert self.parameter is not None  # set by __post_init__
        if self.distribution == "geometric":
            return torch.pow(1.0 - self.parameter, torch.arange(n, dtype=torch.float64, device=device))
        # Sums of positive terms: no digit is lost. From n on, terms fall below rounding within that many more.
        k = torch.arange(1, n + int(2.0 * self.parameter) + 80, dtype=torch.float64, device=device)
        mass = (k * math.log(self.parameter) - self.parameter - torch.lgamma(k + 1.0)).exp()
        return torch.where(k >= k[:n, None], mass, 0.0).sum(1)

    def draw(
        self, x: Tensor, training: bool, generator: torch.Generator | None = None, keys: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the probe, the shape of x (or [n_probes, *x.shape]), and the coefficients [n], or [B, n] per sample.

        Depths are drawn on the CPU unless `generator` lives elsewhere, so that their number is known without a wait.
        While a CUDA graph is captured they are drawn on the device, and n is n_exact + n_captured.

        Args:
            x: [B, *event], for its shape, dtype and device.
            training: draw from `generator`; otherwise the probe of a sample is a hash of its key and `eval_seed`, and
                there are n_exact + eval_terms terms.
            generator: None: torch's global one.
            keys: of the samples, [B] integers below 2^32, outside training; None: a hash of the bits of each.
        """
        if not training:
            probe = hashed_probe(_keys_of(x, keys), x, self.n_probes, self.probe, self.eval_seed)
            return probe, torch.ones(self.n_exact + self.eval_terms, dtype=x.dtype, device=x.device)
        probe = draw_probe(x, self.n_probes, self.probe, generator)
        captured = _capture.of(x) is not None
        device = x.device if captured else torch.device("cpu")
        depths = self._depths(x.shape[0] if self.per_sample else None, generator, device).to(device)
        n_random = self.n_captured if captured else int(torch.func.debug_unwrap(depths).max()) if depths.numel() else 0
        n_terms = max(self.n_exact + n_random, 1 if self.exact_terms == 0 else MOST_TERMS)
        survival = self.survival(n_terms - self.n_exact, device)
        coefficients = roulette_coefficients(depths, self.n_exact, survival, n_terms).to(x.dtype)
        if x.is_cuda and not captured and not torch.compiler.is_compiling():  # compilers do not know pin_memory
            coefficients = coefficients.pin_memory()  # a copy from pageable memory would wait for the device
        return probe, coefficients.to(x.device, non_blocking=True)

    def _depths(self, n_samples: int | None, generator: torch.Generator | None, device: torch.device) -> Tensor:
        assert self.parameter is not None  # set by __post_init__
        shape = () if n_samples is None else (n_samples,)
        device = device if generator is None else generator.device
        if self.distribution == "geometric":
            drawn = _geometric(self.parameter, shape, generator, device)
        else:
            rate = torch.full(shape, self.parameter, dtype=torch.float64, device=device)
            drawn = torch.poisson(rate, **drawn_from(generator))
        return drawn.to(torch.int64)


Series = PowerSeries | RussianRoulette


@dataclass(frozen=True)
class Exact:
    """The log-determinant from the full Jacobian: no probe, no series; for events of up to a few hundred dimensions."""


def _geometric(p: float, shape: tuple[int, ...], generator: torch.Generator | None, device: torch.device) -> Tensor:
    empty = torch.empty(shape, dtype=torch.float64, device=device)
    try:
        return empty.geometric_(p, **drawn_from(generator))
    except RuntimeError:
        if not under_transforms():
            raise
        # A vmap that draws for each of its members allows no draw in place: one of uniform numbers is inverted.
        uniform = torch.rand(shape, dtype=torch.float64, device=device, **drawn_from(generator))
        return 1.0 + (torch.log1p(-uniform) / math.log1p(-p)).floor()


def roulette_coefficients(depths: Tensor, n_exact: int, survival: Tensor, n_terms: int) -> Tensor:
    """Return q_k, k = 1 .. n_terms: 1 for k <= n_exact, else 1{N >= k - n_exact} / P(N >= k - n_exact).

    Args:
        depths: N, [] or [B], integer.
        n_exact: terms of weight 1.
        survival: P(N >= m) for m = 1 .. n_terms - n_exact at least; survival, not 1 - CDF, which loses every digit.
        n_terms: number of coefficients.

    Returns:
        [n_terms] or [B, n_terms], the dtype of `survival`.

    Raises:
        ValueError: survival has too few entries.
    """
    n_random = max(n_terms - n_exact, 0)
    if survival.shape[0] < n_random:
        raise ValueError(
            f"survival must have at least n_terms - n_exact = {n_random} entries, got {survival.shape[0]}; extend it."
        )
    steps = torch.arange(1, n_random + 1, device=depths.device)
    reached = depths.unsqueeze(-1) >= steps
    # where, not a product: 1 / survival overflows to infinity far out, and 0 * infinity is NaN.
    random = torch.where(reached, 1.0 / survival[:n_random], 0.0)
    ones = torch.ones(*depths.shape, n_terms - n_random, dtype=survival.dtype, device=depths.device)
    return torch.cat((ones, random), -1)


def draw_probe(x: Tensor, n_probes: int, kind: str, generator: torch.Generator | None = None) -> Tensor:
    """Return a probe shaped like x, or [n_probes, *x.shape] for more than one, of independent unit-variance entries."""
    shape = x.shape if n_probes == 1 else (n_probes, *x.shape)
    if kind == "gaussian":
        return torch.randn(shape, dtype=x.dtype, device=x.device, **drawn_from(generator))
    return draw_signs([(n_probes * x.numel(), shape)], x, generator)[0]


def draw_signs(
    wanted: Sequence[tuple[int, Sequence[int]]], like: Tensor, generator: torch.Generator | None = None
) -> list[Tensor]:
    """Return tensors of random signs in one draw; on a CPU those that a draw for each would give.

    Args:
        wanted: numbers of entries and shapes.
        like: for the dtype and device.
        generator: None: torch's global one.
    """
    # A random number for every 32 signs: each of its bits becomes the sign bit of a float32 one.
    n_words, shifts = [-(-n // 32) for n, _ in wanted], torch.arange(32, dtype=torch.int32, device=like.device)
    size = (sum(n_words), 1)
    words = torch.randint(_SIGN, -_SIGN, size, dtype=torch.int32, device=like.device, **drawn_from(generator))
    signs = (words << shifts).bitwise_and_(_SIGN).bitwise_or_(_ONE).view(torch.float32).flatten().to(like.dtype)
    starts = itertools.accumulate(n_words, initial=0)
    return [signs[32 * start : 32 * start + n].view(shape) for start, (n, shape) in zip(starts, wanted, strict=False)]


def _keys_of(x: Tensor, keys: Tensor | None) -> Tensor:
    """Return the keys of the samples of x: those given, or hashes of their bits."""
    if keys is None:
        return sample_keys(x)
    if keys.shape != x.shape[:1]:
        raise ValueError(f"keys must have shape {tuple(x.shape[:1])}, got {tuple(keys.shape)}; pass one a sample.")
    return keys


def _poisson_tail(rate: float, m: int) -> float:
    """Return a bound on P(N > m), m + 2 > rate: its first term and a geometric series, ratio rate / (m + 2)."""
    first = math.exp((m + 1) * math.log(rate) - rate - math.lgamma(m + 2))
    return first / (1.0 - rate / (m + 2))


def _check_common(n_probes: int, probe: str, gradient: str, eval_seed: int, exact_terms: int | str) -> None:
    _checks.check_count("n_probes", n_probes, 1)
    _checks.check_seed("eval_seed", eval_seed)
    _checks.check_gradient(gradient)
    if exact_terms != "auto":
        if isinstance(exact_terms, str):
            raise ValueError(f"exact_terms must be 'auto', 0, 1 or 2, got {exact_terms!r}; use one of them.")
        _checks.check_exact_terms(exact_terms, 0)
    if probe not in ("rademacher", "gaussian"):
        raise ValueError(f"probe must be 'rademacher' or 'gaussian', got {probe!r}; use one of the two.")
