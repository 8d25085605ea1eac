"""Numbers drawn from hashes of samples: which bits they depend on, and that they are as good as random ones."""

import math

import pytest
import torch

from iresnet_fast import _keys

pytestmark = pytest.mark.usefixtures("one_thread")

N = 100_000


def rows(kind):
    """N samples of a kind in which a poor hash finds much that is alike."""
    generator = torch.Generator().manual_seed(0)
    if kind == "numbers":
        return torch.randn(N, 3, generator=generator)
    if kind == "nearly the same":
        return torch.randn(16, generator=generator) + 1e-6 * torch.randn(N, 16, generator=generator)
    if kind == "bytes":
        return torch.randint(0, 256, (N, 16), generator=generator).float()
    if kind == "signs":
        return torch.randint(0, 2, (N, 64), generator=generator) * 2.0 - 1.0
    if kind == "counted":
        return torch.arange(N).float()[:, None].expand(N, 4)
    side = math.isqrt(N)
    return torch.cartesian_prod(torch.arange(side).float(), torch.arange(side).float())


def test_no_samples_have_no_keys():
    for event in ((1,), (4,), (1, 1, 1)):
        assert _keys.sample_keys(torch.zeros(0, *event)).shape == (0,)


KINDS = ["numbers", "nearly the same", "bytes", "signs", "counted", "grid"]


@pytest.mark.parametrize("kind", KINDS)
def test_samples_that_differ_have_keys_that_do(kind):
    x = rows(kind)
    n = x.unique(dim=0).shape[0]
    keys = _keys.sample_keys(x)
    assert int(keys.min()) >= 0
    assert int(keys.max()) < 2**32
    expected = n * n / 2.0**33  # of pairs among keys drawn at random: Poisson
    assert n - keys.unique().numel() < expected + 6.0 * math.sqrt(expected) + 3.0


def test_equal_numbers_have_equal_keys():
    whole = torch.randint(0, 256, (5, 2, 3))
    keys = _keys.sample_keys(whole)
    for dtype in (torch.uint8, torch.int32, torch.float32, torch.float64):
        assert torch.equal(_keys.sample_keys(whole.to(dtype)), keys)
    x = torch.randn(4, 6)
    x[1] = 0.0
    keys = _keys.sample_keys(x)
    assert torch.equal(_keys.sample_keys(torch.where(x == 0.0, -0.0, x)), keys)
    assert torch.equal(_keys.sample_keys(x.double()), keys)
    assert torch.equal(_keys.sample_keys(x.t().contiguous().t()), keys)
    assert torch.equal(_keys.sample_keys(x.flip(0)), keys.flip(0))
    assert torch.equal(torch.cat([_keys.sample_keys(row[None]) for row in x]), keys)


def test_every_bit_and_place_counts():
    x = torch.randn(1, 40, dtype=torch.float64)
    bits = x.view(torch.int64)
    others = torch.cat([bits ^ (1 << bit) for bit in range(52)]).view(torch.float64)
    swapped = x[:, torch.cat((torch.tensor([1, 0]), torch.arange(2, 40)))]
    keys = torch.cat([_keys.sample_keys(rows) for rows in (x, others, swapped)])
    assert keys.unique().numel() == keys.numel()
    # Half of the bits of a key change with any bit of a sample.
    flips = (keys[0] ^ keys[1:53])[:, None] >> torch.arange(32) & 1
    assert 0.4 < float(flips.double().mean()) < 0.6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("probe", ["rademacher", "gaussian"])
def test_probes_are_white(kind, probe):
    """Mean 0, variance 1, uncorrelated: between entries, between the parts of a model and between samples."""
    keys, like = _keys.sample_keys(rows(kind).unique(dim=0)[:50_000]), torch.empty(50_000, 6)
    like = like[: keys.numel()]
    drawn = torch.cat(
        [_keys.hashed_probe(part, like, 1, probe, seed) for part in (keys, _keys.mixed(keys, 1)) for seed in (0, 1)], 1
    )
    n = drawn.shape[0]
    covariance = drawn.T @ drawn / n
    off = covariance - torch.diag(covariance.diagonal())
    worst = 5.5 / math.sqrt(n)  # standard deviations; of 24 * 24 entries one in 10^5 runs is beyond
    assert float(off.abs().max()) < worst
    assert float(drawn.mean(0).abs().max()) < worst
    assert float((covariance.diagonal() - 1.0).abs().max()) < math.sqrt(2.0) * worst
    neighbours = (drawn[1:] * drawn[:-1]).mean(0)
    assert float(neighbours.abs().max()) < worst


