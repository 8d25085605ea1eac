"""Spectral layers: inference mode, copies, checkpoints, and update_spectral_norm for a whole model."""

import copy
import gc
import io
import pickle

import pytest
import torch
from nn_models import (
    CLOSE,
    grow,
    input_of,
    make_conv,
    make_linear,
    true_norm,
)

from iresnet_fast import nn

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS = [pytest.param(make_linear, id="linear"), pytest.param(make_conv, id="conv")]


@pytest.mark.parametrize("make", LAYERS)
def test_first_use_in_inference_mode_leaves_usable_buffers(make):
    layer = make()
    with torch.inference_mode():
        layer(input_of(layer))
    assert not any(buffer.is_inference() for buffer in layer.buffers())
    layer(input_of(layer)).sum().backward()
    grow(layer)
    layer(input_of(layer)).sum().backward()


def test_unknown_image_size_first_met_in_inference_mode():
    layer = nn.SpectralConv2d(3, 4, 3)
    with torch.inference_mode():
        layer(torch.randn(1, 3, 5, 5))
    layer(torch.randn(1, 3, 5, 5)).sum().backward()


def test_a_layer_built_in_inference_mode_is_always_refreshed():
    with torch.inference_mode():
        layer = make_linear()
        layer(input_of(layer))
        layer.weight.mul_(5.0)
        layer(input_of(layer))
    assert float(layer.sigma) == pytest.approx(true_norm(layer, layer.weight), rel=CLOSE)


@pytest.mark.parametrize("make", LAYERS)
def test_a_copy_or_a_checkpoint_computes_the_same_bits(make):
    layer = make()
    x = input_of(layer)
    layer(x).sum().backward()
    grow(layer)
    layer(x)
    copies = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), make()]
    copies[2].load_state_dict(layer.state_dict())
    expected = layer.eval()(x)
    for other in copies:
        assert torch.equal(other.eval()(x), expected)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), expected)
        assert torch.equal(other.sigma, layer.sigma)


def test_copies_know_nothing_of_the_group():
    layer = make_linear().eval()
    with torch.no_grad():
        layer(input_of(layer))
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other.group is None
        assert other.handle != layer.handle
        grow(other)
        other(input_of(other))
        assert float(other.sigma) == pytest.approx(3.0 * float(layer.sigma))
        assert other.group is not layer.group


def test_defect_11_state_dict_restores_the_vectors_before_any_forward():
    layer = nn.SpectralConv2d(3, 5, 3, padding=1)
    layer(torch.randn(2, 3, 6, 5))
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = nn.SpectralConv2d(3, 5, 3, padding=1)
    assert other.u.numel() == 0
    assert str(other.load_state_dict(torch.load(file, weights_only=True))) == "<All keys matched successfully>"
    assert other.image_size == (6, 5)
    for name in ("u", "v", "companion", "sigma"):
        assert torch.equal(getattr(other, name), getattr(layer, name))
    x = torch.randn(1, 3, 6, 5)
    torch.testing.assert_close(other(x), layer(x), rtol=1e-3, atol=1e-4)  # a training refresh more
    # The saved size wins over the one given, too.
    third = make_conv(image_size=(4, 4))
    third.load_state_dict(layer.state_dict())
    assert third.image_size == (6, 5)


def test_state_dict_of_an_unready_layer_and_of_a_plain_one():
    unready = nn.SpectralConv2d(3, 5, 3, padding=1)
    ready = make_conv()
    ready.load_state_dict(unready.state_dict())
    assert ready.image_size == (6, 5)
    unready.load_state_dict(nn.SpectralConv2d(3, 5, 3, padding=1).state_dict())
    plain = torch.nn.Conv2d(3, 5, 3, padding=1)
    with pytest.raises(RuntimeError, match="Missing key"):
        ready.load_state_dict(plain.state_dict())
    ready(input_of(ready))
    grow(plain, 7.0)
    ready.load_state_dict(plain.state_dict(), strict=False)
    ready(input_of(ready))
    assert float(ready.sigma) == pytest.approx(true_norm(ready, plain.weight), rel=CLOSE)


def test_tensors_of_a_state_dict_share_no_storage():
    model = torch.nn.Sequential(make_linear(), torch.nn.Linear(5, 7), make_linear())
    nn.update_spectral_norm(model)
    pointers = [tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()]
    assert len(set(pointers)) == len(pointers)


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize(
    ("before", "name", "value"),
    [
        ({"kernel_size": 5, "padding": 2, "stride": 4}, "stride", (1, 1)),
        ({"kernel_size": 3, "dilation": 4}, "dilation", (1, 1)),
        ({"kernel_size": 5}, "padding", [2, 2]),
        ({"kernel_size": 1}, "padding", (1, 1)),
        ({"kernel_size": 1, "stride": 2}, "stride", (1, 1)),
    ],
)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_stride_or_padding_that_is_set_later_counts(before, name, value, copied, mode):
    layer = nn.SpectralConv2d(4, 4, image_size=12, coeff=0.9, bias=False, **before).double().train(mode == "train")
    images = torch.eye(4 * 144, dtype=torch.float64).view(-1, 4, 12, 12)
    layer.weight.data.mul_(8.0)
    layer(images[:2])
    layer = copy.deepcopy(layer) if copied else layer
    setattr(layer, name, value)
    for _ in range(2):
        with torch.no_grad():
            norm = torch.linalg.matrix_norm(layer(images).flatten(1), 2)
        assert float(norm) == pytest.approx(0.9, rel=1e-3)
        layer.weight.data.add_(0.1 * torch.randn_like(layer.weight))


