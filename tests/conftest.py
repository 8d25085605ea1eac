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
