"""The configuration of a classifier."""

from __future__ import annotations

from dataclasses import dataclass

from .. import _checks
from ..solvers import FixedPoint
from ._config import Config, check_activation, check_coeff, check_counts, check_parts, register
from .flow_config import check_kernel_sizes


@register
@dataclass(frozen=True)
class ClassifierConfig(Config):
    """What an IResNetClassifier is built from.

    Attributes:
        image_shape: (C, H, W) of the data.
        n_classes: number of classes.
        blocks: number of residual blocks at each scale. Every scale after the first begins with a 2 x 2 squeeze.
        hidden: channels between the layers of a branch, one number for each scale.
        kernel_sizes: of the three layers of a branch.
        activation: a name of `iresnet_fast.activations`.
        preactivation: whether the branches but that of the first block begin with the activation.
        coeff: bound on the spectral norm of every layer; None: no bound, an ordinary residual network.
        strict: whether norms are upper bounds at every step, see nn.SpectralConv2d.
        power_iterations: n_iterations of the spectral layers, see nn.SpectralLinear: Lanczos steps of those not small.
        power_tolerance: tol of the spectral layers.
        border: zero pixels added on every side of the images.
        squeeze_first: begin the first scale with a squeeze as well.
        padding_channels: zero channels appended after it (injective padding).
        actnorm: an ActNorm before every block.
        solver: of the inverse.
        n_levels: of images of integers, which become x / (n_levels - 1) - 1/2; None: `fit` takes those of the data.

    Raises:
        ValueError: a field is out of range.
        TypeError: a field has the wrong type.
    """

    image_shape: tuple[int, int, int]
    n_classes: int
    blocks: tuple[int, ...] = (7, 7, 7)
    hidden: tuple[int, ...] = (32, 64, 128)
    kernel_sizes: tuple[int, ...] = (3, 1, 3)
    activation: str = "elu"
    preactivation: bool = True
    coeff: float | None = 0.9
    strict: bool = False
    power_iterations: int = 16
    power_tolerance: float | None = 5e-5
    border: int = 0
    squeeze_first: bool = False
    padding_channels: int = 0
    actnorm: bool = True
    solver: FixedPoint = FixedPoint(tol=1e-4)  # noqa: RUF009  # frozen
    n_levels: int | None = None

    def __post_init__(self) -> None:
        """Turn lists into tuples and check the fields."""
        self._freeze()
        check_counts("image_shape", self.image_shape, 1, 3)
        check_counts("blocks", self.blocks, 0)
        check_counts("hidden", self.hidden, 1, len(self.blocks))
        check_kernel_sizes(self.kernel_sizes, True, (0, 0))
        for argument, value, least in (
            ("n_classes", self.n_classes, 2),
            ("power_iterations", self.power_iterations, 1),
            ("border", self.border, 0),
            ("padding_channels", self.padding_channels, 0),
        ):
            _checks.check_count(argument, value, least)
        check_activation(self.activation, may_double=False)
        if self.coeff is not None:
            check_coeff(self.coeff, "pass e.g. 0.9, or None for no bound")
        if self.power_tolerance is not None:
            _checks.check_tolerance(self.power_tolerance)
        if self.n_levels is not None:
            _checks.check_count("n_levels", self.n_levels, 2)
        check_parts({}, self.solver)
        n_squeezes = len(self.blocks) - (not self.squeeze_first)
        _, height, width = (size + 2 * self.border for size in self.image_shape)
        if height % 2**n_squeezes or width % 2**n_squeezes:
            raise ValueError(
                f"image_shape must have a height and width divisible by {2**n_squeezes} with their border, for "
                f"{n_squeezes} squeezes, got {(height, width)}; change border or use fewer scales."
            )


CLASSIFIERS = {
    # The recipe of this project for a few minutes on two cores.
    "mnist": ClassifierConfig(
        image_shape=(1, 28, 28),
        n_classes=10,
        blocks=(2, 3, 3),
        hidden=(32, 32, 32),
        preactivation=False,
        border=2,
        squeeze_first=True,
        padding_channels=4,
    ),
    "digits": ClassifierConfig(
        image_shape=(1, 8, 8),
        n_classes=10,
        blocks=(3, 3),
        hidden=(32, 32),
        preactivation=False,
        squeeze_first=True,
        padding_channels=4,
    ),
    # i-ResNet, arXiv 1811.00995, and the scripts published with it.
    "mnist_paper": ClassifierConfig((1, 28, 28), 10, border=2, padding_channels=15),
    "cifar10": ClassifierConfig((3, 32, 32), 10, padding_channels=13),
    "cifar100": ClassifierConfig((3, 32, 32), 100, padding_channels=13),
}
