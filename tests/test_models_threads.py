"""One model in many threads: nothing about a call is on the model."""

import copy
import random
import sys
import threading
import warnings

import pytest
import torch
from models_examples import make_classifier, make_data, make_flow, make_hybrid

from iresnet_fast import nn
from iresnet_fast.estimators import Exact, PowerSeries
from iresnet_fast.training import evaluate

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:iresnet_fast. .* as its branch on the autograd"),
]

CLOSE = {"rtol": 1e-9, "atol": 1e-8}


@pytest.fixture(autouse=True)
def switching():
    """Let Python switch between threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def run(n_threads, work):
    """Run `work(number of the thread)` in threads that start together; raise what one of them raised."""
    start, raised = threading.Barrier(n_threads), []

    def target(number):
        try:
            start.wait()
            work(number)
        except BaseException as error:  # raised below, in the main thread
            raised.append(error)

    threads = [threading.Thread(target=target, args=(number,)) for number in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]


def flow_verbs(name):
    """A flow in eval mode that nobody has called in it, and all that can be asked of it."""
    flow = make_flow(name).eval()
    x, context = make_data(flow)
    z = torch.randn(5, flow.prior.n_dims, dtype=torch.float64)
    verbs = {
        "forward": lambda flow: flow(x, context)[1],
        "log_prob": lambda flow: flow.log_prob(x, context),
        "bits_per_dim": lambda flow: flow.bits_per_dim(x, context),
        "transform_to_noise": lambda flow: flow.transform_to_noise(x, context),
        "solve": lambda flow: flow.solve(z, context).x,
        "sample": lambda flow: flow.sample(5, context, seed=3),
        "reconstruct": lambda flow: flow.reconstruct(x, context).z,
        "interpolate": lambda flow: flow.interpolate(x[0], x[1], 3, None if context is None else context[0]),
    }
    if flow.config.n_levels is None:  # else a latent need be that of no data
        verbs["inverse"] = lambda flow: torch.cat([part.flatten() for part in flow.inverse(z, context)])
    return flow, verbs


def model_verbs(kind):
    """The same of other models."""
    if kind == "classifier":
        model, x = make_classifier("small")
        features = copy.deepcopy(model).eval().features(x).detach()
        verbs = {
            "logits": lambda model: model(x),
            "features": lambda model: model.features(x),
            "invert": lambda model: model.invert(features),
            "reconstruct": lambda model: model.reconstruct(x).features,
        }
        return model.eval(), verbs
    model, x, _ = make_hybrid(eval_estimator=PowerSeries(12))
    model(x)
    verbs = {
        "forward": lambda model: torch.cat([part.flatten() for part in model(x)]),
        "log_prob": lambda model: model.flow.log_prob(x),
        "solve": lambda model: model.flow.solve(torch.zeros(2, 64, dtype=torch.float64)).x,
    }
    return model.eval(), verbs


@pytest.mark.parametrize(
    "name", ["dense", "context", "densenet", "image, factored out", "digits", "classifier", "hybrid"]
)
@torch.no_grad()
def test_eight_threads_at_once_on_a_cold_model(name):
    model, verbs = model_verbs(name) if name in ("classifier", "hybrid") else flow_verbs(name)
    expected = {verb: call(copy.deepcopy(model)) for verb, call in verbs.items()}
    for _ in range(3):
        cold = copy.deepcopy(model)

        def work(number, cold=cold):
            draw = random.Random(number)
            for verb in draw.choices(list(verbs), k=4):
                with torch.no_grad():
                    torch.testing.assert_close(verbs[verb](cold), expected[verb], **CLOSE)

        run(8, work)


@torch.no_grad()
def test_two_threads_and_a_thousand_calls_give_the_numbers_of_one():
    flow, verbs = flow_verbs("dense")
    expected = {verb: call(flow) for verb, call in verbs.items()}

    def work(number):
        draw = random.Random(number)
        for verb in draw.choices(list(verbs), k=1000):
            with torch.no_grad():
                torch.testing.assert_close(verbs[verb](flow), expected[verb], **CLOSE)

    run(2, work)


@pytest.mark.parametrize("name", ["dense", "image"])
@torch.no_grad()
def test_the_mode_may_change_meanwhile(name):
    """What is exact is the same in both modes: the estimators, and the norms of layers as small as these."""
    torch.manual_seed(0)
    flow = make_flow(name).eval()
    for part in flow.modules():
        if isinstance(part, nn.InvertibleResidualBlock):
            part.train_estimator = part.eval_estimator = Exact()
    x, _ = make_data(flow)
    z = flow.transform_to_noise(x)
    expected, done = (flow.log_prob(x), flow.solve(z).x), threading.Event()

    def work(number):
        if number == 0:
            while not done.wait(0.0):
                flow.train()
                flow.eval()
            return
        try:
            for _ in range(50):
                with torch.no_grad():
                    torch.testing.assert_close((flow.log_prob(x), flow.solve(z).x), expected, **CLOSE)
        finally:
            finished.append(number)
            if len(finished) == 3:
                done.set()

    finished = []
    run(4, work)


@pytest.mark.parametrize("kind", ["residual", "dense"])
@torch.no_grad()
def test_images_of_several_sizes_at_once(kind):
    torch.manual_seed(0)
    branch = nn.ResidualBranch.conv([2, 6, 2], [3, 3]) if kind == "residual" else nn.DenseBranch.conv(2, 3, 2, 3)
    block = nn.InvertibleResidualBlock(branch, Exact(), lipschitz=0.95).double().eval()
    for layer in branch.layers:
        layer.weight.mul_(5.0)
    images = [torch.randn(3, 2, *size, dtype=torch.float64) for size in ((4, 4), (5, 3), (6, 6), (3, 7))]
    expected = [copy.deepcopy(block)(x) for x in images]

    def work(number):
        for i in random.Random(number).choices(range(4), k=6):
            with torch.no_grad():
                torch.testing.assert_close(block(images[i]), expected[i], **CLOSE)

    run(8, work)


@torch.no_grad()
def test_parts_and_the_whole_at_once():
    """Parts called alone are refreshed alone, until the whole is: then all together."""
    flow = nn.Sequential(
        *[nn.InvertibleResidualBlock(nn.ResidualBranch.dense([3, 8, 3]), PowerSeries(4)) for _ in range(4)]
    ).eval()
    x = torch.randn(5, 3)
    calls = [lambda flow, i=i: flow[i](x)[1] for i in range(4)]
    calls += [lambda flow: flow(x)[1], lambda flow: flow.inverse(x)[0], nn.update_spectral_norm]
    expected = [call(copy.deepcopy(flow)) for call in calls]
    for _ in range(5):
        cold = copy.deepcopy(flow)

        def work(number, cold=cold):
            for i in random.Random(number).choices(range(len(calls)), k=6):
                with torch.no_grad():
                    torch.testing.assert_close(calls[i](cold), expected[i], rtol=1e-4, atol=1e-5)

        run(8, work)


def test_a_thread_that_trains_does_not_lose_its_log_determinants_to_one_that_samples():
    flow = make_flow("image")
    x, _ = make_data(flow)
    stop = threading.Event()

    def work(number):
        if number == 0:
            while not stop.is_set():
                flow.sample(2)
            return
        try:
            for _ in range(20):
                z, logdet = flow(x)
                assert float(logdet.detach().abs().min()) > 0.0
                (flow.prior.log_prob(z) + logdet).mean().backward()
        finally:
            stop.set()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(2, work)


def test_threads_that_evaluate_a_model_in_training_take_turns():
    flow = make_flow("image").train()
    x, _ = make_data(flow, 12)
    flow.body[0].eval()
    modes = [module.training for module in flow.modules()]
    expected = evaluate(flow, x)
    state, found = torch.get_rng_state(), [None] * 4

    def work(number):
        found[number] = evaluate(flow, x, batch_size=3 + number)

    run(4, work)
    for one in found:
        assert one.metrics == pytest.approx(expected.metrics, rel=1e-9)
    assert [module.training for module in flow.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
