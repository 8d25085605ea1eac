"""A flow under fully_shard, its parameters shared out over two processes, computes what it does in one."""

import fsdp_ranks
import pytest
import torch
from torch import multiprocessing

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.slow,  # two processes import torch
    pytest.mark.filterwarnings("ignore:iresnet_fast.*autograd fallback"),
]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What each of two processes saw."""
    folder = tmp_path_factory.mktemp("fsdp")
    multiprocessing.spawn(fsdp_ranks.run, (str(folder / "store"), str(folder)), nprocs=2)
    return [torch.load(folder / str(rank)) for rank in range(2)]


@pytest.fixture(scope="module")
def alone():
    """What one process computes with each of the flows."""
    return {name: fsdp_ranks.follow(fsdp_ranks.make(name), name) for name in {name for name, _ in fsdp_ranks.CASES}}


@pytest.mark.parametrize(("name", "parts"), fsdp_ranks.CASES)
def test_numbers_are_those_of_one_process(both, alone, name, parts):
    """float64, norms known to its rounding: sums in another order, over five steps and an inverse to 1e-6."""
    found = [results[name, parts][0] for results in both]
    assert found[0].keys() == found[1].keys() == alone[name].keys()
    for key, expected in alone[name].items():
        if key.startswith("loss") and "reverse" not in key:
            torch.testing.assert_close((found[0][key] + found[1][key]) / 2, expected, atol=1e-8, rtol=0.0)
            continue
        for results in found:
            torch.testing.assert_close(
                results[key], expected, atol=1e-5, rtol=1e-5, msg=lambda m, key=key: f"{key}: {m}"
            )
        if key.startswith("buffer"):
            assert torch.equal(found[0][key], found[1][key]), key


@pytest.mark.parametrize(("name", "parts"), fsdp_ranks.CASES)
def test_states_are_whole_and_load(both, alone, name, parts):
    for results in both:
        state, loaded, expected, log_prob = results[name, parts][1]
        assert state.keys() == loaded.keys() == fsdp_ranks.make(name).state_dict().keys()
        assert all(torch.equal(loaded[key], value) for key, value in state.items())
        torch.testing.assert_close(log_prob, expected)


@pytest.mark.parametrize(("parts", "kept"), fsdp_ranks.DISTURBED)
def test_other_calls_between_a_backward_pass_and_its_step_change_nothing(both, parts, kept):
    """Failed ones too; also where parameters stay gathered between forward and backward pass."""
    expected = fsdp_ranks.disturbed(fsdp_ranks.make("residual"), "residual")
    for results in both:
        for key, value in results["disturbed", parts, kept].items():
            torch.testing.assert_close(value, expected[key], atol=1e-8, rtol=1e-8, msg=lambda m, key=key: f"{key}: {m}")


def test_a_state_of_an_earlier_version_loads_into_a_sharded_flow(both):
    """Its betas are scalars, which torch does not share out."""
    for results in both:
        assert {tuple(beta.shape) for beta in results["scalars"].values()} == {(1,)}
        assert {float(beta) for beta in results["scalars"].values()} == {0.7}


def test_bounds_of_a_sharded_model(both):
    expected = fsdp_ranks.certified(fsdp_ranks.plain_block())
    for results in both:
        assert results["certified"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.filterwarnings("ignore:iresnet_fast. there are no kernels for torch.bfloat16")
@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_methods_with_mixed_precision(both, dtype):
    expected = fsdp_ranks.mixed()
    assert expected.dtype == torch.bfloat16
    for results in both:
        assert torch.equal(results["mixed", dtype], expected if dtype is None else expected.to(dtype))


def test_the_one_element_of_a_beta_is_with_one_process(both):
    counts = [results["elements"] for results in both]
    assert counts[0]
    assert [sum(pair) for pair in zip(*counts, strict=True)] == [1] * len(counts[0])


def test_parts_of_a_branch_on_the_autograd_path_are_refused(both):
    for results in both:
        assert "branch must not be sharded by itself" in results["refused"]
        assert "call fully_shard on the block instead" in results["refused"]


def test_ordinary_models_have_their_methods_as_they_are():
    flow = fsdp_ranks.make("residual")
    assert not hasattr(type(flow).inverse, "__wrapped__")
    sharded = type("Sharded", (torch.distributed.fsdp.FSDPModule, type(flow)), {})
    assert sharded.inverse.__wrapped__ is type(flow).inverse


def test_a_call_of_a_method_sets_no_method_on_the_model(tmp_path, monkeypatch):
    seen, flow_type = [], fsdp_ranks.IResNetFlow
    plain = flow_type.log_prob
    monkeypatch.setattr(flow_type, "log_prob", lambda flow, x: (seen.append(set(vars(flow))), plain(flow, x))[1])
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        flow = torch.distributed.fsdp.fully_shard(fsdp_ranks.make("residual"), mesh=mesh)
        flow.log_prob(torch.randn(4, 2, dtype=torch.float64))
        assert len(seen) == 1
        assert "log_prob" not in seen[0]
    finally:
        torch.distributed.destroy_process_group()
