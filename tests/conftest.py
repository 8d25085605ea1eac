import nn_models
import pytest
import torch

from iresnet_fast import _library


@pytest.fixture(autouse=True)
def _seed_and_restore():
    """Every test starts from seed 0 and may change threads, instruction set and backend: they are put back."""
    torch.manual_seed(0)
    threads, isa = torch.get_num_threads(), _library.cpu_isa()
    with _library.use_backend(_library.backend()):
        yield
    torch.set_num_threads(threads)
    if isa is not None:
        _library.set_cpu_isa(isa)


@pytest.fixture
def one_thread():
    torch.set_num_threads(1)  # tiny layers: waking a second thread costs more than it brings


@pytest.fixture
def calls(monkeypatch):
    """The number of layers of every call of ops.spectral_norm."""
    return nn_models.count_calls(monkeypatch, "spectral_norm")


@pytest.fixture
def normalisations(monkeypatch):
    """The number of layers of every call of ops.spectral_normalize."""
    return nn_models.count_calls(monkeypatch, "spectral_normalize")
