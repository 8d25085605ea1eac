"""ActNorm on two ranks: both start from the statistics of the joined batch."""

import pytest
import torch
from torch import distributed, multiprocessing

from iresnet_fast import nn

SIZES = (3, 5)  # uneven, so that a mean of means would be wrong


def joined_batch():
    return torch.randn(sum(SIZES), 4, 2, 2, generator=torch.Generator().manual_seed(1)) * 3.0 + 1.0


def run(rank, store, results):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    layer = nn.ActNorm(4)
    layer(joined_batch().split(SIZES)[rank])
    empty = nn.ActNorm(4)
    empty(joined_batch()[: 8 * rank])  # rank 0 has no sample
    backwards = nn.ActNorm(4)
    backwards.inverse(joined_batch().split(SIZES)[rank])
    torch.save([layer.state_dict(), empty.state_dict(), backwards.state_dict()], f"{results}/{rank}")
    distributed.destroy_process_group()


@pytest.mark.slow  # two processes import torch
@pytest.mark.skipif(not distributed.is_gloo_available(), reason="needs gloo")
def test_ranks_agree_on_the_joined_batch(tmp_path):
    multiprocessing.spawn(run, (str(tmp_path / "store"), str(tmp_path)), nprocs=2)
    alone, backwards = nn.ActNorm(4), nn.ActNorm(4)
    alone(joined_batch())
    backwards.inverse(joined_batch())
    first, second = (torch.load(tmp_path / str(rank)) for rank in range(2))
    for layer, *states in zip((alone, alone, backwards), first, second, strict=True):
        for name, expected in layer.state_dict().items():
            assert torch.equal(states[0][name], states[1][name])
            torch.testing.assert_close(states[0][name], expected)
