"""What one process computes with a flow, and what two do that share its parameters out by fully_shard."""

from contextlib import suppress
from datetime import timedelta

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from iresnet_fast import nn
from iresnet_fast.certify import certify
from iresnet_fast.models import FlowConfig, IResNetFlow
from iresnet_fast.models._plain import UnboundedBlock
from iresnet_fast.nn._layer import SpectralLayer
from iresnet_fast.solvers import FixedPoint

CONFIGS = {
    "residual": FlowConfig((2,), (2,), (8, 8), activation="lipswish"),
    "images": FlowConfig(
        (1, 4, 4),
        (1, 1),
        (6, 6),
        activation="lipswish",
        squeeze_first=True,
        factor_out=True,
        fc_blocks=1,
        fc_hidden=(4,),
    ),
    "dense": FlowConfig((2,), (2,), branch="dense", activation="clipswish"),
    "mixed": FlowConfig((2,), (2,), (8, 8), activation="lipswish", linear=True),
}
PARTS = {
    "whole": (),
    "blocks": (nn.InvertibleResidualBlock,),
    "branches": (nn.ResidualBranch,),
    "layers": (SpectralLayer,),
    "everything": (SpectralLayer, nn.ActNorm, nn.InvertibleResidualBlock, nn.Sequential),
}
CASES = [("residual", parts) for parts in PARTS] + [
    ("images", "whole"),
    ("images", "blocks"),
    ("dense", "whole"),
    ("dense", "blocks"),
]
DISTURBED = [(parts, kept) for parts in ("whole", "blocks", "layers") for kept in (False, True)]
STEPS = 3
WHOLE = StateDictOptions(full_state_dict=True)


def make(name, seed=0):
    """A flow of float64 that has seen no data, its weights large enough to be normalised."""
    torch.manual_seed(seed)
    flow = IResNetFlow(CONFIGS[name]).double()
    with torch.no_grad():
        for module in flow.modules():
            if isinstance(module, SpectralLayer):
                module.weight.mul_(2.0)
    return flow


def shard(flow, parts, **options):
    for module in reversed(list(flow.modules())):
        if isinstance(module, PARTS[parts]) and next(module.parameters(), None) is not None:
            fully_shard(module, **options)
    return fully_shard(flow, **{"reshard_after_forward": parts != "whole", **options})


