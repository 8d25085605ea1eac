"""Distributed training computes what one process would: gradients, spectral norms, and the work is shared."""

import pytest
import ranks
import torch
from models_examples import CLASSIFIERS, FLOWS, make_data, make_hybrid
from nn_models import CONVOLUTIONS, make_conv, make_linear
from torch import multiprocessing

from iresnet_fast import nn, ops
from iresnet_fast.models import IDenseNet, IResNetClassifier, IResNetFlow, ResidualFlow
from iresnet_fast.nn._sharding import shares
from iresnet_fast.training import distributed
from iresnet_fast.training.tasks import LossModule, task_of

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What each of two processes saw."""
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(ranks.run, (str(folder / "store"), str(folder)), nprocs=2)
    return [torch.load(folder / str(rank)) for rank in range(2)]


def same_bits(one, other):
    """torch.equal takes 0.0 for -0.0."""
    return one.dtype == other.dtype and one.shape == other.shape and one.numpy().tobytes() == other.numpy().tobytes()


@pytest.mark.slow  # two processes import torch
@pytest.mark.parametrize("name", ranks.CONFIGS)
def test_gradients_are_those_of_the_joined_batch(both, name):
    state, loss, gradients = ranks.gradients(name)
    # float64 sums of 12 samples in another order: some eps = 2e-16 times the largest term.
    limit = 1e-13 * max(float(g.abs().max()) for g in gradients.values())
    for their_state, their_loss, theirs in (results["gradients"][name] for results in both):
        assert all(same_bits(their_state[key], value) for key, value in state.items())
        assert float(their_loss) == pytest.approx(float(loss), rel=1e-13)
        for key, gradient in gradients.items():
            torch.testing.assert_close(
                theirs[key], gradient, rtol=0.0, atol=limit, msg=lambda m, key=key: f"{key}: {m}"
            )


@pytest.mark.slow
def test_processes_hold_the_same_bits_after_training(both):
    first, second = (results["train"]["state"] for results in both)
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert same_bits(value, second[key]), key


@pytest.mark.slow
def test_sharded_norms_are_the_bits_of_unsharded_ones(both):
    for results in (r["train"] for r in both):
        for norms, twins in zip(results["norms"], results["twins"], strict=True):
            assert all(map(same_bits, norms, twins))
        assert not any(map(torch.equal, results["norms"][0][::4], results["norms"][1][::4]))  # they follow the weights


@pytest.mark.slow
def test_every_process_iterates_its_share_only(both):
    layers = len(ranks.layers_of(IResNetFlow(ranks.CONFIGS["series"])))
    first, second = (results["train"]["calls"] for results in both)
    assert len(first) == len(second) == ranks.STEPS - 1  # nothing is new in the first
    assert all(a + b == layers and 0 < a < layers for a, b in zip(first, second, strict=True))


@pytest.mark.slow
def test_more_processes_than_layers(both):
    for sigmas, expected, norms, twin in (results["lonely"] for results in both):
        assert same_bits(sigmas, expected)
        assert all(map(same_bits, norms, twin))


@pytest.mark.slow
def test_the_main_process_decides(both):
    assert [results["agreed"] for results in both] == [0.1, 0.1]
    assert [results["main"] for results in both] == [True, False]


def test_shares_are_even():
    costs = [7, 1, 5, 3, 3, 9, 2]
    parts = shares(costs, 3)
    assert sorted(i for part in parts for i in part) == list(range(len(costs)))
    assert [sum(costs[i] for i in part) for part in parts] == [10, 10, 10]
    assert shares([4], 2) == [[0], []]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tol", [1e-9, 1e-2])
def test_the_norm_of_a_layer_does_not_depend_on_the_others_of_the_call(dtype, tol):
    layers = [layer.to(dtype) for layer in (make_linear(), *map(make_conv, CONVOLUTIONS), torch_sized())]
    together = ops.lanczos_norm(*arguments(layers), 30, tol)
    for i, layer in enumerate(layers):
        alone = ops.lanczos_norm(*arguments([layer]), 30, tol)
        for one, of_all in zip(alone, together, strict=True):
            assert same_bits(one[0], of_all[i])


def torch_sized():
    return nn.SpectralLinear(33, 65)  # no multiple of a vector: the slices of the packed result are not aligned


def arguments(layers):
    return (
        [x.weight.detach() for x in layers],
        [x.u for x in layers],
        [x.v for x in layers],
        [x.companion for x in layers],
        [x.geometry for x in layers],
    )


def test_without_other_processes_nothing_changes():
    module = torch.nn.Linear(2, 2)
    with distributed.setup(), distributed.sharded_spectral_norms(module):
        assert distributed.wrap(module) is module
        assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
        distributed.barrier()
        assert distributed.agreed(0.3) == 0.3
        assert not torch.distributed.is_initialized()


def test_half_of_an_environment(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(ValueError, match=r"got no LOCAL_RANK, MASTER_ADDR, MASTER_PORT; start .* with torchrun\."):
        with distributed.setup():
            pass


def test_a_group_without_cpu_tensors(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "nccl")
    with pytest.raises(
        ValueError, match=r"must serve CPU tensors too, got nccl; initialise it with 'cpu:gloo,cuda:nccl'"
    ):
        with distributed.setup():
            pass


def test_sharding_needs_a_process_group():
    with pytest.raises(RuntimeError, match="must be initialised"), nn.shard_spectral_norms(make_linear()):
        pass


def test_other_errors_are_not_taken_for_a_lost_process(tmp_path):
    with pytest.raises(RuntimeError, match=r"^mine$"), distributed.translate_errors(tmp_path):
        raise RuntimeError("mine")


FAMILIES = {
    **{f"flow, {name}": lambda make=make: IResNetFlow(make()) for name, make in FLOWS.items() if "context" not in name},
    "flow, toy": lambda: IResNetFlow.preset("toy", blocks=(2,), hidden=(8, 8)),
    "residual flow, toy": lambda: ResidualFlow.preset("toy", blocks=(2,), hidden=(8, 8, 8, 8)),
    "residual flow, mnist": lambda: ResidualFlow.preset(
        "mnist", event_shape=(1, 8, 8), blocks=(1, 1), hidden=(6, 6), fc_blocks=1, fc_hidden=(4,)
    ),
    "densenet, cifar10": lambda: IDenseNet.preset(
        "cifar10_small", event_shape=(3, 8, 8), blocks=(1, 1), growth=3, depth=2, fc_blocks=1, fc_hidden=(4,)
    ),
    **{f"classifier, {name}": lambda make=make: IResNetClassifier(make()) for name, make in CLASSIFIERS.items()},
    "hybrid": lambda: make_hybrid(dtype=torch.float32)[0],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_has_a_gradient_in_every_step(family):
    """DistributedDataParallel would wait for the others; Russian roulette draws other lengths in every step."""
    torch.manual_seed(0)
    model = FAMILIES[family]()
    if isinstance(model, IResNetClassifier):
        x, labels = torch.rand(6, *model.config.image_shape), torch.arange(6) % model.config.n_classes
    else:
        x, labels = make_data(getattr(model, "flow", model), 6)[0].float(), torch.arange(6) % 3
    module = LossModule(model, task_of(model))
    for _ in range(4):
        module.zero_grad()
        module(x, labels).backward()
        assert [name for name, p in module.named_parameters() if p.grad is None or not p.requires_grad] == []
