"""What two processes do for tests/test_distributed.py: small trainings, their gradients and their spectral norms."""

import copy
from contextlib import contextmanager
from datetime import timedelta
from unittest import mock

import torch
from models_examples import grow

from iresnet_fast import nn, ops
from iresnet_fast.estimators import Exact, PowerSeries
from iresnet_fast.models import FlowConfig, IResNetFlow
from iresnet_fast.nn._layer import SpectralLayer
from iresnet_fast.training import distributed
from iresnet_fast.training.tasks import LossModule, task_of

BATCH = 12
STEPS = 3
# Continuous data: dequantisation would draw noise, other numbers in every process.
CONFIGS = {
    "exact": FlowConfig((2,), blocks=(3,), hidden=(8, 8), train_estimator=Exact()),
    "series": FlowConfig(
        (1, 8, 4),
        blocks=(1, 1),
        hidden=(6, 6),
        squeeze_first=True,
        factor_out=True,
        fc_blocks=1,
        fc_hidden=(4,),
        train_estimator=PowerSeries(4),
    ),
}


def make(name, dtype=torch.float64):
    """A flow that has seen the joined batch, and the joined batch."""
    torch.manual_seed(0)
    flow = IResNetFlow(CONFIGS[name]).to(dtype)
    grow(flow)
    x = torch.randn(BATCH, *flow.config.event_shape, dtype=dtype)
    flow.initialize(x)
    return flow, x


def own(x):
    """The rows of this process."""
    return x[distributed.rank() :: distributed.world_size()]


@contextmanager
def one_probe_for_all():
    """Let every process take its rows of the probe that one process would have drawn for the joined batch."""
    generator, draw = torch.Generator().manual_seed(3), PowerSeries.draw

    def draw_joined(self, x, training):
        joined = x.new_empty(BATCH, *x.shape[1:])
        probe, coefficients = draw(self, joined, training, generator)
        return own(probe), coefficients

    with mock.patch.object(PowerSeries, "draw", draw_joined):
        yield


def gradients(name):
    """The starting state, the loss and the gradients of the joined batch, by all processes together."""
    flow, x = make(name)
    state = copy.deepcopy(flow.state_dict())
    with torch.no_grad():  # as DistributedDataParallel does, so that one process iterates its norms as often
        for parameter in flow.parameters():
            parameter.copy_(parameter.clone())
    module = distributed.wrap(LossModule(flow, task_of(flow)))
    with distributed.sharded_spectral_norms(flow), one_probe_for_all():
        loss = module(own(x), None)
        loss.backward()
    return state, distributed.mean(loss), {name: p.grad.clone() for name, p in flow.named_parameters()}


def layers_of(model):
    return [module for module in model.modules() if isinstance(module, SpectralLayer)]


def norms_of(model):
    return [x.clone() for layer in layers_of(model) for x in (layer.sigma, layer.u, layer.v, layer.companion)]


def train(name="series"):
    """Three steps: norms of the model after each, those of a model of the same weights that is not sharded, calls."""
    flow, x = make(name, torch.float32)
    twin, _ = make(name, torch.float32)
    module = distributed.wrap(LossModule(flow, task_of(flow)))
    optimizer = torch.optim.Adam(flow.parameters(), 1e-2)
    calls, twins, norms = [], [], []
    for model in (flow, twin):
        model(x)  # the first norms are found by every process for itself
    counting = mock.patch.object(ops, "lanczos_norm", side_effect=ops.lanczos_norm)
    for _ in range(STEPS):
        with torch.no_grad():
            for theirs, ours in zip(twin.parameters(), flow.parameters(), strict=True):
                theirs.copy_(ours)
        twin(x)
        with counting as counted, distributed.sharded_spectral_norms(flow):
            module(own(x), None).backward()
            calls += [len(call.args[0]) for call in counted.call_args_list]
            if distributed.is_main():  # as an evaluation does: on a copy, while the others go on
                copy.deepcopy(flow).eval()(x)
        norms.append(norms_of(flow))
        twins.append(norms_of(twin))
        optimizer.step()
        optimizer.zero_grad()
    return {"calls": calls, "twins": twins, "norms": norms, "state": flow.state_dict()}


def lonely_layer():
    """The norm of a single layer: one process has nothing to iterate."""
    torch.manual_seed(0)
    layer, twin = (nn.SpectralLinear(5, 4) for _ in range(2))
    twin.load_state_dict(layer.state_dict())
    with nn.shard_spectral_norms(layer):
        sigmas = nn.update_spectral_norm(layer)
    return sigmas, nn.update_spectral_norm(twin), norms_of(layer), norms_of(twin)


def run(rank, store, folder):
    """Everything, in one of two processes; what comes out is left in a file."""
    torch.set_num_threads(1)
    # A process that waits for a collective nobody else takes part in must fail, not hang.
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(minutes=2)
    )
    results = {
        "gradients": {name: gradients(name) for name in CONFIGS},
        "train": train(),
        "lonely": lonely_layer(),
        "agreed": distributed.agreed(rank + 0.1),
        "main": distributed.is_main(),
    }
    distributed.barrier()
    torch.save(results, f"{folder}/{rank}")
    torch.distributed.destroy_process_group()
