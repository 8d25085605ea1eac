"""Typicality: p-values by rank that are exact for rows of the same kind, and the training scores they come from."""

import math

import pytest
import torch
from gaussian_runs import gaussian_flow, save_run
from training_examples import make_data, make_model

from iresnet_fast import training
from iresnet_fast.training.batches import Batch
from iresnet_fast.training.scores import row_scores
from iresnet_fast.training.typicality import p_values, reference_scores, training_scores

pytestmark = pytest.mark.usefixtures("one_thread")


def normal(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_every_rank_comes_once_if_each_score_is_compared_with_the_others():
    # What exchangeability rests on: of n + 1 scores with different distances from their mean, each is as likely to be
    # the one that is looked at, and their p-values are 1 / (n + 1), 2 / (n + 1), ..., 1.
    scores = normal(41, 1)[:, 0].double()
    found = [float(p_values(scores[i : i + 1], torch.cat((scores[:i], scores[i + 1 :])))) for i in range(41)]
    assert sorted(found) == pytest.approx([rank / 41 for rank in range(1, 42)], rel=1e-12)
    # The farther from the mean of all, the smaller.
    distance = (scores - scores.mean()).abs()
    assert torch.tensor(found)[distance.argsort(descending=True)].diff().min() > 0


def test_by_the_formula():
    reference = normal(30, 1)[:, 0].double()
    scores = torch.tensor([-7.0, -1.0, 0.0, 0.3, 2.0, 50.0], dtype=torch.float64)
    for score, found in zip(scores, p_values(scores, reference), strict=True):
        mean = (reference.sum() + score) / 31
        farther = int(((reference - mean).abs() >= (score - mean).abs()).sum())
        assert float(found) == pytest.approx((1 + farther) / 31, rel=1e-12)


def test_what_is_no_number_and_what_is_far_away():
    reference = normal(99, 1)[:, 0]
    found = p_values(torch.tensor([math.nan, -math.inf, -1e30, 1e30, math.inf]), reference)
    assert math.isnan(found[0])
    assert found[1:].tolist() == pytest.approx([0.01] * 4, rel=1e-12)
    assert float(p_values(reference.mean()[None], reference)) == 1.0
    assert p_values(torch.zeros(3), torch.zeros(5)).tolist() == [1.0] * 3  # ties are no evidence


@pytest.mark.parametrize("reference", [torch.zeros(0), torch.tensor([0.0, math.nan])])
def test_a_reference_must_hold_numbers(reference):
    with pytest.raises(ValueError, match="reference must hold finite scores, one at least, got"):
        p_values(torch.zeros(1), reference)


def test_outliers_on_either_side_are_found():
    data = normal(2000, 20)
    flow = gaussian_flow(data)
    reference = training_scores(flow, Batch(data))
    new = torch.cat((normal(500, 20, 1), 3.0 * normal(20, 20, 2), 1e-3 * normal(20, 20, 3)))
    p = p_values(row_scores(flow, Batch(new)).log_prob, reference)
    # Of rows of the same kind a share of 0.1 is below 0.1, within four standard errors of a share of 500 rows; three
    # times the scale, or next to the mode, is hundreds or three standard deviations of the score away: its squared
    # distance is 20 +- sqrt(40), and 180 or 0 there.
    assert abs(float((p[:500] < 0.1).double().mean()) - 0.1) < 4.0 * math.sqrt(0.1 * 0.9 / 500)
    assert float(p[500:520].max()) <= 1.0 / 1000
    assert float(p[520:].max()) < 0.01


def test_training_scores_are_sorted_and_taken_at_even_distances():
    data, flow = make_data().train, make_model()
    flow.initialize(data)
    found = training_scores(flow, Batch(data))
    each = row_scores(flow, Batch(data)).log_prob
    assert torch.equal(found, each.sort().values)
    assert found.dtype == torch.float64
    some = training_scores(flow, Batch(data), most=8)
    assert torch.equal(some, each[[0, 7, 14, 21, 28, 35, 42, 49]].sort().values)
    with pytest.raises(ValueError, match="model must have a density, got a IResNetClassifier; pass a flow or a hybrid"):
        training_scores(make_model("classifier"), Batch(make_data("images").train))


def test_scores_of_a_run(tmp_path):
    flow, scores = gaussian_flow(normal(50, 2)), torch.tensor([-3.0, -1.0], dtype=torch.float64)
    with_them = save_run(tmp_path / "with", flow, scores=scores)
    assert torch.equal(reference_scores(with_them), scores)
    assert torch.equal(reference_scores(with_them / "model.safetensors"), scores)
    assert reference_scores(save_run(tmp_path / "without", flow)) is None
    broken = save_run(tmp_path / "broken", flow, scores=torch.tensor([math.nan]))
    with pytest.raises(training.CheckpointError, match=r"model.safetensors must hold finite training scores \[n\], g"):
        reference_scores(broken)
