"""From values that are multiples of a step to a continuous variable in the same units, by noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _checks
from .._inputs import check_floating, check_same_device, check_samples, check_shape
from ._call import Call, TakesCall
from ._transform import Transform
from .dequantize import uniform_noise


class DequantizeSteps(TakesCall, Transform):
    """z = x + step (u - 1/2) of vectors x [B, d], u uniform in (0, 1), for entries that are multiples of a step.

    The units stay those of the data, so the log-determinant is 0. The expectation over u of the log-density of z is a
    lower bound of log(probability of x / product of the steps): for steps of 1 of the log-probability itself. The
    inverse rounds to multiples of the step. Entries whose step is 0 are continuous and stay as they are. Buffer `step`
    [d] is in the state_dict.

    Args:
        steps: distances of the values, one for each entry; 0.0: the entry is continuous.
        eval_noise: outside training "fixed": uniform noise that is a function of the bits of each sample and a seed,
            so the same in any batch; "random": new noise; "half": u = 1/2, but no bound any more.
        eval_seed: of the fixed noise.
        generator: of the random noise, on the device of x; None: torch's global one.

    Raises:
        ValueError: an argument is out of range.
        TypeError: eval_seed is not an integer.
    """

    step: Tensor

    def __init__(
        self,
        steps: Sequence[float],
        eval_noise: str = "fixed",
        eval_seed: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        """Build the layer; the arguments are those of the class."""
        super().__init__()
        check_steps("steps", tuple(steps))
        if len(steps) == 0:
            raise ValueError("steps must hold one number at least, got none; pass one for each entry of x.")
        _checks.check_seed("eval_seed", eval_seed)
        _checks.check_choice("eval_noise", eval_noise, ("fixed", "random", "half"))
        self.eval_noise, self.eval_seed, self.generator = eval_noise, eval_seed, generator
        self.register_buffer("step", torch.tensor([float(step) for step in steps]))

    def forward(self, x: Tensor, context: Any = None, call: Call | None = None) -> tuple[Tensor, Tensor]:
        """Return z and the log-determinant [B], zeros; context is not used.

        Args:
            x: [B, d] of any real dtype; z has torch's default dtype if that of x is an integer one.
            context: not used.
            call: of the container, if there is one.

        Raises:
            ValueError: x does not fit.
        """
        check_samples(x)
        if x.is_complex():
            check_floating(x)
        check_shape(x, tuple(self.step.shape))
        check_same_device(x, self.step)
        x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
        return x + self.step.to(x.dtype) * self._noise(x, Call.given(call, x)), x.new_zeros(x.shape[:1])

    def inverse(self, z: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        """Return x, rounded to multiples of the steps, and the log-determinant of the inverse [B], zeros.

        x has the dtype of z, and no gradient where there is a step; context is not used.
        """
        check_floating(z, "z")
        check_shape(z, tuple(self.step.shape), "z")
        check_same_device(z, self.step, "z")
        step, width = self._steps(z)
        return torch.where(step > 0.0, (z.detach() / width).round() * step, z), z.new_zeros(z.shape[:1])

    def extra_repr(self) -> str:
        """Describe the layer in its repr."""
        return f"{len(self.step)}, eval_noise={self.eval_noise!r}"

    def _steps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the steps [d], and numbers to divide by: the same, but 1 where there is no step."""
        step = self.step.to(x.dtype)
        return step, torch.where(step > 0.0, step, 1.0)

    def _noise(self, x: Tensor, call: Call) -> Tensor | float:
        """Return numbers in (-1/2, 1/2), so that the inverse finds x again."""
        noise = uniform_noise(self, x, call)
        if noise is None:
            return 0.0
        # So near to the middle of two values that adding, dividing and rounding could find the other one.
        level = x.detach().abs() / self._steps(x)[1]
        margin = (2.0 * torch.finfo(x.dtype).eps * (level + 1.0)).clamp(max=0.5)
        return torch.maximum(torch.minimum(noise, 1.0 - margin), margin) - 0.5


def check_steps(name: str, steps: tuple[float, ...]) -> None:
    """Raise unless all steps are finite numbers that are not negative."""
    for step in steps:
        _checks.check_number(f"every number of {name}", step, "1.0, or 0.0 for a continuous entry")
        if not 0.0 <= step < math.inf:
            raise ValueError(
                f"every number of {name} must be finite and not negative, got {step}; pass 0.0 for a continuous entry."
            )