def test_many_probes_are_independent():
    keys, like = torch.arange(20_000), torch.empty(20_000, 3)
    probes = _keys.hashed_probe(keys, like, 4, "rademacher", 7)
    assert probes.shape == (4, 20_000, 3)
    flat = probes.permute(1, 0, 2).flatten(1)
    covariance = flat.T @ flat / 20_000
    assert float((covariance - torch.eye(12)).abs().max()) < 5.5 / math.sqrt(20_000)


def test_uniform_and_normal_numbers():
    keys = _keys.row_keys(3, 0, N, torch.device("cpu"))
    uniform = _keys.hashed_uniform(keys[0], torch.empty(N, 2, dtype=torch.float64), 0)
    assert 0.0 < float(uniform.min()) < 1e-3
    assert 1.0 - 1e-3 < float(uniform.max()) < 1.0
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        narrow = _keys.hashed_uniform(keys, torch.empty(N, 2, dtype=dtype), 0)
        assert 0.0 < float(narrow.min())
        assert float(narrow.max()) < 1.0
    normal = _keys.hashed_normal(keys, (2,), torch.float64)
    for numbers in (uniform, 0.5 * (1.0 + torch.erf(normal / math.sqrt(2.0)))):
        ordered = numbers.sort(0).values
        ideal = (torch.arange(N, dtype=torch.float64) + 0.5)[:, None] / N
        assert float((ordered - ideal).abs().max()) < 2.5 / math.sqrt(N)  # Kolmogorov-Smirnov: one in 10^5
    assert float(normal.abs().max()) > 4.0


def test_rows_of_a_seed_are_numbered():
    device = torch.device("cpu")
    whole = _keys.row_keys(11, 0, 10, device)
    assert torch.equal(torch.cat((_keys.row_keys(11, 0, 3, device), _keys.row_keys(11, 3, 7, device)), 1), whole)
    assert torch.equal(_keys.row_keys(torch.tensor(11), 0, 10, device), whole)
    seeds = [0, 1, 2**31, 2**32, 2**32 + 1, 2**61, 2**62 + 5]
    drawn = [_keys.row_keys(seed, first, 10, device) for seed in seeds for first in (0, 1 << 32, 1 << 40)]
    assert torch.cat(drawn, 1).unique().numel() == 60 * len(seeds)


def test_no_two_of_many_rows_are_alike():
    """Of half a million keys of 32 bits some thirty would be."""
    seeds = torch.randint(1 << 62, (20,), generator=torch.Generator().manual_seed(0)).tolist()
    keys = torch.cat([_keys.row_keys(seed, 0, 25_000, torch.device("cpu")) for seed in seeds], 1)
    assert keys[0].unique().numel() < keys.shape[1]
    assert _keys.hashed_normal(keys, (3,), torch.float64).unique(dim=0).shape[0] == keys.shape[1]


def test_transforms_and_compilers_see_the_same_numbers():
    x = torch.randn(3, 4)
    draw = lambda x: _keys.hashed_probe(_keys.sample_keys(x), x, 1, "rademacher", 0)  # noqa: E731
    expected = draw(x)
    assert torch.equal(torch.func.vmap(lambda row: draw(row[None])[0])(x), expected)
    weighted = lambda row: (row * draw(row[None])[0]).sum()  # noqa: E731
    for transform in (torch.func.jacrev, torch.func.jacfwd):
        assert torch.equal(torch.func.vmap(transform(weighted))(x), expected)
    assert torch.equal(torch.compile(draw, backend="aot_eager", fullgraph=True)(x), expected)
