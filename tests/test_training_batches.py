"""Which samples a step sees, and how: a function of the seed and the step alone."""

import dataclasses

import numpy as np
import pytest
import torch
from training_examples import make_config, make_data

from iresnet_fast.data import DataSet
from iresnet_fast.training import batches


def numbered(n, shape=(2,)):
    """A data set whose samples hold their number."""
    x = torch.arange(n, dtype=torch.float32).view(n, *(1 for _ in shape)).expand(n, *shape).clone()
    return DataSet("numbers", x, x[:1])


def test_an_epoch_shows_every_sample_once_but_the_last_incomplete_batch():
    made = batches.Batches(numbered(23), make_config(batch_size=5), torch.device("cpu"))
    assert made.per_epoch == 4
    epochs = [torch.stack([made(step)[0][:, 0] for step in range(4 * e, 4 * e + 4)]).flatten() for e in range(3)]
    assert all(len(set(epoch.tolist())) == 20 for epoch in epochs)
    assert not torch.equal(epochs[0], epochs[1])
    left_out = [set(range(23)) - set(map(int, epoch.tolist())) for epoch in epochs]
    assert left_out[0] != left_out[1] or left_out[1] != left_out[2]  # others every time
    again = batches.Batches(numbered(23), make_config(batch_size=5), torch.device("cpu"))
    assert torch.equal(again(9)[0], made(9)[0])  # asked for out of order
    other = batches.Batches(numbered(23), make_config(batch_size=5, seed=1), torch.device("cpu"))
    assert not torch.equal(other(0)[0], made(0)[0])


def test_the_parts_of_a_step_are_batches_of_their_own():
    """23 samples are two steps of two batches of five: three samples are left out, as with one batch of ten."""
    made = batches.Batches(numbered(23), make_config(batch_size=5, accumulate=2), torch.device("cpu"))
    assert made.per_epoch == 2
    epochs = [torch.stack([made(number)[0][:, 0] for number in range(4 * e, 4 * e + 4)]) for e in range(2)]
    assert [epoch.shape for epoch in epochs] == [(4, 5)] * 2
    assert all(len(set(epoch.flatten().tolist())) == 20 for epoch in epochs)
    joined = batches.Batches(numbered(23), make_config(batch_size=10), torch.device("cpu"))
    assert joined.per_epoch == 2
    assert torch.equal(torch.cat([joined(step)[0][:, 0] for step in range(4)]), torch.cat(epochs).flatten())


def test_labels_go_with_their_samples():
    data = make_data("images")
    x, labels, context, weights = batches.Batches(data, make_config(), torch.device("cpu"))(1)
    assert context is None
    assert weights is None
    assert x.dtype == torch.uint8
    assert torch.equal(x.float().mean((1, 2, 3)).sub(2.0).div(4.0).round().long(), labels)  # brightness tells the class


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_a_batch(world, monkeypatch):
    whole = batches.Batches(numbered(23), make_config(batch_size=6), torch.device("cpu"))(2)[0]
    parts = []
    monkeypatch.setattr(batches.distributed, "world_size", lambda: world)
    for rank in range(world):
        monkeypatch.setattr(batches.distributed, "rank", lambda rank=rank: rank)
        parts.append(batches.Batches(numbered(23), make_config(batch_size=6), torch.device("cpu"))(2)[0])
    assert torch.equal(torch.stack(parts, 1).flatten(0, 1), whole)
    with pytest.raises(
        ValueError, match=f"batch_size must be divisible by {world}, the number of processes, got 7; cha"
    ):
        batches.Batches(numbered(23), make_config(batch_size=7), torch.device("cpu"))


def test_random_numbers_differ_between_batches_seeds_and_ranks(monkeypatch):
    drawn = []
    for seed in (0, 1):
        for step in (0, 1):
            for rank in (0, 1):
                monkeypatch.setattr(batches.distributed, "rank", lambda rank=rank: rank)
                batches.seed_batch(seed, step)
                drawn.append(torch.rand(()).item())
                batches.seed_batch(seed, step)
                assert torch.rand(()).item() == drawn[-1]
    assert len(set(drawn)) == len(drawn)


def test_seeding_is_that_of_torch():
    batches._manual_seed(2**64 - 1)
    ours = torch.rand(3)
    torch.manual_seed(2**64 - 1)
    assert torch.equal(torch.rand(3), ours)


def moved(image, down, right):
    """The image moved by so many pixels and filled up with 0, by numpy."""
    height, width = image.shape[1:]
    big = np.pad(image, ((0, 0), (height, height), (width, width)))
    return big[:, height - down : 2 * height - down, width - right : 2 * width - right]


