"""Where our step spends its time: its operators, recorded once, called again on the same tensors and timed alone.

What the operators' own work does not explain is glue: Python, autograd's bookkeeping, dispatch, views. Calling an
operator costs something that is none of its work, as much as calling one that does nothing; that is taken off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

SPECTRAL, FORWARD, BACKWARD = "spectral norm", "branch and log-det", "branch and log-det, backward"
LAYERS, OPTIMIZER, DATA = "other layers", "clip and Adam", "data and noise"
SECTIONS = (SPECTRAL, FORWARD, BACKWARD, LAYERS, OPTIMIZER, DATA)
_SECTIONS = {
    "branch": FORWARD,
    "residual_flow": FORWARD,
    "residual_logdet": FORWARD,
    "residual_logdet_exact": FORWARD,
    "residual_logdet_exact_backward": BACKWARD,
    "jacobian": FORWARD,
    "jacobian_powers": BACKWARD,
    "branch_backward": BACKWARD,
    "residual_flow_backward": BACKWARD,
    "lanczos_norm": SPECTRAL,
    "fingerprint": SPECTRAL,
}
_CALLS = 1000  # of the operator that does nothing


class Recorder(TorchDispatchMode):
    """Records every operator that computes, with the section it belongs to; as a function it takes a step's marks."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, Any, tuple[Any, ...], dict[str, Any]]] = []
        self._section = LAYERS

    def __call__(self, phase: str) -> None:
        """Take note of the phase of the step."""
        self._section = phase if phase in (DATA, OPTIMIZER) else LAYERS

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Record a call and make it."""
        section, name = self._section, func._schema.name.split("::")[1]
        if func.namespace == "iresnet_fast":
            section = SPECTRAL if "spectral" in name else _SECTIONS.get(name, section)
        if func.namespace != "profiler":
            self.calls.append((section, func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))

    def draws(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return the probes and the coefficients of all series, of blocks in a run and of those called alone."""
        found: list[Tensor] = []
        for _, func, args, kwargs in self.calls:
            named = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
            if func._schema.name == "iresnet_fast::residual_flow":
                found += named["draws"]
            elif func._schema.name == "iresnet_fast::residual_logdet":
                found += named["probe"], named["coefficients"]
        return found[::2], found[1::2]

    @contextmanager
    def counting_as(self, section: str, *modules: nn.Module) -> Iterator[None]:
        """Put what these modules do in forward into a section."""
        before = self._section

        def enter(*_: Any) -> None:
            self._section = section

        def leave(*_: Any) -> None:
            self._section = LAYERS

        hooks = [h for m in modules for h in (m.register_forward_pre_hook(enter), m.register_forward_hook(leave))]
        try:
            yield
        finally:
            self._section = before
            for hook in hooks:
                hook.remove()


def replays(recorder: Recorder) -> dict[str, Callable[[], object]]:
    """Return for each section a function that calls its operators again, and for "" one that does nothing so often."""

    def again(section: str) -> Callable[[], object]:
        calls = [(func, args, kwargs) for name, func, args, kwargs in recorder.calls if name == section]

        @torch.no_grad()
        def run() -> None:
            # The results live as long as the step would keep them: else all would be written into the same memory.
            _ = [func(*args, **kwargs) for func, args, kwargs in calls]

        return run

    one = torch.zeros(1)
    calls_of_nothing = [(torch.ops.aten.alias.default, (one,), {})] * _CALLS

    @torch.no_grad()
    def nothing() -> None:
        _ = [func(*args, **kwargs) for func, args, kwargs in calls_of_nothing]

    return {section: again(section) for section in SECTIONS} | {"": nothing}


def work(recorder: Recorder, seconds: dict[str, float]) -> dict[str, float]:
    """Return the seconds of the operators of each section without those of calling them.

    Args:
        recorder: whose calls were replayed.
        seconds: of the functions of `replays`.
    """
    call = seconds[""] / _CALLS
    return {
        section: max(0.0, seconds[section] - call * sum(name == section for name, *_ in recorder.calls))
        for section in SECTIONS
    }
