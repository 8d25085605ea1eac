"""Flows of signals [B, C, L]: densities to rounding, inverses, samples, training, certificates, pictures."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from iresnet_fast import _library, nn
from iresnet_fast.certify import certify
from iresnet_fast.cli import main
from iresnet_fast.data import DataSet, load
from iresnet_fast.models import FlowConfig, IResNetFlow
from iresnet_fast.training.checkpoint import load_model
from iresnet_fast.training.fit import fit
from iresnet_fast.training.recipes import recipe

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {"event_shape": (2, 8), "blocks": (2,), "hidden": (8, 8), "kernel_sizes": (5, 1, 5)}
FLOWS = {
    "one scale": {},
    "3-1-3": {"kernel_sizes": (3, 1, 3), "preprocess": "standardize"},
    "two scales": {"blocks": (1, 1), "activation": "lipswish", "preactivation": True},
    "squeezed first": {"squeeze_first": True, "final_actnorm": True},
    "factored out": {"blocks": (1, 1), "factor_out": True},
    "context": {"context_features": 3, "prior": "conditional"},
    "dense": {"branch": "dense", "growth": 4, "depth": 2},
    "induced": {"branch": "induced"},
    "fully connected end": {"fc_blocks": 1, "fc_hidden": (8,)},
}


def flow_and_data(case, n=5, **changes):
    torch.manual_seed(0)
    flow = IResNetFlow(FlowConfig(**{**SMALL, **FLOWS[case], **changes})).double()
    x = 0.5 * torch.randn(n, *flow.config.event_shape, dtype=torch.float64).cumsum(2) + 1.0
    width = flow.config.context_features
    context = torch.randn(n, width, dtype=torch.float64) if width else None
    if flow.standardizes:
        flow.fit_preprocessing(x)
    flow.initialize(x, context)
    return flow.eval(), x, context


@pytest.mark.filterwarnings("ignore:iresnet_fast. Block runs a DenseBranch")
@pytest.mark.parametrize("case", FLOWS)
def test_log_prob_is_that_of_the_jacobian(case):
    flow, x, context = flow_and_data(case)

    def latent(one, given):
        return flow.transform_to_noise(one[None], None if given is None else given[None])[0]

    with _library.use_backend("reference"):
        jacobians = [
            torch.autograd.functional.jacobian(
                lambda one, i=i: latent(one, None if context is None else context[i]), x[i]
            )
            for i in range(len(x))
        ]
    logdet = torch.linalg.slogdet(torch.stack(jacobians).flatten(2))[1]
    z = flow.transform_to_noise(x, context)
    expected = flow.latent_log_prob(z, context) + logdet
    # 16 dimensions in float64: each of some hundred sums is rounded to 2^-53 of terms of some ten.
    assert torch.allclose(flow.log_prob(x, context), expected, rtol=0.0, atol=1e-11)


@pytest.mark.filterwarnings("ignore:iresnet_fast. Block runs a DenseBranch")
@pytest.mark.parametrize("case", FLOWS)
def test_the_inverse_is_as_exact_as_the_solver_says(case):
    flow, x, context = flow_and_data(case)
    found = flow.reconstruct(x, context)
    assert found.x.shape == x.shape
    assert float(found.block_error.max()) <= flow.config.solver.tol
    # The error of a block is stretched by the inverses of those before it, and by those of the ActNorms.
    blocks = sum(isinstance(module, nn.InvertibleResidualBlock) for module in flow.modules())
    stretch = 1.0 / certify(flow).bi_lipschitz[0]
    for module in flow.modules():
        if isinstance(module, nn.ActNorm):
            stretch *= max(1.0, float((-module.log_scale.detach()).exp().max()))
    assert float(found.error.max()) <= blocks * flow.config.solver.tol * stretch
    given = None if context is None else context[:3]
    samples = flow.sample(3, given, seed=1)
    assert samples.shape == (3, 2, 8)
    assert torch.equal(samples, flow.sample(3, given, seed=1))


def test_kernels_compute_what_the_reference_does():
    flow, x, _ = flow_and_data("two scales")
    with _library.use_backend("reference"):
        expected = flow.log_prob(x)
    assert torch.allclose(flow.log_prob(x), expected, rtol=0.0, atol=1e-11)  # as above


def test_interpolation_keeps_the_shape():
    flow, x, _ = flow_and_data("one scale")
    assert flow.interpolate(x[0], x[1], 3).shape == (3, 2, 8)
    assert flow.interpolate(x[:2], x[2:4], 3).shape == (3, 2, 2, 8)


def test_a_squeeze_of_a_row_joins_neighbours():
    x = torch.arange(12.0).view(1, 2, 1, 6)
    squeeze = nn.Squeeze((1, 2))
    z, logdet = squeeze(x)
    assert z.tolist() == [[[[0, 2, 4]], [[1, 3, 5]], [[6, 8, 10]], [[7, 9, 11]]]]
    assert logdet.tolist() == [0.0]
    assert torch.equal(squeeze.inverse(z)[0], x)
    image = torch.arange(24.0).view(1, 1, 4, 6)
    assert torch.equal(nn.Squeeze((2, 2))(image)[0], nn.Squeeze(2)(image)[0])
    assert nn.Squeeze((2, 3)).output_shape((1, 4, 6)) == (6, 2, 2)
    assert torch.equal(nn.Squeeze((2, 3)).inverse(nn.Squeeze((2, 3))(image)[0])[0], image)
    for factor in ((1, 1), (2,), (0, 2)):
        with pytest.raises(ValueError, match="factor"):
            nn.Squeeze(factor)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"event_shape": (2, 7), "blocks": (1, 1)}, "a length divisible by 2 for 1 squeezes"),
        ({"event_shape": (1, 8), "blocks": (1, 1), "factor_out": True}, "factor_out must be False for one channel"),
        ({"normalize": "branch"}, "normalize must be 'layers' or 'strict' for images, signals"),
        ({"kernel_sizes": (4, 1, 4)}, "kernel_sizes must be odd"),
        ({"event_shape": (2, 0)}, "event_shape"),
        ({"event_shape": (1, 2, 3, 4)}, r"event_shape must be \(d,\), \(C, L\) or \(C, H, W\)"),
    ],
)
def test_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        FlowConfig(**{**SMALL, **changes})


def test_every_block_has_a_certificate():
    flow, _, _ = flow_and_data("two scales")
    found = certify(flow)
    assert len(found.branches) == 2
    assert 0.0 < found.lower <= found.upper < 1.0


def waves(n=40, length=16):
    """Sines of random phase, with a little noise."""
    generator = torch.Generator().manual_seed(0)
    phase = 2.0 * math.pi * torch.rand(n, 1, 1, generator=generator)
    x = torch.sin(phase + torch.linspace(0.0, 6.0, length)) + 0.1 * torch.randn(n, 1, length, generator=generator)
    return DataSet("waves", x[:-8], x[-8:])


def test_training_lowers_the_nats_and_a_checkpoint_holds_the_model(tmp_path):
    dataset = waves()
    torch.manual_seed(0)
    model, training = recipe(dataset, changes={"blocks": (2,), "hidden": (8, 8)})
    training = training.replace(max_minutes=None, max_steps=30)
    done = fit(model, dataset, training, tmp_path / "run", show_progress=False)
    assert list(done.evaluation.metrics) == ["nats"]
    losses = [row["loss"] for row in done.history]
    assert losses[-1] < losses[0]
    again = load_model(tmp_path / "run")
    assert again.config == done.best.config
    assert torch.equal(again.sample(2, seed=0), done.best.eval().sample(2, seed=0))


def test_the_command_line_trains_samples_and_reconstructs(tmp_path, capsys):
    dataset = waves()
    np.savez(tmp_path / "waves.npz", train=dataset.train.numpy(), test=dataset.test.numpy())
    assert load(tmp_path / "waves.npz").event_shape == (1, 16)
    run = str(tmp_path / "run")
    small = ["--set", "blocks=[1]", "--set", "hidden=[4,4]", "--max-steps", "2", "--threads", "1", "--quiet"]
    assert main(["train", "--data", str(tmp_path / "waves.npz"), "--folder", run, *small]) == 0
    with Image.open(tmp_path / "run" / "samples.png") as picture:
        assert picture.format == "PNG"
    out = str(tmp_path / "x.png")
    assert main(["sample", run, "--out", out, "--npy", str(tmp_path / "x.npy"), "--n", "3"]) == 0
    assert np.load(tmp_path / "x.npy").shape == (3, 1, 16)
    assert main(["reconstruct", run, "--data", str(tmp_path / "waves.npz"), "--out", str(tmp_path / "again.npy")]) == 0
    assert "error of a sample" in capsys.readouterr().out
