"""What fit does to a model, to its folder and to its caller."""

import copy
import csv
import dataclasses
import re

import pytest
import torch
from training_examples import make_config, make_data, make_model, same_bits

from iresnet_fast import models, training
from iresnet_fast.cli.main import main
from iresnet_fast.nn import SpectralLinear
from iresnet_fast.training import measures
from iresnet_fast.training.config import OPTIMIZERS
from iresnet_fast.training.optimization import Optimization
from iresnet_fast.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")


def run(folder, kind="plane", model=None, data=None, **changes):
    data = data or make_data("plane" if kind == "plane" else "images")
    return training.fit(model or make_model(kind), data, make_config(**changes), folder, show_progress=False)


@pytest.mark.parametrize(
    ("kind", "limits"),
    [
        ("plane", {"nats": 2.2}),  # the best normal distribution has 2.29
        ("flow", {"bits_per_dim": 3.5}),  # log2 13 = 3.7 for equal chances of the levels that occur
        ("classifier", {"error_percent": 0.0}),
        ("hybrid", {"bits_per_dim": 3.5, "error_percent": 0.0}),
    ],
)
def test_it_learns(kind, limits, tmp_path):
    """With the same call for all kinds of models; what is returned agrees with what was logged."""
    model = make_model(kind)
    done = run(tmp_path, kind, model, max_steps=60, learning_rate=2e-2)
    assert done.model is model
    assert not done.model.training
    assert not done.average.training
    assert done.best is done.average
    assert (done.step, done.folder) == (60, tmp_path)
    assert done.evaluation.metrics.keys() == limits.keys()
    for name, limit in limits.items():
        assert done.history[-1][f"test_{name}"] == done.evaluation.metrics[name] <= limit
    data = make_data("plane" if kind == "plane" else "images")
    assert done.evaluation == training.evaluate(done.best, data.test, data.test_labels)
    assert done.history[-1]["loss"] < done.history[0]["loss"]


def test_a_flow_without_residual_blocks_is_trained(tmp_path):
    flow = models.IResNetFlow(models.FlowConfig((2,), blocks=(0,), linear=True))
    done = run(tmp_path, model=flow, max_steps=3)
    assert done.evaluation.metrics["nats"] > 0.0
    assert main(["info", str(tmp_path)]) == 0