def test_shifts_move_images_and_fill_up_with_zero():
    x = torch.randint(1, 200, (64, 3, 5, 4), dtype=torch.uint8)
    made = batches._shifted(x, 2, "zeros")
    assert made.dtype == torch.uint8
    seen = set()
    for before, after in zip(x.numpy(), made.numpy(), strict=True):
        fits = [(i, j) for i in range(-2, 3) for j in range(-2, 3) if np.array_equal(moved(before, i, j), after)]
        assert len(fits) == 1
        seen.add(fits[0])
    assert len(seen) > 15  # of 25


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("most", [1, 3])
def test_shifts_move_images_and_fill_up_by_mirroring(dtype, most):
    """By numpy's and torch's meaning of reflect: the outermost pixels are not repeated."""
    x = torch.randint(1, 200, (64, 3, 5, 4)).to(dtype)
    made = batches._shifted(x, most, "reflect")
    assert made.dtype == dtype
    seen = set()
    for before, after in zip(x.numpy(), made.numpy(), strict=True):
        big = np.pad(before, ((0, 0), (most, most), (most, most)), mode="reflect")
        places = [(i, j) for i in range(2 * most + 1) for j in range(2 * most + 1)]
        fits = [(i, j) for i, j in places if np.array_equal(big[:, i : i + 5, j : j + 4], after)]
        assert fits  # two for a width of 4 that moved by 3 to the left or to the right
        seen.add(fits[0])
    assert len(seen) > 7  # of 9, or of 49
    torch.manual_seed(1)
    mirrored = batches._shifted(x, most, "reflect")
    torch.manual_seed(1)
    zeros = batches._shifted(x, most, "zeros")
    assert torch.equal(mirrored[zeros != 0], zeros[zeros != 0])  # moved alike
    assert bool((mirrored != 0).all())


def test_the_padding_is_the_one_asked_for():
    data = make_data("images")
    data = dataclasses.replace(data, train=torch.randint(1, 17, data.train.shape, dtype=torch.uint8))
    config = make_config(shift=3)
    assert bool((batches.Batches(data, config, torch.device("cpu"))(0)[0] == 0).any())
    config = config.replace(shift_padding="reflect")
    assert bool((batches.Batches(data, config, torch.device("cpu"))(0)[0] != 0).all())
    batches.Batches(data, config.replace(shift=7), torch.device("cpu"))(0)
    with pytest.raises(
        ValueError, match=r"shift must be less than 8 for shift_padding 'reflect' and the images of stripes, got 8; lo"
    ):
        batches.Batches(data, config.replace(shift=8), torch.device("cpu"))


def test_flips_mirror_about_half_of_the_images():
    data = make_data("images")
    data = dataclasses.replace(data, train=torch.randint_like(data.train, 17))
    config = make_config(batch_size=36)
    torch.manual_seed(0)
    plain = batches.Batches(data, config, torch.device("cpu"))(0)[0]
    flipped = batches.Batches(data, config.replace(flip=True), torch.device("cpu"))(0)[0]
    kinds = [
        (torch.equal(a, b), torch.equal(a.flip(2), b)) for a, b in zip(plain, flipped, strict=True)
    ]  # left as it is, or mirrored left to right
    assert set(kinds) == {(True, False), (False, True)}
    assert 8 < sum(mirrored for _, mirrored in kinds) < 28


def test_augmentation_is_for_images():
    with pytest.raises(
        ValueError, match="shift and flip must be off for vectors like those of curve, got shift = 1 and"
    ):
        batches.Batches(make_data(), make_config(shift=1), torch.device("cpu"))


def test_a_batch_larger_than_the_data_is_a_sentence():
    with pytest.raises(
        ValueError, match="batch_size must be at most 50, the training samples of curve, got 51; lower it"
    ):
        batches.Batches(make_data(), make_config(batch_size=51), torch.device("cpu"))


def test_a_step_larger_than_the_data_is_a_sentence():
    assert batches.Batches(make_data(), make_config(batch_size=25, accumulate=2), torch.device("cpu")).per_epoch == 1
    with pytest.raises(
        ValueError, match=r"batch_size \* accumulate must be at most 50, the training samples of curve, got 51; lower"
    ):
        batches.Batches(make_data(), make_config(batch_size=17, accumulate=3), torch.device("cpu"))


def test_evaluations_look_at_the_same_test_samples_in_all_runs():
    rows = batches.test_subset(numbered_test(20), make_config(eval_samples=7))
    assert len(set(rows.tolist())) == 7
    assert sorted(rows.tolist()) != list(range(7))  # the first ones of a test set are not like the others
    assert torch.equal(rows, batches.test_subset(numbered_test(20), make_config(eval_samples=7, seed=5)))
    assert len(batches.test_subset(numbered_test(20), make_config(eval_samples=None))) == 20
    assert len(batches.test_subset(numbered_test(20), make_config(eval_samples=70))) == 20


def numbered_test(n):
    data = numbered(n)
    return dataclasses.replace(data, test=data.train)
