"""Training steps to capture in a CUDA graph, and the test that its replays are eager steps."""

from typing import NamedTuple
from unittest.mock import patch

import torch
from emulated_graph import capture
from nn_models import make_block, make_conv, make_linear

from iresnet_fast import _capture, nn
from iresnet_fast.estimators import Exact, PowerSeries, RussianRoulette
from iresnet_fast.models import FlowConfig, IResNetFlow

N_WARMUPS, N_STEPS, N_BETWEEN = 3, 20, 5
SGD = lambda parameters, device: torch.optim.SGD(parameters, 0.05, momentum=0.9)  # noqa: E731
# Fused, it counts its steps on the device, which torch calls capturable on a GPU only.
ADAM = lambda parameters, device: torch.optim.Adam(parameters, 0.01, fused=True, capturable=device == "cuda")  # noqa: E731


class FixedLength(RussianRoulette):
    """Draws in eager mode as RussianRoulette does in a capture: the same numbers from the same generator."""

    def draw(self, x, training, **options):
        with patch.object(_capture, "of", lambda _: 0):
            return super().draw(x, training, **options)


class Case(NamedTuple):
    """A model and how it is trained."""

    make: object  # (the class of a roulette) -> model
    shape: tuple[int, ...]  # of a batch
    optimizer: object = SGD
    bitwise: bool = True  # on a GPU; torch's own products may take another way in a capture


def _block(kind, estimator=None, **options):
    return lambda roulette: make_block(kind, estimator or roulette(**options), activation="lipswish")


def _dense_net(roulette):
    return nn.InvertibleResidualBlock(nn.DenseBranch.dense(6, 4, 2), PowerSeries(4))


def _flow(*event_shape, **options):
    return lambda roulette: IResNetFlow(FlowConfig(event_shape, hidden=(6, 6), **options))


_IMAGES = {"blocks": (1, 1), "squeeze_first": True, "factor_out": True, "preprocess": "logit"}
_DENSE, _CONV = (4, 6), (4, 4, 5, 3)

CASES = {
    "linear": Case(lambda _: make_linear(), (3, 7)),
    "linear, Adam": Case(lambda _: make_linear(), (3, 7), ADAM),
    "conv": Case(lambda _: make_conv(), (2, 3, 6, 5)),
    "conv, Adam": Case(lambda _: make_conv(), (2, 3, 6, 5), ADAM),
    "dense block": Case(_block("dense", PowerSeries(5)), _DENSE),
    "dense block, Adam": Case(_block("dense", PowerSeries(5, n_probes=2, probe="gaussian")), _DENSE, ADAM),
    "dense block, tolerance": Case(_block("dense", PowerSeries(20, tol=1e-2)), _DENSE),
    "dense block, roulette": Case(_block("dense"), _DENSE, ADAM),
    "dense block, roulette for each sample": Case(_block("dense", per_sample=True), _DENSE, ADAM),
    "dense block, exact": Case(_block("dense", Exact()), _DENSE),
    "conv block": Case(_block("conv", PowerSeries(5)), _CONV),
    "conv block, series": Case(_block("conv", PowerSeries(3, gradient="series")), _CONV),
    "conv block, roulette": Case(_block("conv", distribution="poisson"), _CONV),
    "conv block, roulette for each sample": Case(_block("conv", distribution="poisson", per_sample=True), _CONV),
    "autograd branch": Case(_dense_net, _DENSE, bitwise=False),
    "autograd branch, tolerance": Case(
        lambda _: nn.InvertibleResidualBlock(nn.DenseBranch.dense(6, 4, 2), PowerSeries(20, tol=1e-2)),
        _DENSE,
        bitwise=False,
    ),
    "flow of vectors": Case(_flow(3, blocks=(2,), linear=True, final_actnorm=True, noise_channels=1), (5, 3), ADAM),
    "flow of images": Case(_flow(1, 8, 4, **_IMAGES, n_levels=16), (5, 1, 8, 4), ADAM),
    "flow, induced norms": Case(_flow(3, blocks=(2,), branch="induced"), (5, 3), ADAM, bitwise=False),
}


class Training:
    """A model, its optimizer, and tensors at fixed places for a batch and the loss."""

    def __init__(self, case, device, roulette=RussianRoulette):
        torch.manual_seed(0)
        self.model = case.make(roulette).to(device)
        self.n_levels = self.model.config.n_levels if isinstance(self.model, IResNetFlow) else None
        self.x, self.loss = torch.zeros(case.shape, device=device), torch.zeros((), device=device)
        self.parameters = list(self.model.parameters())
        self.optimizer = case.optimizer(self.parameters, device)
        self.next_batch()
        if isinstance(self.model, IResNetFlow):
            self.model.initialize(self.x)

    def next_batch(self):
        """Put other data where the step reads them."""
        shape = self.x.shape  # drawn on the CPU: whatever the device, its generator is left to the step
        self.x.copy_(torch.randn(shape) if self.n_levels is None else torch.randint(self.n_levels, shape))

    def step(self):
        self.optimizer.zero_grad()
        loss = self.loss_of(self.model(self.x))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.loss.copy_(loss.detach())

    def loss_of(self, output):
        if isinstance(output, torch.Tensor):
            return (output - 1.0).square().mean()
        z, logdet = output
        if isinstance(self.model, IResNetFlow):
            return -(self.model.prior.log_prob(z) + logdet).mean()
        return (0.5 * z.square().flatten(1).sum(1) - logdet).mean()

    @torch.no_grad()
    def evaluate(self):
        """Return what evaluation says of the batch, as tensors of its own."""
        self.model.eval()
        output = self.model(self.x)
        self.model.train()
        return [output] if isinstance(output, torch.Tensor) else list(output)

    def state(self):
        """Return copies of all that a step changes."""
        of_optimizer = [t for values in self.optimizer.state.values() for t in values.values() if t is not None]
        tensors = [self.loss, *self.parameters, *self.model.buffers(), *of_optimizer]
        return [t.detach().clone() for t in tensors]


def assert_replays_are_eager_steps(name, device):
    """Check 20 replays, with evaluation in eager mode between them, against 20 eager steps."""
    case = CASES[name]
    eager, captured = Training(case, device, FixedLength), Training(case, device)
    expected, found = [], []
    torch.manual_seed(1)
    for _ in range(N_WARMUPS):
        eager.step()
    _run(eager, eager.step, expected)
    torch.manual_seed(1)
    _run(captured, capture(captured.step, device, N_WARMUPS).replay, found)
    tolerance = {} if device == "cuda" and not case.bitwise else {"rtol": 0.0, "atol": 0.0}
    torch.testing.assert_close(found, expected, **tolerance)


def _run(training, step, results):
    for i in range(N_STEPS):
        if i % N_BETWEEN == 0:
            results.append(training.evaluate())
        training.next_batch()
        step()
        results.append(training.state())
