import pytest
import torch
from comparison import RecordedOps
from problems import ISAS, run_on

from iresnet_fast import _library, ops, reference

PACKAGES = pytest.mark.parametrize("package", [ops, reference], ids=["ops", "reference"])
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
# Around words, vectors and pairs of vectors, with 0 to 3 numbers beyond a word.
SIZES = [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 130, 1001, 300_000]


def weights_of(dtype, sizes=SIZES):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, generator=generator).to(dtype) for size in sizes]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_matches_reference_to_the_bit(isa, dtype):
    run_on(isa)
    weights = weights_of(dtype)
    expected = reference.fingerprint(weights)
    assert expected.dtype == torch.int64
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        assert torch.equal(ops.fingerprint(weights), expected)
    shifted = [torch.cat((w.new_zeros(1), w))[1:] for w in weights]  # aligned to an element only
    assert torch.equal(ops.fingerprint(shifted), expected)


def test_what_it_is():
    """The definition on two words, in Python's integers."""
    low, high, step, modulus = 3, 0x40490FDB, 0x9E3779B97F4A7C15, 1 << 64
    weight = torch.tensor([low, high, high, low], dtype=torch.int32).view(torch.float32)
    total = 0
    for position, word in enumerate((high << 32 | low, low << 32 | high), 1):
        word = (word + position * step) % modulus
        total += (word & 0xFFFFFFFF) * (word >> 32) + word
    for package in (ops, reference):
        assert package.fingerprint([weight]).item() % modulus == total % modulus


@PACKAGES
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_change_of_one_number_and_every_swap_is_seen(package, dtype):
    weight = weights_of(dtype, [40])[0]
    changed = [weight.clone() for _ in range(40 + 40 * 39 // 2)]
    pairs = [(i, i) for i in range(40)] + [(i, j) for i in range(40) for j in range(i)]
    for copy, (i, j) in zip(changed, pairs, strict=True):
        if i == j:
            copy[i] = torch.nextafter(copy[i], copy.new_tensor(9.0)) if dtype != torch.bfloat16 else 1.5 * copy[i]
        else:
            copy[i], copy[j] = weight[j], weight[i]
    prints = package.fingerprint([weight, *changed]).tolist()
    assert len(set(prints)) == len({tuple(w.tolist()) for w in (weight, *changed)}) > 700


@PACKAGES
def test_signs_of_zero_and_permuted_rows_are_seen(package):
    weight = torch.zeros(8, 8)
    matrix = torch.randn(8, 8)
    prints = package.fingerprint([weight, -weight, matrix, matrix.flip(0), matrix.flip(1), matrix.t()]).tolist()
    assert len(set(prints)) == 6


@PACKAGES
def test_strides_and_shapes_do_not_count(package):
    weight = torch.randn(6, 5)
    strided = torch.stack((weight, weight + 1.0), -1)[..., 0]
    prints = package.fingerprint([weight, strided, weight.view(5, 6), weight.t().contiguous().t()])
    assert prints.unique().numel() == 1


@PACKAGES
def test_dtypes_may_differ_and_none_is_empty(package):
    weights = [torch.ones(3, dtype=dtype) for dtype in DTYPES]
    assert package.fingerprint(weights).tolist() == [package.fingerprint([w]).item() for w in weights]
    assert package.fingerprint([]).shape == (0,)
    assert package.fingerprint([torch.zeros(0, 4)]).tolist() == [0]


def test_opcheck_and_compile():
    weights = weights_of(torch.float32, [3, 50])
    torch.library.opcheck(torch.ops.iresnet_fast.fingerprint.default, (weights,))
    compiled = torch.compile(lambda *w: ops.fingerprint(w), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*weights), ops.fingerprint(weights))


def test_one_kernel_call_for_all_weights(monkeypatch):
    monkeypatch.setattr(reference, "fingerprint", None)
    with RecordedOps() as recorded:
        ops.fingerprint([torch.ones(3, requires_grad=True), torch.ones(2)])
    assert recorded.names == ["fingerprint"]


def test_without_kernels_the_reference_serves():
    weights = weights_of(torch.float32, [3, 50])
    expected = ops.fingerprint(weights)
    with _library.use_backend("reference"), RecordedOps() as recorded:
        assert torch.equal(ops.fingerprint(weights), expected)
    assert recorded.names == []


@PACKAGES
def test_errors(package):
    with pytest.raises(TypeError, match=r"weights\[1\] must be a floating point tensor, got torch.int64; convert it"):
        package.fingerprint([torch.ones(2), torch.ones(2).long()])
    with pytest.raises(ValueError, match=r"weights\[1\] must be on the device of weights\[0\], cpu, got meta; call"):
        package.fingerprint([torch.ones(2), torch.ones(2, device="meta")])
