import pytest
import torch

from iresnet_fast import reference

from . import operands

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SIZES = [1, 2, 3, 4, 5, 7, 8, 9, 63, 64, 65, 511, 513, 1030]


@pytest.mark.parametrize("dtype", DTYPES)
def test_matches_reference_to_the_bit(emulator, dtype):
    weights = [torch.randn(size).to(dtype) for size in SIZES]
    expected = reference.fingerprint(weights)
    assert torch.equal(operands.fingerprint(emulator, weights), expected)
    shifted = [torch.cat((w.new_zeros(1), w))[1:] for w in weights]  # aligned to an element only
    assert torch.equal(operands.fingerprint(emulator, shifted), expected)
    assert [launch.kernel for launch in emulator.launches] == ["hash_bytes"]


def test_many_layers_over_many_blocks(emulator):
    """More layers than one kernel argument holds, one of several blocks, and one without elements."""
    weights = [torch.randn(50_000), torch.randn(0), *(torch.randn(3) for _ in range(300))]
    assert torch.equal(operands.fingerprint(emulator, weights), reference.fingerprint(weights))
    assert len(emulator.launches) == 2
