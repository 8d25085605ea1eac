"""Steps along the mean gradient of several batches: by hand, in the log, and of two processes."""

from types import SimpleNamespace

import pytest
import torch
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel
from training_examples import make_config, make_data, make_model, same_bits

from iresnet_fast import training
from iresnet_fast.training import batches, trainer
from iresnet_fast.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")


def fit(folder, kind="plane", **changes):
    data = make_data("plane" if kind == "plane" else "images")
    return training.fit(make_model(kind), data, make_config(**changes), folder, show_progress=False)


@pytest.mark.parametrize(("kind", "n_parts"), [("plane", 2), ("plane", 4), ("classifier", 2), ("hybrid", 3)])
def test_the_gradient_is_the_mean_of_those_of_the_batches(kind, n_parts, tmp_path, monkeypatch):
    """Each computed by itself, on a model of the same weights and with the random numbers of its batch."""
    config = make_config(accumulate=n_parts, max_steps=2, log_steps=1, clip=None)
    data, steps = make_data("plane" if kind == "plane" else "images"), []

    def gradients(self, number):
        batches.seed_batch(config.seed, number)
        x, labels, *_ = self._batches(number)
        self._model.zero_grad()
        loss = self._task.loss(self._task.inputs(x), labels)
        loss.backward()
        return x, loss.detach(), [p.grad.clone() for p in self._model.parameters()]

    advance = Trainer.advance

    def advance_and_compare(self):
        first = self.step * n_parts
        parts = [gradients(self, number) for number in range(first, first + n_parts)]
        assert not any(torch.equal(parts[0][0], part[0]) for part in parts[1:])
        advance(self)
        assert not any(torch.equal(parts[0][2][0], part[2][0]) for part in parts[1:])
        for i, parameter in enumerate(self._model.parameters()):
            expected = torch.stack([part[2][i] for part in parts]).mean(0)
            size = max(float(part[2][i].abs().max()) for part in parts)
            # Float32 sums in another order: the parts are added as they are computed.
            torch.testing.assert_close(parameter.grad, expected, rtol=0.0, atol=1e-5 * size)
        steps.append(float(torch.stack([part[1] for part in parts]).mean()))

    monkeypatch.setattr(Trainer, "advance", advance_and_compare)
    done = training.fit(make_model(kind), data, config, tmp_path, show_progress=False)
    assert done.step == len(steps) == 2
    assert [row["loss"] for row in done.history] == pytest.approx(steps, rel=1e-6)


def test_two_halves_of_a_batch_take_the_step_of_the_whole(tmp_path):
    """A plane has an exact log-determinant: nothing of the loss is random."""
    whole = fit(tmp_path / "whole", max_steps=3)
    halves = fit(tmp_path / "halves", max_steps=3, batch_size=6, accumulate=2)
    other = fit(tmp_path / "other", max_steps=3, batch_size=6)
    distances = []
    for done in (halves, other):
        pairs = zip(done.model.parameters(), whole.model.parameters(), strict=True)
        distances.append(max(float((one - two).detach().abs().max()) for one, two in pairs))
    # Adam divides by the root of squared gradients: rounding of a gradient near 0 becomes a fraction of a step of 0.01.
    assert distances[0] < 1e-4 < 1e-3 < distances[1]


def test_an_epoch_has_fewer_steps_and_a_step_more_samples(tmp_path, monkeypatch):
    """50 samples are two steps of two batches of 12."""
    done = fit(tmp_path, accumulate=2, max_steps=None, max_epochs=3, log_steps=1)
    assert done.step == 6
    assert [row["epoch"] for row in done.history] == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    seconds = iter(range(1000))
    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=lambda: float(next(seconds))))
    speeds = {}
    for n_parts in (1, 2):
        rows = fit(tmp_path / str(n_parts), accumulate=n_parts, max_steps=4, log_steps=2).history
        speeds[n_parts] = [row["samples_per_second"] for row in rows]
    assert speeds[2] == [2 * speed for speed in speeds[1]]


def of_two(rank, store, folder):
    """What one of two processes does for the test below: the losses, norms and weights of a run, and the exchanges."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    exchanged = []

    def count(_, bucket):
        exchanged.append(bucket.index())
        future = distributed.all_reduce(bucket.buffer().div_(2), async_op=True).get_future()
        return future.then(lambda done: done.value()[0])

    original = DistributedDataParallel.__init__

    def make(self, *arguments, **options):
        original(self, *arguments, **options)
        self.register_comm_hook(None, count)

    DistributedDataParallel.__init__ = make
    done = fit(f"{folder}/run", **OF_TWO)
    rows = [(row["loss"], row["grad_norm"]) for row in done.history]
    torch.save({"rows": rows, "state": done.model.state_dict(), "exchanged": len(exchanged)}, f"{folder}/{rank}")
    distributed.destroy_process_group()


OF_TWO = {"accumulate": 3, "batch_size": 4, "max_steps": 4, "log_steps": 1}


@pytest.mark.slow  # two processes import torch
def test_two_processes_take_the_steps_of_one_and_exchange_gradients_once_each(tmp_path):
    multiprocessing.spawn(of_two, (str(tmp_path / "store"), str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / str(rank)) for rank in range(2))
    assert same_bits(first["state"], second["state"])
    assert first["exchanged"] == second["exchanged"] == 4  # the model is one bucket
    alone = fit(tmp_path / "alone", **OF_TWO)
    # As in test_distributed_fit: another first refresh of the norms, whose error Adam divides by the gradient.
    assert [loss for loss, _ in first["rows"]] == pytest.approx([row["loss"] for row in alone.history], abs=1e-3)
    assert [norm for _, norm in first["rows"]] == pytest.approx([row["grad_norm"] for row in alone.history], rel=1e-2)
    other = fit(tmp_path / "other", **{**OF_TWO, "accumulate": 1})
    assert abs(other.history[0]["loss"] - first["rows"][0][0]) > 1e-2  # the comparison is not vacuous
