"""Training steps of layers, blocks and flows in CUDA graphs. `pytest -m cuda`."""

import pytest
import torch
from graph_cases import CASES, Training, assert_replays_are_eager_steps

from iresnet_fast import _capture

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(autouse=True)
def _one_way():
    """Torch's convolutions may else choose an algorithm that adds up in another order each time."""
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield


@pytest.mark.parametrize("name", CASES)
def test_replays_are_eager_steps(name, device):
    assert_replays_are_eager_steps(name, device)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.bitwise])
def test_no_step_waits_for_the_gpu(name, device):
    """Eagerly too: the depths of a roulette are drawn on the CPU and copied from pinned memory."""
    if device != "cuda":
        pytest.skip("about CUDA itself")
    training = Training(CASES[name], device)
    for _ in range(2):
        training.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        training.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_captures_are_told_apart(device):
    if device != "cuda":
        pytest.skip("about CUDA itself")
    x, numbers = torch.zeros(1, device=device), []
    assert _capture.of(x) is None
    for _ in range(2):
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            numbers += [_capture.of(x), _capture.of(x)]
            x.add_(1.0)
    assert _capture.of(x) is None
    assert numbers[0] == numbers[1] != numbers[2] == numbers[3]
