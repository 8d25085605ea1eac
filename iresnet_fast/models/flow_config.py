"""The configuration of a density model."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .. import _checks
from ..nn.block import Estimator
from ..nn.dequantize_steps import check_steps
from ..solvers import FixedPoint
from ._branches import BRANCHES, BranchKind, names_with
from ._config import Config, check_activation, check_choice, check_coeff, check_counts, check_parts, register


@register
@dataclass(frozen=True)
class FlowConfig(Config):
    """What an IResNetFlow is built from. The defaults are those of a small model of feature vectors.

    Attributes:
        event_shape: shape of one sample of the data: (d,), (C, H, W) for images, or (C, L) for signals, which are
            images of height 1 inside.
        blocks: number of residual blocks at each scale; vectors have one scale. Every scale after the first begins
            with a squeeze: of 2 x 2 pixels, of 2 values of a signal.
        hidden: widths, or channels, between the layers of a branch that is not dense.
        kernel_sizes: of the layers of a convolutional branch, one more than `hidden`; of a dense branch the first
            counts.
        branch: "residual": a chain of layers; "dense": every stage also sees what came before (i-DenseNet);
            "induced": a chain bounded in another norm (as in Residual Flows), by an upper bound at every step.
        norm: of an induced branch, "1", "2" or "inf".
        growth: outputs of each stage of a dense branch.
        depth: stages of a dense branch.
        activation: a name of `iresnet_fast.activations`; not "clipswish" with a context.
        preactivation: whether the residual branches but the very first begin with the activation.
        coeff: bound on the spectral norm of every layer.
        zero_init: every branch starts as zero, by its last layer. With preprocess="whiten" a flow that is not trained
            then is the normal density with the mean and covariance of the data of `fit_preprocessing`.
        normalize: "layers": by norms that are followed in training and known outside it; "strict": by upper bounds at
            every step, see nn.SpectralLinear; "branch", for residual branches of vectors without a context: so that the
            bound of each branch is the product of the coeffs, see nn.ResidualBranch.
        power_iterations: n_iterations of the spectral layers, see nn.SpectralLinear: Lanczos steps of those not small.
        power_tolerance: tol of the spectral layers.
        squeeze_first: begin the first scale with a squeeze as well.
        factor_out: let half of the channels go after every scale but the last.
        actnorm: an ActNorm before every block.
        final_actnorm: and one at the end.
        conditional_actnorm: both depend on the context.
        linear: an invertible 1 x 1 map of the channels before every block.
        fc_blocks: number of fully connected blocks after the last scale, never dense, with "lipswish" for "clipswish".
        fc_hidden: widths between the layers of those.
        noise_channels: channels of Gaussian noise appended to the data; log_prob is then a lower bound.
        n_levels: the data are whole numbers below it, to be dequantised; None: they are continuous.
        dequantize: of vectors: distance of the values of each entry, to be dequantised in the units of the data; 0.0:
            the entry is continuous; (): all of them are.
        preprocess: of the (dequantised) data: "none"; "center": x - 1/2; "logit", for data in [0, 1]; "standardize":
            mean 0 and variance 1 for every entry, from `fit_preprocessing(data)`; "whiten", for vectors: mean 0 and the
            identity as covariance, from there too.
        alpha: of the logit.
        prior: "learned": normal with a learned mean and scale for each dimension; "conditional": these depend on the
            context; "standard": standard normal.
        context_features: width of the context; 0: there is none.
        context_hidden: width of the networks that embed the context.
        context_mode: "add", "concat" or "multiply", as in nn.ConditionalBranch.
        context_preprocess: of the context: "none"; "standardize": mean 0 and variance 1 for every entry, from
            `fit_preprocessing(data, context)`.
        train_estimator: of the log-determinants in training; None: Exact for up to 16 dimensions, else ten terms.
        eval_estimator: outside training; None: Exact for up to 64 dimensions, else 20 terms.
        solver: of the inverse.

    Raises:
        ValueError: a field is out of range.
        TypeError: a field has the wrong type.
    """

    event_shape: tuple[int, ...]
    blocks: tuple[int, ...] = (8,)
    hidden: tuple[int, ...] = (64, 64)
    kernel_sizes: tuple[int, ...] = (3, 1, 3)
    branch: str = "residual"
    norm: str = "inf"
    growth: int = 16
    depth: int = 3
    activation: str = "elu"
    preactivation: bool = False
    coeff: float = 0.9
    zero_init: bool = False
    normalize: str = "layers"
    power_iterations: int = 16
    power_tolerance: float | None = 5e-5
    squeeze_first: bool = False
    factor_out: bool = False
    actnorm: bool = True
    final_actnorm: bool = False
    conditional_actnorm: bool = False
    linear: bool = False
    fc_blocks: int = 0
    fc_hidden: tuple[int, ...] = (128, 128)
    noise_channels: int = 0
    n_levels: int | None = None
    dequantize: tuple[float, ...] = ()
    preprocess: str = "none"
    alpha: float = 0.05
    prior: str = "learned"
    context_features: int = 0
    context_hidden: int = 64
    context_mode: str = "add"
    context_preprocess: str = "none"
    train_estimator: Estimator | None = None
    eval_estimator: Estimator | None = None
    solver: FixedPoint = FixedPoint()  # noqa: RUF009  # frozen

    def __post_init__(self) -> None:
        """Turn lists into tuples and check the fields."""
        self._freeze()
        if not isinstance(self.event_shape, tuple) or len(self.event_shape) not in (1, 2, 3):
            raise ValueError(f"event_shape must be (d,), (C, L) or (C, H, W), got {self.event_shape!r}; change it.")
        check_counts("event_shape", self.event_shape, 1)
        check_counts("blocks", self.blocks, 0)
        check_counts("hidden", self.hidden, 1)
        check_counts("fc_hidden", self.fc_hidden, 1)
        for argument, value, least in (
            ("growth", self.growth, 1),
            ("depth", self.depth, 1),
            ("power_iterations", self.power_iterations, 1),
            ("fc_blocks", self.fc_blocks, 0),
            ("noise_channels", self.noise_channels, 0),
            ("context_features", self.context_features, 0),
            ("context_hidden", self.context_hidden, 1),
            ("n_levels", 2 if self.n_levels is None else self.n_levels, 2),
        ):
            _checks.check_count(argument, value, least)
        check_choice("branch", self.branch, tuple(BRANCHES))
        kind = BRANCHES[self.branch]
        check_choice("normalize", self.normalize, ("layers", "strict", "branch"))
        check_choice("norm", self.norm, ("1", "2", "inf"))
        check_choice("preprocess", self.preprocess, ("none", "center", "logit", "standardize", "whiten"))
        check_choice("prior", self.prior, ("learned", "conditional", "standard"))
        check_choice("context_mode", self.context_mode, ("add", "concat", "multiply"))
        check_choice("context_preprocess", self.context_preprocess, ("none", "standardize"))
        check_coeff(self.coeff)
        if self.power_tolerance is not None:
            _checks.check_tolerance(self.power_tolerance)
        if not 0.0 <= self.alpha < 0.5:
            raise ValueError(f"alpha must be in [0, 0.5), got {self.alpha}; pass e.g. 0.05.")
        check_parts({"train_estimator": self.train_estimator, "eval_estimator": self.eval_estimator}, self.solver)
        self._check_vectors()
        self._check_scales()
        self._check_context(kind)
        check_activation(self.activation, not self.context_features, " with a context")
        if self.normalize == "branch" and (not kind.scales_whole or self.context_features or self.has_grid):
            raise ValueError(
                "normalize must be 'layers' or 'strict' for images, signals, a context and branches that are not "
                "residual, got 'branch'; use 'strict'."
            )

    @property
    def n_dims(self) -> int:
        """Number of values in one sample of the data."""
        return math.prod(self.event_shape)

    @property
    def is_image(self) -> bool:
        """Whether the data are images."""
        return len(self.event_shape) == 3

    @property
    def has_grid(self) -> bool:
        """Whether the data are images or signals, for which the branches are convolutions."""
        return len(self.event_shape) > 1

    @property
    def inner_shape(self) -> tuple[int, ...]:
        """Shape of the data inside: (d,), (C, H, W), or (C, 1, L) for signals."""
        return self.event_shape if len(self.event_shape) != 2 else (self.event_shape[0], 1, self.event_shape[1])

    @property
    def squeeze_factors(self) -> int | tuple[int, int]:
        """Rows and columns that a squeeze joins."""
        return 2 if self.is_image else (1, 2)

    def _check_context(self, kind: BranchKind) -> None:
        for argument, is_conditional in (
            ("conditional_actnorm must be False", self.conditional_actnorm),
            ("prior must not be 'conditional'", self.prior == "conditional"),
            ("context_preprocess must be 'none'", self.context_preprocess != "none"),
        ):
            if is_conditional and not self.context_features:
                raise ValueError(
                    f"{argument} without a context, got context_features = 0; set the width of the context."
                )
        if self.conditional_actnorm and not (self.actnorm or self.final_actnorm):
            raise ValueError("conditional_actnorm must be False for a flow without an ActNorm, got True; set actnorm.")
        if self.context_features and not any(self.blocks) and not self.fc_blocks:
            raise ValueError(
                f"context_features must be 0 for a flow without residual blocks, got {self.context_features}; add some."
            )
        if self.context_features and self.context_mode == "concat" and any(self.blocks) and len(self.hidden) < 2:
            raise ValueError(
                f"hidden must have two widths at least for context_mode 'concat', got {self.hidden}; add one."
            )
        if self.context_features and not kind.takes_context:
            raise ValueError(
                f"context_features must be 0 for {self.branch} branches, got {self.context_features}; use "
                f"{names_with('takes_context')}."
            )

    @property
    def starts_normal(self) -> bool:
        """Whether a flow that is not trained is the normal density of the data."""
        return self.zero_init and self.preprocess == "whiten"

    def _check_vectors(self) -> None:
        if self.preprocess == "whiten" and len(self.event_shape) != 1:
            raise ValueError(
                f"preprocess must not be 'whiten' for events of shape {self.event_shape}, got that; use 'standardize'."
            )
        if not isinstance(self.dequantize, tuple):
            raise TypeError(f"dequantize must be a tuple of numbers, got {self.dequantize!r}; pass one for each entry.")
        check_steps("dequantize", self.dequantize)
        if self.dequantize and (len(self.dequantize),) != self.event_shape:
            raise ValueError(
                f"dequantize must hold a number for each entry of vectors of shape {self.event_shape}, got "
                f"{len(self.dequantize)}; change it, or leave it out."
            )
        if self.dequantize and self.n_levels is not None:
            raise ValueError(
                f"dequantize must be left out for data of n_levels, {self.n_levels}, got steps as well; choose one."
            )

    def _check_scales(self) -> None:
        if not self.has_grid:
            if len(self.blocks) != 1 or self.squeeze_first or self.factor_out:
                raise ValueError(
                    f"vectors must have one scale, without squeeze_first and factor_out, got blocks = {self.blocks}; "
                    f"pass one number, or images."
                )
            return
        check_kernel_sizes(self.kernel_sizes, BRANCHES[self.branch].is_chain, self.hidden)
        n_squeezes = len(self.blocks) - (not self.squeeze_first)
        if any(size % 2**n_squeezes for size in self.event_shape[1:]):
            sizes = "a height and width" if self.is_image else "a length"
            raise ValueError(
                f"event_shape must have {sizes} divisible by {2**n_squeezes} for {n_squeezes} squeezes, got "
                f"{self.event_shape}; pad the data or use fewer scales."
            )
        halves = self.factor_out and len(self.blocks) > 1
        if halves and self.event_shape[0] + self.noise_channels == 1 and not self.squeeze_first:
            raise ValueError(
                "factor_out must be False for one channel without squeeze_first, got True; there is no half of it to "
                "let go."
            )


def check_kernel_sizes(kernel_sizes: tuple[int, ...], is_chain: bool, hidden: tuple[int, ...]) -> None:
    """Raise ValueError unless there is an odd size for each layer, of a branch that is not a chain for the first."""
    check_counts("kernel_sizes", kernel_sizes, 1, len(hidden) + 1 if is_chain else None)
    if any(size % 2 == 0 for size in kernel_sizes):
        raise ValueError(f"kernel_sizes must be odd, got {kernel_sizes}; change them.")
