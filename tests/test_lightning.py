"""The Lightning example: a LightningModule needs nothing for the spectral norms but the model itself."""

import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning")
sys.path.append(str(Path(__file__).parents[1] / "examples"))

import lightning_digits

from iresnet_fast.models import IResNetFlow

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]


def make_flow():
    torch.manual_seed(0)
    flow = IResNetFlow.preset("digits", blocks=(2,), hidden=(8, 8))
    with torch.no_grad():
        for name, parameter in flow.named_parameters():
            if name.endswith("weight"):
                parameter.mul_(3.0)  # so that the layers are normalised from the start
    return flow


def test_layers_follow_the_weights(calls):
    flow = make_flow()
    weights = [parameter.clone() for parameter in flow.parameters()]
    result = lightning_digits.train(flow, max_steps=12, show_progress=False)
    assert not any(map(torch.equal, weights, flow.parameters()))
    # Power iteration ends at a relative change of 1e-5; the layers' own gaps make that 1e-3 at most.
    assert result.norm_before == pytest.approx(0.97, rel=1e-3)
    assert result.norm_after == pytest.approx(0.97, rel=1e-3)
    assert 2.0 < result.bits_per_dim < 4.2  # log2(17) = 4.09 is that of a uniform guess
    # Start and end, certificates included, take a few; each of the 12 steps takes one for all layers.
    assert calls.count(6) >= 12


def test_training_lowers_the_bits():
    start = lightning_digits.train(make_flow(), max_steps=1, show_progress=False).bits_per_dim
    assert lightning_digits.train(make_flow(), max_steps=60, show_progress=False).bits_per_dim < start - 0.1


def test_the_script_reports(capsys):
    lightning_digits.main(["--max-steps", "1"])
    assert "for coeff 0.97: 0.9" in capsys.readouterr().out
