"""How much samples and classes count: the loss, the metric of the samples held out, and what is refused."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from training_examples import make_config, make_data, make_model, measured, same_bits

from iresnet_fast import data, training
from iresnet_fast.training import selection
from iresnet_fast.training.batches import Batches, divided
from iresnet_fast.training.tasks import task_of

pytestmark = pytest.mark.usefixtures("one_thread")


def weighted(kind="plane", weights=None):
    plain = make_data(kind)
    n = len(plain.train)
    weights = torch.linspace(0.0, 3.0, n) if weights is None else weights
    return dataclasses.replace(plain, train_weights=weights)


def fit(folder, dataset, kind="plane", resume=False, **changes):
    return training.fit(make_model(kind), dataset, make_config(**changes), folder, resume, show_progress=False)


def test_they_are_one_on_average_over_what_steps_draw_from():
    made = Batches(weighted(), make_config(validation=0.2), torch.device("cpu"))
    rest, held_out = divided(50, make_config(validation=0.2))
    # The mean of 40 float32 numbers is off by their rounding, 6e-8 each.
    for part, rows in ((made.all(), rest), (made.validation, held_out)):
        assert float(part.weights.double().mean()) == pytest.approx(1.0, abs=1e-7)
        ratios = weighted().train_weights[rows].double() / part.weights.double()
        assert float(ratios[1:].std() / ratios[1:].mean()) < 1e-6
    batch = made(1)
    places = [(made.all().x == row).all(1).nonzero().item() for row in batch.x]
    assert torch.equal(batch.weights, made.all().weights[places])


@pytest.mark.parametrize("kind", ["plane", "flow", "classifier", "hybrid"])
def test_the_loss_is_the_mean_of_weight_times_loss(kind):
    dataset = weighted("plane" if kind == "plane" else "images")
    model = make_model(kind)
    task = task_of(model, 0.5)
    task.adopt(dataset)
    with torch.no_grad():
        task.initialize(task.inputs(dataset.train))
    model.eval()  # so that losses of one and of many samples see the same model
    x, labels = task.inputs(dataset.train[:6]), None if kind in ("plane", "flow") else dataset.train_labels[:6]
    weights = torch.tensor([0.0, 0.5, 1.0, 2.0, 0.25, 4.0])
    if labels is not None:
        task.class_weights = torch.tensor([0.5, 1.0, 3.0])
    found = task.loss(x, labels, None, weights).detach()
    parts = []
    for i in range(6):
        label = None if labels is None else labels[i : i + 1]
        if kind == "hybrid":
            logits, log_prob = model(x[i : i + 1])
            cross = F.cross_entropy(logits, label) * task.class_weights[label[0]]
            parts.append((cross - 0.5 * log_prob[0]) / math.log(2.0))
        elif kind == "classifier":
            parts.append(F.cross_entropy(model(x[i : i + 1]), label) * task.class_weights[label[0]])
        else:
            parts.append(task.loss(x[i : i + 1], None))
    expected = sum(float(weight * part.detach()) for weight, part in zip(weights, parts, strict=True)) / 6
    # Sums in float32 of a few terms in another order.
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_equal_weights_give_the_same_bits(tmp_path):
    plain = fit(tmp_path / "plain", make_data())
    ones = fit(tmp_path / "ones", weighted(weights=torch.full((50,), 0.25)))
    assert same_bits(plain.model.state_dict(), ones.model.state_dict())
    assert measured(plain.history) == measured(ones.history)


def test_a_sample_without_weight_has_no_part_in_the_gradient(tmp_path):
    """Rows of zero weight, replaced by others: the first batches and the start of ActNorms would tell."""
    dataset = weighted(weights=(torch.arange(50) % 2).float())
    other = dataclasses.replace(dataset, train=torch.where(dataset.train_weights[:, None] > 0, dataset.train, 1.5))
    config = make_config()
    losses = []
    for given in (dataset, other):
        batch = Batches(given, config, torch.device("cpu"))(0)
        losses.append(task_of(make_model().eval()).loss(batch.x, None, None, batch.weights).detach())
    assert torch.equal(*losses)


def test_the_metric_of_the_held_out_samples_is_weighted(tmp_path):
    dataset = weighted()
    done = fit(tmp_path, dataset, validation=0.2, eval_steps=12, max_steps=12)
    _, rows = divided(50, make_config(validation=0.2))
    x, weights = dataset.train[rows], dataset.train_weights[rows].double()
    values = training.evaluate(done.average, x).values["nats"]
    expected = float((values * weights).sum() / weights.sum())
    assert done.history[-1]["validation_nats"] == pytest.approx(expected, rel=1e-6)
    assert done.history[-1]["validation_nats"] != pytest.approx(float(values.mean()), rel=1e-3)


def test_other_weights_are_other_data(tmp_path):
    fit(tmp_path, weighted(), max_steps=2)
    with pytest.raises(
        training.CheckpointError, match="must be of the 50 training samples in curve to go on from, got"
    ):
        fit(tmp_path, make_data(), resume=True)


def test_weights_that_leave_a_side_empty_are_refused(tmp_path):
    _, rows = divided(50, make_config(validation=0.2))
    weights = torch.ones(50)
    weights[rows] = 0.0
    with pytest.raises(ValueError, match=r"train_weights of curve must not all be zero on either side of validation"):
        fit(tmp_path / "run", weighted(weights=weights), validation=0.2)
    assert not (tmp_path / "run").exists()


def classifier_task():
    return task_of(make_model("classifier"))


def test_balanced_weights_are_the_inverse_of_the_counts():
    labels = torch.tensor([0] * 6 + [1] * 3 + [2] * 1)
    found = selection.class_weights(classifier_task(), labels, make_config(class_weights="balanced"))
    assert found.tolist() == pytest.approx([10 / 18, 10 / 9, 10 / 3])
    assert float(found[labels].mean()) == pytest.approx(1.0)
    assert selection.class_weights(classifier_task(), labels[:9], make_config(class_weights="balanced"))[2] == 0.0


def test_of_given_weights_only_the_ratios_matter():
    labels = torch.tensor([0, 0, 1, 2])
    first, second = (
        selection.class_weights(classifier_task(), labels, make_config(class_weights=given))
        for given in ((1.0, 2.0, 0.0), (10.0, 20.0, 0.0))
    )
    assert first.tolist() == pytest.approx([1.0, 2.0, 0.0])  # of mean 1 as they are
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        ("classifier", (1.0, 2.0), r"class_weights must hold 3 numbers, one for each class, got 2; correct them"),
        ("flow", "balanced", r"class_weights must be 'equal' for a model that does not classify, got 'balanced'"),
    ],
)
def test_class_weights_that_do_not_fit(kind, given, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        fit(tmp_path / "run", make_data("images"), kind, class_weights=given)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("given", ["equally", (1.0, -1.0), (0.0, 0.0), (), (1.0, "2"), 3.0])
def test_what_are_no_class_weights(given):
    with pytest.raises((ValueError, TypeError), match="class_weights must be"):
        make_config(class_weights=given)


def test_they_change_what_is_learned_of_rare_classes(tmp_path):
    """36 images, of which class 2 has 4: with weights the model says it at least as often, and the loss is another."""
    plain = make_data("images")
    rows = torch.cat([(plain.train_labels < 2).nonzero()[:, 0], (plain.train_labels == 2).nonzero()[:4, 0]])
    rare = dataclasses.replace(plain, train=plain.train[rows], train_labels=plain.train_labels[rows])
    runs = [
        fit(tmp_path / name, rare, "classifier", class_weights=name, max_steps=10) for name in ("equal", "balanced")
    ]
    scaled = [run.best.scaled(rare.train) for run in runs]
    said = [run.best(x).softmax(1)[:, 2].mean() for run, x in zip(runs, scaled, strict=True)]
    assert float(said[1]) > float(said[0])


def test_a_data_set_checks_its_weights():
    for bad in (torch.ones(3), -torch.ones(50), torch.zeros(50), torch.full((50,), math.inf)):
        with pytest.raises(data.DataError, match="train_weights of curve must be"):
            weighted(weights=bad)