def test_steps_are_those_of_a_plain_loop(tmp_path):
    """The same weights and average as from torch.optim and a moving average written out here."""
    config = make_config(clip=0.5, ema=0.3, log_steps=1, initial_samples=10**6)
    done = run(tmp_path, clip=0.5, ema=0.3, log_steps=1, initial_samples=10**6)
    data, model = make_data(), make_model().train()
    with torch.random.fork_rng():
        from iresnet_fast.training import batches

        batches.seed_initial(0)
        made = batches.Batches(data, config, torch.device("cpu"))
        model.initialize(made.initial().x)
        optimizer = torch.optim.Adam(model.parameters(), fused=False, foreach=False)
        losses, norms = [], []
        average = [p.detach().clone() for p in model.parameters()]
        for step in range(12):
            batches.seed_batch(0, step)
            rate = 1e-2 * min((step + 1) / 3, 1.0) * min((1 - step / 12) / 0.4, 1.0)
            optimizer.param_groups[0]["lr"] = rate
            loss = -model.log_prob(made(step)[0]).mean()
            optimizer.zero_grad()
            loss.backward()
            norms.append(torch.stack([p.grad.square().sum() for p in model.parameters()]).sum().sqrt().item())
            for parameter in model.parameters():
                parameter.grad.mul_(min(1.0, 0.5 / (norms[-1] + 1e-6)))
            optimizer.step()
            losses.append(loss.item())
            new = [p.detach().clone() for p in model.parameters()]
            decay = min(0.3, (1 + step) / (10 + step))
            average = [decay * a + (1 - decay) * b for a, b in zip(average, new, strict=True)]
    assert max(norms) > 0.5  # something was clipped
    assert [row["loss"] for row in done.history] == pytest.approx(losses, rel=1e-4)
    assert [row["grad_norm"] for row in done.history] == pytest.approx(norms, rel=1e-3)
    # Adam divides by the root of squared gradients: rounding of a gradient near 0 becomes a fraction of a step.
    for ours, theirs in zip(done.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.0, atol=1e-4)
    for ours, theirs in zip(done.average.parameters(), average, strict=True):
        torch.testing.assert_close(ours.detach(), theirs, rtol=0.0, atol=1e-4)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_spectral_norms_follow_the_optimizer(optimizer, tmp_path, monkeypatch):
    """Fused optimizers write weights without counting the write."""
    advance = Trainer.advance

    def advance_and_look(self):
        advance(self)
        layers = [module for module in self._model.modules() if isinstance(module, SpectralLinear)]
        assert len(layers) == 6
        assert all(layer.group.is_stale(layer) for layer in layers)

    monkeypatch.setattr(Trainer, "advance", advance_and_look)
    model = models.IResNetFlow(make_model().config.replace(power_iterations=50, power_tolerance=1e-6))
    done = run(tmp_path, model=model, optimizer=optimizer, learning_rate=0.1, warmup_steps=0, log_steps=1, eval_steps=3)
    held = [(row["worst_norm"], row["lipschitz"]) for row in done.history if row["worst_norm"] is not None]
    assert len(held) == 4
    assert all(norm < 0.9 * 1.001 and lipschitz < 0.9**3 * 1.003 for norm, lipschitz in held)
    assert max(norm for norm, _ in held) > 0.89  # the bound holds them, not chance


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_weight_decay_has_an_effect(optimizer, tmp_path):
    """Without a gradient the weights shrink as the optimizer promises."""
    model = torch.nn.Linear(3, 3)
    before = [p.detach().clone() for p in model.parameters()]
    optimization = Optimization(model, make_config(optimizer=optimizer, weight_decay=0.5, clip=None))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimization.step(0, 0.01)
    for parameter, old in zip(model.parameters(), before, strict=True):
        # the first step of Adam and Adamax has the size of the rate, whatever the gradient is
        expected = old * (1 - 0.01 * 0.5) if optimizer in ("adamw", "sgd") else old - 0.01 * old.sign()
        if optimizer == "rmsprop":  # divides by the root of a hundredth of the squared gradient, and eps
            expected = old - 0.01 * 0.5 * old / (0.1 * 0.5 * old.abs() + 1e-8)
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-5, atol=1e-6)
    plain, decayed = (run(tmp_path / str(d), optimizer=optimizer, weight_decay=d, ema=None) for d in (0.0, 10.0))
    sizes = [sum(float(p.detach().square().sum()) for p in done.model.parameters()) for done in (plain, decayed)]
    assert sizes[1] < sizes[0]


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "adamax"])
@pytest.mark.parametrize("betas", [None, (0.5, 0.7)])
def test_betas_are_those_asked_for(optimizer, betas):
    """Two steps: in the first one of Adam the betas cancel."""
    ours, theirs = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    theirs.load_state_dict(ours.state_dict())
    optimization = Optimization(ours, make_config(optimizer=optimizer, betas=betas, clip=None))
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "adamax": torch.optim.Adamax}[optimizer]
    plain = kind(theirs.parameters(), 0.1, weight_decay=0.0, **({} if betas is None else {"betas": betas}))
    for step in range(2):
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            one.grad = other.grad = torch.randn_like(one)
        optimization.step(step, 0.1)
        plain.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0.0, atol=1e-6)  # fused or not: rounding of steps of 0.1


@pytest.mark.parametrize("kind", ["plane", "classifier", "hybrid"])
def test_how_often_one_looks_does_not_change_training(kind, tmp_path):
    never = run(tmp_path / "never", kind)
    often = run(tmp_path / "often", kind, eval_steps=1, checkpoint_steps=1, log_steps=1, eval_samples=3)
    assert same_bits(never.model.state_dict(), often.model.state_dict())
    assert same_bits(never.average.state_dict(), often.average.state_dict())
    assert never.evaluation == often.evaluation
    assert len(never.history) == 6
    assert len(often.history) == 12


def test_the_caller_is_left_as_it_was(tmp_path):
    data, config = make_data("images"), make_config(shift=1)
    before = copy.deepcopy(data.train), config.to_dict()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    training.fit(make_model("flow"), data, config, tmp_path, show_progress=False)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(data.train, before[0])
    assert config.to_dict() == before[1]


def test_the_callers_generator_has_no_part(tmp_path):
    torch.manual_seed(1)
    first = run(tmp_path / "1", "flow")
    torch.manual_seed(2)
    second = run(tmp_path / "2", "flow")
    assert same_bits(first.best.state_dict(), second.best.state_dict())


def test_standardising_models_see_the_statistics_of_the_training_data(tmp_path):
    data = make_data()
    data = dataclasses.replace(data, train=100.0 + 5.0 * data.train, test=100.0 + 5.0 * data.test)
    model = models.IResNetFlow(make_model().config.replace(preprocess="standardize"))
    run(tmp_path, model=model, data=data)
    (affine,) = model.preprocessing
    z, _ = affine(data.train)
    torch.testing.assert_close(z.mean(0), torch.zeros(2), rtol=0.0, atol=1e-4)  # 100 / 5 times the eps of float32
    torch.testing.assert_close(z.var(0, unbiased=False), torch.ones(2), rtol=0.03, atol=0.0)  # either way of dividing


