import math

import pytest
import torch
from layers import LAYERS
from problems import DTYPES

from iresnet_fast import reference
from iresnet_fast.geometry import ConvGeometry
from iresnet_fast.ops.spectral_norm import flat_geometry

from . import operands
from .builder import ROOT
from .norm_layers import LARGE, Layers, named_layers

CARDS = ["h100", "t4"]
ONE_LAUNCH = ["store_page<Row>", "power_iteration<T>"]


def spectral_norm(emulator, layers, n_iterations, tol=-1.0, card="h100"):
    """Return sigmas, us, vs and iterations."""
    weights, us, vs, geometry = layers
    flat = flat_geometry(weights, geometry)
    sigmas, iterations, packed = operands.spectral_norm(emulator, weights, us, vs, flat, n_iterations, tol, card=card)
    pieces = packed.split([t.numel() for t in (*us, *vs)])
    vectors = [piece.view(t.shape) for piece, t in zip(pieces, (*us, *vs), strict=True)]
    return sigmas, vectors[: len(us)], vectors[len(us) :], iterations


def sum_length(weight, place):
    """The most products that one number of A v or A^T u sums."""
    taps = weight[0, 0].numel()
    return max(weight[0].numel(), len(weight) // (place.groups if place else 1) * taps)


def assert_matches_reference(emulator, names, dtype, n_iterations, card):
    """The 2x rule, beyond it what the float64 reference, in float64 its own oracle, may itself be off by.

    Sums of K terms in n iterations of two products, as a random walk: sqrt(2 n K) / 2 eps. A norm over N elements: the
    running sum of squares grows, so its rounding is sqrt(N / 3) / 2 eps, and the root halves it. Times 4 for the worst
    element. Without an iteration sigma = <u, A v> may cancel; A v is about as large as the weight.
    """
    layers = named_layers(names, dtype)
    got = spectral_norm(emulator, layers, n_iterations, card=card)
    same = reference.spectral_norm(*layers, n_iterations)
    exact = reference.spectral_norm(*named_layers(names, torch.float64), n_iterations)
    assert torch.equal(got[3], same[3])
    for i, (weight, u, v, place) in enumerate(zip(*layers, strict=True)):
        products = 2 * (2 * max(n_iterations, 1) * sum_length(weight, place)) ** 0.5
        floor = (products + (max(u.numel(), v.numel()) / 3) ** 0.5) * torch.finfo(dtype).eps
        for part, what in enumerate(("sigma", "u", "v")):
            a, b, c = (result[part][i] for result in (got, same, exact))
            error, yardstick = ((t.double() - c).abs().max().item() for t in (a, b))
            scale = max(c.abs().max().item(), weight.norm().item() if what == "sigma" else 0.0)
            assert error <= 2.0 * yardstick + floor * scale, (weight.shape, what)


@pytest.mark.parametrize("n_iterations", [0, 1, 5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_matches_reference(emulator, dtype, n_iterations):
    """Every kind of layer in one launch."""
    assert_matches_reference(emulator, list(LAYERS), dtype, n_iterations, "h100")
    assert [launch.kernel for launch in emulator.launches] == ONE_LAUNCH


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("card", CARDS)
def test_layers_in_and_out_of_shared_memory(emulator, card, dtype):
    assert_matches_reference(emulator, list(LARGE), dtype, 2, card)


def test_a_model_of_many_layers(emulator):
    """More layers than one kernel argument holds; each block finds its own."""
    names = ["matrix", "stride", "tall matrix"] * 20
    assert_matches_reference(emulator, names, torch.float32, 1, "h100")
    assert [launch.kernel for launch in emulator.launches] == [*["store_page<Row>"] * 3, "power_iteration<T>"]


@pytest.mark.parametrize("tol", [1e-1, 1e-2, 1e-4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_iterations_to_a_tolerance_match_reference(emulator, dtype, tol):
    layers = named_layers(["tall matrix", "wide matrix", "same", "strides", "groups"], dtype)
    got, expected = spectral_norm(emulator, layers, 200, tol), reference.spectral_norm(*layers, 200, tol)
    assert torch.equal(got[3], expected[3])
    assert got[3].unique().numel() > 1
    torch.testing.assert_close(got[0], expected[0])


@pytest.mark.parametrize("tol", [-1.0, 1e-3])
def test_zero_weights_keep_their_vectors(emulator, tol):
    layers = named_layers(["matrix", "same", "strides"], torch.float32)
    for weight in layers.weights:
        weight.zero_()
    sigmas, us, vs, iterations = spectral_norm(emulator, layers, 3, tol)
    assert not sigmas.any()
    assert all(torch.equal(a, b) for a, b in zip((*us, *vs), (*layers.us, *layers.vs), strict=True))
    assert iterations.tolist() == [3 if tol < 0 else 1] * 3


def test_a_left_vector_that_sees_nothing_does_not_hide_the_weight(emulator):
    layers = named_layers(["matrix", "same", "strides"], torch.float32)
    for u in layers.us:
        u.zero_()
    got, expected = spectral_norm(emulator, layers, 4), reference.spectral_norm(*layers, 4)
    torch.testing.assert_close(got[:3], tuple(expected[:3]))


@pytest.mark.parametrize("tol", [-1.0, 1e-3])
def test_nan_weights_are_seen(emulator, tol):
    layers = named_layers(["matrix", "same"], torch.float32)
    for weight in layers.weights:
        weight[0] = torch.nan
    sigmas, _, _, iterations = spectral_norm(emulator, layers, 3, tol)
    assert sigmas.isnan().all()
    assert iterations.tolist() == [3, 3]


def test_layers_without_elements(emulator):
    empty = [torch.zeros(0, 5), torch.zeros(5, 0), torch.zeros(0, 2, 3, 3)]
    us = [torch.zeros(0), torch.ones(5), torch.zeros(0, 4, 4)]
    vs = [torch.ones(5), torch.zeros(0), torch.ones(2, 4, 4)]
    geometry = [None, None, ConvGeometry((4, 4), padding=(1, 1))]
    sigmas, *vectors, _ = spectral_norm(emulator, Layers(empty, us, vs, geometry), 2)
    assert not sigmas.any()
    assert all(torch.equal(a, b) for a, b in zip(vectors[0] + vectors[1], us + vs, strict=True))


@pytest.mark.parametrize("shift", [1, 2, 3])
def test_weights_at_any_element(checker, shift):
    """Views into a packed tensor are aligned to one element only."""
    layers = named_layers(["streamed", "above a lane", "packed weights"], torch.float32)
    shifted = [torch.cat((w.new_zeros(shift), w.flatten()))[shift:].view(w.shape) for w in layers.weights]
    for card in CARDS:
        got, expected = (
            spectral_norm(checker, layers._replace(weights=w), 2, card=card) for w in (layers.weights, shifted)
        )
        torch.testing.assert_close(got[0], expected[0])


def count(checker, layers, n_iterations, card="h100"):
    with checker.counting() as counters:
        spectral_norm(checker, layers, n_iterations, card=card)
    return counters


def bytes_of(tensors):
    return sum(t.numel() * t.element_size() for t in tensors)


@pytest.mark.parametrize("name", ["ragged", "above a lane", "packed weights", "many pixels"])
def test_what_fits_is_read_and_written_once(checker, name):
    """Whatever the number of iterations: the weight and u come in, the results go out."""
    layers = named_layers([name], torch.float32)
    table = 512  # one row, written and read
    for n_iterations in (1, 4):
        counters = count(checker, layers, n_iterations)
        assert counters.total("read", "global").bytes <= bytes_of((*layers.weights, *layers.us)) + table
        assert counters.total("write", "global").bytes <= bytes_of((*layers.us, *layers.vs)) + table


def test_a_streamed_matrix_is_read_once_per_iteration(checker):
    """And once for the first A^T u; aligned rows in whole sectors."""
    layers = named_layers(["streamed"], torch.float32)
    for n_iterations in (1, 3):
        rows = count(checker, layers, n_iterations, "t4").total("read", "global", "matrix_map.cuh")
        assert rows.bytes == (1 + n_iterations) * bytes_of(layers.weights)
        assert rows.bytes == 32 * rows.sectors


def at_line(counters, kind, file, text):
    """Traffic in shared memory of the one line that contains `text`."""
    lines = (ROOT / "csrc/cuda/norms" / file).read_text().splitlines()
    (number,) = [i for i, line in enumerate(lines, 1) if text in line]
    return counters.total(kind, "shared", f"{file}:{number}")


def test_rows_of_a_matrix_lie_in_different_banks(checker):
    """16 bytes a lane take four passes over the banks."""
    counters = count(checker, named_layers(["full rows"], torch.float32), 2)
    rows = at_line(counters, "read", "matrix_map.cuh", "? load16(row")
    assert rows.requests == 3 * 70
    assert rows.wavefronts == 4 * rows.requests
    sums = at_line(counters, "read", "matrix_map.cuh", "total += lane_sums")
    assert sums.wavefronts == sums.requests > 0


def test_tiles_of_a_convolution_meet_no_bank_conflict(checker):
    """A line of 32 pixels per warp: four passes per 16 bytes of weights a lane, one per element of the image."""
    place = ConvGeometry((6, 34))
    layers = Layers([torch.randn(24, 5, 3, 3)], [torch.randn(24, 4, 32)], [torch.randn(5, 6, 34)], [place])
    counters = count(checker, layers, 0)
    weights = at_line(counters, "read", "convolution_map.cuh", "load16(weight")
    image = at_line(counters, "read", "convolution_map.cuh", "image[at[p]] : ")
    assert weights.requests > 0
    assert weights.wavefronts == 4 * weights.requests
    assert image.wavefronts == image.requests == 2 * weights.requests


@pytest.mark.parametrize("tol", [-1.0, 1e-3])
@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_weights_of_any_size(emulator, size, tol):
    """Those of weights of ordinary size: squares would overflow or vanish. Digits: some eps for a sum."""
    plain, scale = named_layers(["matrix", "streamed", "strides"], torch.float32), 2.0 ** round(math.log2(size))
    sized = plain._replace(weights=[weight * scale for weight in plain.weights])
    got, want = (spectral_norm(emulator, layers, 4, tol) for layers in (sized, plain))
    torch.testing.assert_close(got[0] / scale, want[0], rtol=1e-5, atol=0.0)
    torch.testing.assert_close(got[1:3], want[1:3], rtol=0.0, atol=1e-5)
    assert torch.equal(got[3], want[3])


def test_infinite_weights_have_no_finite_norm(emulator):
    layers = named_layers(["matrix", "same"], torch.float32)
    for weight in layers.weights:
        weight.view(-1)[-1] = torch.inf
    assert not spectral_norm(emulator, layers, 3)[0].isfinite().any()
