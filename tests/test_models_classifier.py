"""IResNetClassifier: logits, features that lead back to the image, and blocks without a bound that may not."""

import warnings

import pytest
import torch
from models_examples import CLASSIFIERS, TIGHT, inverse_error, make_classifier, unused

from iresnet_fast import ops
from iresnet_fast.models import IResNetClassifier, certified_lipschitz

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", list(CLASSIFIERS))
def test_features_lead_back_to_the_image(name):
    model, x = make_classifier(name)
    model.eval()
    features = model.features(x)
    assert features.shape == (5, *model.feature_shape)
    bound = inverse_error(model)
    assert bound < 1e-5
    torch.testing.assert_close(model.invert(features), x, atol=bound, rtol=0.0)
    torch.testing.assert_close(model.features(model.invert(features)), features, atol=1e3 * bound, rtol=0.0)
    result = model.reconstruct(x)
    assert bool((result.error <= bound).all())
    assert bool((result.block_error <= TIGHT.tol).all())
    assert bool((result.iterations > 0).all())
    torch.testing.assert_close(result.features, features)
    torch.testing.assert_close(model(x), model.head(features))
    assert model(x).shape == (5, model.config.n_classes)


def test_float32_reaches_the_tolerance_of_the_presets():
    model, x = make_classifier("digits", torch.float32, solver=IResNetClassifier.preset_config("digits").solver)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = model.eval().reconstruct(x)
    assert float(result.error.max()) < 1e-4


@pytest.mark.parametrize("coeff", [0.9, None])
def test_every_parameter_gets_a_gradient(coeff):
    model, x = make_classifier("small", coeff=coeff)
    labels = torch.tensor([0, 1, 2, 1, 0])
    assert unused(model, torch.nn.functional.cross_entropy(model(x), labels)) == []


def test_defect_22_no_logdet_is_computed_and_a_batch_of_one_works(monkeypatch):
    """The original multi-scale model computes log-determinants for classification too, and drops a batch of one."""

    def refuse(*arguments):
        raise AssertionError("a log-determinant was computed")

    for name in ("residual_logdet", "residual_logdet_exact"):
        monkeypatch.setattr(ops, name, refuse)
    model, x = make_classifier("small")
    for mode in (True, False):
        model.train(mode)
        assert model(x[:1]).shape == (1, 3)
        assert model.reconstruct(x[:1]).error.shape == (1,)


def test_unbounded_network_has_the_same_shapes():
    bounded, x = make_classifier("small")
    free, _ = make_classifier("small", coeff=None)
    assert free.feature_shape == bounded.feature_shape
    shapes = [[tuple(p.shape) for p in model.parameters()] for model in (bounded, free)]
    assert sorted(shapes[0]) == sorted(shapes[1])
    assert free(x).shape == bounded(x).shape


def test_unbounded_network_that_diverges_says_so():
    model, x = make_classifier("small", coeff=None)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight.mul_(3.0)
    model.eval()
    with pytest.warns(
        RuntimeWarning, match="5 of 5 samples were not inverted, .*nothing bounds a network without coeff"
    ):
        result = model.reconstruct(x)
    assert not bool((result.error < 1e-2).any())
    assert bool((result.block_error > 1.0).all())
    assert int(result.iterations.max()) < 100
    assert certified_lipschitz(model).worst > 1.0


def test_unbounded_network_that_contracts_is_inverted():
    model, x = make_classifier("small", coeff=None)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight.mul_(0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = model.eval().reconstruct(x)
    assert float(result.error.max()) < 1e-8


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model, x: model(x[:, :, :4]), r"x must have shape \[B, 1, 6, 6\], got \(5, 1, 4, 6\)"),
        (lambda model, x: model.invert(x), r"features must have shape \[B, 24, 2, 2\], got \(5, 1, 6, 6\)"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call(*make_classifier("small"))