@pytest.mark.parametrize(
    ("changes", "steps"), [({"max_steps": 7}, 7), ({"max_epochs": 2}, 8), ({"max_minutes": 3e-3}, None)]
)
def test_the_first_budget_ends_it(changes, steps, tmp_path):
    done = run(tmp_path, **{"max_steps": 10**6, **changes})
    assert done.minutes < 0.5
    assert done.step == steps if steps is not None else done.minutes >= 3e-3
    assert done.history[-1]["step"] == done.step
    assert done.history[-1]["epoch"] == done.step / 4


def test_time_decides_when_to_evaluate_and_to_save(tmp_path):
    done = run(tmp_path, max_steps=5, log_steps=100, eval_minutes=1e-9, checkpoint_minutes=1e9)
    assert [row["step"] for row in done.history] == list(range(1, 6))
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-00000005.safetensors"]
    done = run(tmp_path / "2", max_steps=4, log_steps=100, checkpoint_minutes=1e-9, keep=9)
    assert len(list((tmp_path / "2").glob("checkpoint-*"))) == 4
    assert [row["test_nats"] is None for row in done.history] == [True, True, True, False]
    assert all(0.0 < row["lipschitz"] < 1.0 for row in done.history)


def test_norms_that_take_long_are_measured_seldom_but_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(measures, "_NORMS_FREE", 0.0)
    monkeypatch.setattr(measures, "_NORMS_SHARE", 1e-6)
    done = run(tmp_path, max_steps=4, eval_steps=1)
    assert [row["lipschitz"] is not None for row in done.history] == [True, False, False, True]
    assert all(row["test_nats"] is not None for row in done.history)


# --- what goes wrong ---


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_nan_stops_the_run_before_it_reaches_a_checkpoint(what, tmp_path, monkeypatch):
    advance = Trainer.advance

    def advance_badly(self):
        if self.step == 6:  # in step 7
            with torch.no_grad():
                hook = (lambda g: g * float("inf")) if what == "gradient" else (lambda g: g)
                parameter = next(self._model.parameters())
                parameter.register_hook(hook)
                if what == "loss":
                    self._model.prior.mean.fill_(float("nan"))
        advance(self)

    monkeypatch.setattr(Trainer, "advance", advance_badly)
    with pytest.raises(ValueError, match="must be finite") as caught:
        run(tmp_path, checkpoint_steps=5, log_steps=5)
    newest = tmp_path / "checkpoint-00000005.safetensors"
    assert re.fullmatch(
        rf"loss and gradient norm must be finite, got \S+ and \S+ in step 7; lower the learning rate or check the data"
        rf", then go on from {newest} with the same command and --resume, or fit\(\.\.\., resume=True\)\.",
        str(caught.value),
    )
    assert [path.name for path in tmp_path.glob("*.safetensors")] == [newest.name]
    assert all(bool(value.isfinite().all()) for value in training.load_model(tmp_path).state_dict().values())
    with (tmp_path / "log.csv").open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["5"]


def test_nan_data_end_in_a_sentence(tmp_path):
    data = make_data()
    data.train[3, 1] = float("nan")  # after the data set has checked them
    with pytest.raises(
        ValueError, match="the first batch of an ActNorm must be finite, got NaN or infinity in it; check"
    ):
        run(tmp_path, data=data)
    model = models.IResNetFlow(make_model().config.replace(actnorm=False, prior="standard"))
    with pytest.raises(
        ValueError, match=r"must be finite, got nan and nan in step \d; .* holds no checkpoint yet, start"
    ):
        run(tmp_path, model=model, data=data)
    assert not list(tmp_path.glob("*.safetensors"))


def test_arguments_of_another_kind(tmp_path):
    model, data, config = make_model(), make_data(), make_config()
    for arguments, message in (
        ((model, data, {"max_steps": 1}), "config must be a TrainConfig, got dict; pass one"),
        ((model, data.train, config), "dataset must be a data.DataSet, got Tensor; pass what data.load returned"),
        (
            (torch.nn.Linear(2, 2), data, config),
            "model must be an IResNetFlow, IResNetClassifier or HybridIResNet, got L",
        ),
    ):
        with pytest.raises(TypeError, match=message):
            training.fit(*arguments, tmp_path)


def test_a_batch_as_large_as_the_data_and_a_larger_one(tmp_path):
    assert run(tmp_path / "50", batch_size=50, max_epochs=3).step == 3
    with pytest.raises(ValueError, match="batch_size must be at most 50"):
        run(tmp_path / "51", batch_size=51)
