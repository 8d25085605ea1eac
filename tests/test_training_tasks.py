"""What models are trained for, and what they ask of the data."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from training_examples import make_data, make_model

from iresnet_fast import training
from iresnet_fast.models import IResNetClassifier, IResNetFlow


@pytest.mark.filterwarnings("ignore:iresnet_fast. evaluation of an ActNorm")
def test_losses_are_those_of_their_definition():
    plane, images = make_data(), make_data("images")
    x, labels = images.train[:8], images.train_labels[:8]

    flow = make_model().eval()
    task = training.task_of(flow)
    assert task.metrics == ("nats",)
    torch.testing.assert_close(task.loss(task.inputs(plane.train), None), -flow.log_prob(plane.train).mean())

    flow = make_model("flow").eval()
    task = training.task_of(flow)
    assert task.metrics == ("bits_per_dim",)
    expected = -flow.log_prob(x).mean() / 64 / np.log(2.0)
    torch.testing.assert_close(task.loss(task.inputs(x), None), expected)

    classifier = make_model("classifier").eval()
    task = training.task_of(classifier)
    task.adopt(images)
    assert task.metrics == ("error_percent",)
    expected = F.cross_entropy(classifier(x.float() / 16.0 - 0.5), labels)
    torch.testing.assert_close(task.loss(task.inputs(x), labels), expected)
    torch.testing.assert_close(classifier(x), classifier(x.float() / 16.0 - 0.5))

    hybrid = make_model("hybrid").eval()
    task = training.task_of(hybrid, 0.25)
    assert task.metrics == ("bits_per_dim", "error_percent")
    logits, log_prob = hybrid(x)
    expected = (F.cross_entropy(logits, labels) - 0.25 * log_prob.mean()) / np.log(2.0)
    torch.testing.assert_close(task.loss(task.inputs(x), labels), expected)


def test_a_classifier_must_know_the_levels_of_whole_numbers():
    classifier = IResNetClassifier(IResNetClassifier.preset_config("digits", blocks=(1, 1), n_levels=None))
    x, whole = torch.rand(2, 1, 8, 8), torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    assert torch.equal(training.task_of(classifier).inputs(x), x)
    with pytest.raises(ValueError, match="x must be of floating point for a classifier whose n_levels is None, got"):
        training.task_of(classifier).inputs(whole)
    training.task_of(classifier).adopt(make_data("images"))
    assert classifier.config.n_levels == 17
    assert torch.equal(training.task_of(classifier).inputs(whole), torch.full(whole.shape, -0.5))
    with pytest.raises(ValueError, match=r"x must have values in \[0, 16\], got values from 17 to 17"):
        training.task_of(classifier).inputs(whole + 17)
    changed = IResNetClassifier(classifier.config.replace(n_levels=256, n_classes=3))
    with pytest.raises(ValueError, match="n_levels of the model must be 17, that of stripes, got 256"):
        training.task_of(changed).check(make_data("images"))


def test_models_without_a_task():
    with pytest.raises(
        TypeError, match="model must be an IResNetFlow, IResNetClassifier or HybridIResNet, got Linear; p"
    ):
        training.task_of(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        (
            "plane",
            "images",
            r"event_shape of the model must be \(1, 8, 8\), that of stripes, got \(2,\); build the model",
        ),
        ("classifier", "plane", r"image_shape of the model must be \(2,\), that of curve, got \(1, 8, 8\); build"),
        ("levels", "images", "n_levels of the model must be 17, that of stripes, got 256; build"),
        ("classes", "images", "n_classes of the model must be 3, that of stripes, got 10; build"),
        ("hybrid", "unlabelled", "n_classes of the model must be None, that of stripes, got 3; build"),
    ],
)
def test_a_model_for_other_data_is_a_sentence(kind, data, message):
    data = make_data("plane" if data == "plane" else "images") if data != "unlabelled" else unlabelled()
    if kind == "levels":
        model = IResNetFlow.preset("digits", blocks=(1,), n_levels=256)
    elif kind == "classes":
        model = type(make_model("classifier")).preset("digits", blocks=(1, 1))
    else:
        model = make_model(kind)
    with pytest.raises(ValueError, match=message):
        training.task_of(model).check(data)


def unlabelled():
    return dataclasses.replace(make_data("images"), train_labels=None, test_labels=None, n_classes=None)