def gathered(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def follow(flow, name, rank=0, n_ranks=1):
    """Train from the first batch on, by data and by reverse KL, evaluate with every method; return what came out."""
    x = torch.randn(8, *CONFIGS[name].event_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rows = x[rank::n_ranks]
    optimizer = torch.optim.Adam(flow.parameters(), 0.02)
    found = {}

    def step(loss, at):
        optimizer.zero_grad()
        loss.backward()
        found[f"loss {at}"] = loss.detach()
        for key, p in flow.named_parameters():
            if p.grad is not None:
                found[f"gradient {at} {key}"] = gathered(p.grad).clone()
        found[f"norm {at}"] = gathered(torch.nn.utils.clip_grad_norm_(flow.parameters(), 1.0))
        optimizer.step()

    for i in range(STEPS):
        torch.manual_seed(i)  # the same probes: those of a series differ between rows
        step(-flow.log_prob(rows).mean(), i)
    for i in range(2):
        torch.manual_seed(i)
        z, log_prob = flow.sample_and_log_prob(6)
        step((log_prob + z.flatten(1).square().sum(1)).mean(), f"reverse {i}")
    flow.eval()
    with torch.no_grad():
        found["z"], found["logdet"] = flow(x)
        found["x"], found["inverse logdet"] = flow.inverse(found["z"])
        found["log_prob"], found["bits"] = flow.log_prob(x), flow.bits_per_dim(x)
        found["sample"] = flow.sample(5, seed=3)
        found["latent"], found["solution"] = flow.transform_to_noise(x), flow.solve(found["z"]).x
        found["again"], found["line"] = flow.reconstruct(x).x, flow.interpolate(x[0], x[1], 3)
    for key, buffer in flow.named_buffers():
        if not key.endswith("companion"):  # of layers that have converged: rounding, brought to length one
            found[f"buffer {key}"] = buffer.clone()
    return found


def states(flow, name, parts):
    """The state of a sharded flow, that of another it was loaded into, and log_prob of that one."""
    state = get_model_state_dict(flow, options=WHOLE)
    other = shard(make(name, 5), parts)
    set_model_state_dict(other, dict(state), options=WHOLE)  # which puts the parts into the dictionary
    x = torch.randn(4, *CONFIGS[name].event_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return state, get_model_state_dict(other, options=WHOLE), flow.log_prob(x), other.eval().log_prob(x)


def scalars():
    """The betas of a sharded flow that was given the state of an earlier version, in which they were scalars."""
    state = {key: p.fill_(0.7).reshape(()) if "beta" in key else p for key, p in make("residual").state_dict().items()}
    flow = shard(make("residual", 5), "blocks")
    set_model_state_dict(flow, state, options=WHOLE)
    return {key: p for key, p in get_model_state_dict(flow, options=WHOLE).items() if "beta" in key}


def plain_block():
    torch.manual_seed(0)
    return UnboundedBlock((1, 4, 1), (3, 3), (4, 4), "lipswish", False, FixedPoint()).double()


def certified(block):
    found = certify(block)
    return found.lower, found.upper


def disturb(flow):
    """Calls between a backward pass and its step: one without a gradient, one that fails at once, one deep inside."""
    x = torch.randn(4, *flow.config.event_shape, dtype=torch.float64)
    with torch.no_grad():
        flow.eval().log_prob(x)
    flow.train().sample(2)
    with suppress(ValueError):
        flow.sample(-1)
    *_, deep = (module for module in flow.modules() if isinstance(module, nn.InvertibleResidualBlock))
    with suppress(ZeroDivisionError), deep.register_forward_pre_hook(lambda *_: 1 / 0):
        flow.log_prob(x)


def disturbed(flow, name):
    """Train by reverse KL, with other calls in between; return the state."""
    optimizer = torch.optim.SGD(flow.parameters(), 0.05)
    flow.log_prob(torch.randn(8, *CONFIGS[name].event_shape, generator=torch.Generator().manual_seed(1)).double())
    for i in range(STEPS):
        torch.manual_seed(i)
        z, log_prob = flow.sample_and_log_prob(6)
        optimizer.zero_grad()
        (log_prob + z.flatten(1).square().sum(1)).mean().backward()
        disturb(flow)
        optimizer.step()
    return {key: gathered(p).detach().clone() for key, p in flow.named_parameters()}


def mixed(policy=None):
    """log_prob with parameters in bfloat16 and buffers in float32; without a policy, in one process."""
    flow = make("mixed").float()
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(1))
    flow.log_prob(x)
    flow.eval()
    if policy is None:
        halves = {f"flow.{name}": p.bfloat16() for name, p in flow.named_parameters()}
        return torch.func.functional_call(LogProb(flow), halves, (x.bfloat16(),)).detach()
    return fully_shard(flow, mp_policy=policy, reshard_after_forward=True).log_prob(x).detach()


class LogProb(torch.nn.Module):
    def __init__(self, flow):
        super().__init__()
        self.flow = flow

    def forward(self, x):
        return self.flow.log_prob(x)


def refused():
    """What a block says whose branch has no kernels and is sharded by itself."""
    flow = make("dense")
    for module in flow.modules():
        if isinstance(module, nn.DenseBranch):
            fully_shard(module)
    try:
        fully_shard(flow)(torch.randn(3, 2, dtype=torch.float64))
    except RuntimeError as error:
        return str(error)


def run(rank, store, folder):
    """Everything, in one of two processes; what comes out is left in a file."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(minutes=2)
    )
    results = {}
    for name, parts in CASES:
        flow = shard(make(name), parts)
        results[name, parts] = follow(flow, name, rank, 2), states(flow, name, parts)
    results["scalars"] = scalars()
    results["certified"] = certified(fully_shard(plain_block()))
    for parts, kept in DISTURBED:
        flow = shard(make("residual"), parts, reshard_after_forward=not kept)
        results["disturbed", parts, kept] = disturbed(flow, "residual")
    for output_dtype in (None, torch.float32):
        results["mixed", output_dtype] = mixed(MixedPrecisionPolicy(torch.bfloat16, torch.float32, output_dtype))
    results["elements"] = [p.to_local().numel() for name, p in flow.named_parameters() if "beta" in name]
    results["refused"] = refused()
    torch.save(results, f"{folder}/{rank}")
    torch.distributed.destroy_process_group()