def test_load_with_assign():
    layer, other = make_linear().double(), make_linear()
    layer(input_of(layer))
    other.load_state_dict(layer.state_dict(), assign=True)
    assert other.weight.dtype == other.u.dtype == torch.float64
    torch.testing.assert_close(other(torch.ones(1, 7).double()), layer(torch.ones(1, 7).double()), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("model", "checkpoint", "message"),
    [
        (make_linear, lambda: nn.SpectralLinear(7, 6), r"weight must have shape \(5, 7\), got \(6, 7\)"),
        (make_conv, lambda: nn.SpectralConv2d(3, 5, 5, image_size=9), r"weight must have shape \(5, 3, 3, 3\)"),
        (make_conv, lambda: nn.SpectralConv2d(3, 5, 3, image_size=9), r"u and 0\.v must be the vectors of a weight"),
    ],
)
def test_a_wrong_checkpoint_is_one_sentence(model, checkpoint, message):
    layer = torch.nn.Sequential(model())
    size = getattr(layer[0], "image_size", None)
    with pytest.raises(RuntimeError, match=rf"0\.{message}") as caught:
        layer.load_state_dict(torch.nn.Sequential(checkpoint()).state_dict())
    assert str(caught.value).count("\n") == 1
    assert getattr(layer[0], "image_size", None) == size


def test_update_refreshes_a_model_in_one_call_then_and_later(calls):
    model = torch.nn.Sequential(make_linear(), torch.nn.Sequential(torch.nn.Linear(5, 7), make_linear()), make_conv())
    sigmas = nn.update_spectral_norm(model)
    layers = [model[0], model[1][1], model[2]]
    assert calls == [3]
    assert not sigmas.requires_grad
    for sigma, layer in zip(sigmas.tolist(), layers, strict=True):
        assert sigma == float(layer.sigma) == pytest.approx(true_norm(layer, layer.weight), rel=CLOSE)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(2):
        calls.clear()
        loss = model[1](model[0](torch.randn(2, 7))).square().sum() + model[2](torch.randn(1, 3, 6, 5)).square().sum()
        loss.backward()
        optimizer.step()
        assert calls in ([], [3])  # the first time nothing had changed
    calls.clear()
    model[0](torch.randn(2, 7))
    assert calls == [3]  # all of them follow the optimizer's last step
    grow(model[1][1])
    model[0](torch.randn(2, 7))
    assert calls == [3]  # this one is not stale
    model[2](torch.randn(2, 3, 6, 5))
    model[1][1](torch.randn(2, 7))
    assert calls == [3, 1]


def test_update_works_on_copies_and_forgets_dead_layers(calls):
    model = torch.nn.Sequential(make_linear(), torch.nn.Linear(5, 7), make_linear())
    nn.update_spectral_norm(model)
    other = copy.deepcopy(model)
    gc.collect()
    group = model[0].group
    assert pickle.loads(pickle.dumps(model))[0].sigma == model[0].sigma
    calls.clear()
    other(torch.randn(2, 7))
    assert calls == [1, 1]  # not a group until told so
    survivor = model[0]
    del model
    gc.collect()
    assert group.members() == [survivor]
    grow(survivor)
    survivor(torch.randn(2, 7))
    assert calls == [1, 1, 1]


def test_update_arguments():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    assert nn.update_spectral_norm(model).shape == (0,)
    with pytest.raises(ValueError, match="the image size of 1 must be known, got none"):
        nn.update_spectral_norm(torch.nn.Sequential(make_linear(), nn.SpectralConv2d(3, 4, 3)))
    with pytest.raises(ValueError, match="n_iterations must be at least 1"):
        nn.update_spectral_norm(make_linear(), -1)
    with pytest.raises(ValueError, match="tol must be positive"):
        nn.update_spectral_norm(make_linear(), tol=0.0)
    layer = make_linear().eval()
    nn.update_spectral_norm(layer)
    grow(layer)
    nn.update_spectral_norm(layer, n_iterations=5, tol=0.9)
    assert layer.group.is_stale(layer)  # the next forward goes on
    layer(torch.randn(2, 7))
    assert not layer.group.is_stale(layer)
