"""What one process computes with a flow, and what two do that share its parameters out by fully_shard."""

from datetime import timedelta

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from iresnet_fast import nn
from iresnet_fast.models import FlowConfig, IResNetFlow
from iresnet_fast.nn._layer import SpectralLayer

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


def shard(flow, parts):
    for module in reversed(list(flow.modules())):
        if isinstance(module, PARTS[parts]) and next(module.parameters(), None) is not None:
            fully_shard(module)
    return fully_shard(flow, reshard_after_forward=parts != "whole")


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
    results["refused"] = refused()
    torch.save(results, f"{folder}/{rank}")
    torch.distributed.destroy_process_group()
