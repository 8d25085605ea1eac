"""Plans: what they promise the kernels, and which way they choose for cases whose answer is known."""

import itertools

import pytest

from .plans import FORWARD, INVERSE, NOT_SHARED, TANGENT, TRANSPOSED, constants_of, modelled
from .resident import BF16, DEPTH, FULL, LAYERED, TF32, Choice, Shape

WIDE, MID, NARROW = range(3)
CARDS = {  # multiprocessors, shared memory of a block, of a multiprocessor
    "t4": (40, 65536, 65536),
    "a100": (108, 166912, 167936),
    "rtx4090": (128, 101376, 102400),
    "h100": (132, 232448, 233472),
}


def plan(shape, card, kind=TRANSPOSED, probes=1, terms=10, precision=FULL, element_bytes=4, choice=None):
    """The plan, the modelled time of the layered way, and the plan in words."""
    result, case = modelled(shape, card, kind, probes, terms, precision, element_bytes, choice)
    return result, case.layered, case.text.decode()


def toy(batch):
    return Shape((2, 128, 128, 128, 2), batch)


def mnist(batch):
    return Shape((4, 32, 32, 4), batch, (3, 1, 3), (14, 14))


def large(batch):
    return Shape((48, 512, 512, 48), batch, (3, 1, 3), (16, 16))


SHAPES = [
    toy(1),
    toy(1000),
    mnist(2),
    mnist(264),
    Shape((1, 1), 1),
    Shape((5, 33, 7, 5), 70),
    Shape((64, 256, 64), 4096),
    Shape((3, 1000, 3), 100),
    Shape((3, 8, 12, 9, 16, 5, 8, 4, 3), 50),
    Shape((16, 64, 64, 16), 100, (3, 1, 3), (7, 7)),
    Shape((3, 9, 9, 3), 10, (7, 1, 5), (16, 16)),
    Shape((1, 9, 1), 10, (3, 3), (1, 35)),
    Shape((12, 64, 12), 100, (3, 3), (4, 4)),
    large(64),
]


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_resident_plan_fits(shape, card):
    multiprocessors, block, whole = CARDS[card]
    variants = [(kind, FULL, size) for kind in range(4) for size in (4, 8)]
    variants += [(TRANSPOSED, TF32, 4), (TRANSPOSED, BF16, 4)]
    for kind, precision, size in variants:
        p, layered, text = plan(shape, card, kind, precision=precision, element_bytes=size)
        assert p.microseconds <= layered or (kind == INVERSE and p.resident)
        assert ("resident" if p.resident else "layered") in text
        assert p.precision <= (FULL if card == "t4" else precision)
        if not p.resident:
            continue
        assert 0 < p.shared_bytes <= block
        assert p.blocks_per_multiprocessor * p.shared_bytes <= whole
        assert p.blocks_per_multiprocessor * p.threads <= 256
        assert p.blocks == min(p.groups, multiprocessors * p.blocks_per_multiprocessor)
        assert p.groups * p.items >= shape.batch > (p.groups - 1) * p.items
        assert p.threads % p.items == 0
        for stage in p.stage[: p.stages]:
            assert stage.row_tiles * stage.column_tiles * stage.splits <= p.threads // 32
            assert p.pitch >= max(stage.K_padded, stage.N_padded)
            assert stage.chunk % DEPTH[p.precision] == 0
            if stage.weight == NOT_SHARED:
                assert stage.chunk * stage.column_pitch <= p.stream_size
            else:
                assert stage.chunk == stage.flat_rows


def op_time(shape, card, kind, precision, terms):
    """Modelled time of an op at exactly this precision: the walk, and before a chain the forward walk."""
    if kind in (TRANSPOSED, TANGENT):
        return walk_time(shape, card, FORWARD, precision, 1) + walk_time(shape, card, kind, precision, terms)
    return walk_time(shape, card, kind, precision, terms)


def walk_time(shape, card, kind, precision, terms):
    p, case = modelled(shape, card, kind, terms=terms, precision=precision, choice=Choice())
    if p.resident and kind == INVERSE:
        return p.microseconds
    return min(p.microseconds, case.layered) if p.resident else case.layered


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_tensor_cores_never_make_an_op_slower(shape, card):
    """The precision chosen is the cheapest of those that may be: never slower, in the model, than float32."""
    for kind, terms in itertools.product(range(4), (1, 10)):
        times = [op_time(shape, card, kind, precision, terms) for precision in (FULL, TF32, BF16)]
        for wanted in (FULL, TF32, BF16):
            chosen = plan(shape, card, kind, terms=terms, precision=wanted)[0].precision
            assert chosen <= wanted
            assert times[chosen] == min(times[: wanted + 1])


def test_small_branches_stay_on_fma_and_large_ones_do_not():
    for small in (toy(1000), mnist(32), Shape((43, 128, 128, 43), 1000)):
        for precision in (TF32, BF16):
            assert plan(small, "h100", precision=precision)[0].precision == FULL
    for precision in (TF32, BF16):
        assert plan(large(64), "h100", precision=precision)[0].precision == precision
        assert plan(toy(1000), "h100", precision=precision, element_bytes=8)[0].precision == FULL
        assert plan(large(64), "h100", precision=precision, element_bytes=8)[0].precision == FULL
        assert plan(large(64), "a100", precision=precision)[0].precision == precision
        assert plan(large(64), "t4", precision=precision)[0].precision == FULL


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("make", [toy, mnist, large], ids=["toy", "mnist", "large"])
def test_more_samples_never_take_less_time(make, card):
    times = [plan(make(batch), card)[0].microseconds for batch in (1, 2, 7, 33, 130, 1000, 10000)]
    assert times == sorted(times)


def test_toy_is_all_on_chip_on_an_h100():
    for batch, items in ((5, 4), (1000, 8)):
        p, _, _ = plan(toy(batch), "h100")
        assert p.resident
        assert p.items == items
        for stage in p.stage[:4]:
            assert stage.weight != NOT_SHARED
            assert stage.derivative != NOT_SHARED
        assert p.stage[3].tile == NARROW


@pytest.mark.parametrize("card", ["h100", "a100", "rtx4090"])
def test_mnist_is_resident(card):
    p, _, _ = plan(mnist(264), card)
    assert p.resident
    assert [s.tile for s in p.stage[:3]] == [MID, MID, NARROW]
    assert [s.row_tiles for s in p.stage[:3]] == [7, 7, 1]  # 28 or 224 rows of 196
    assert all(s.weight != NOT_SHARED for s in p.stage[:3])


def test_the_example_of_the_kernels_comments():
    """resident/block.cuh counts the pixel (1, 3) of the item in slot 1: 14 x 14 images, kernels of 3 x 3."""
    p, _, _ = plan(Shape((4, 8, 8, 4), 264, (3, 1, 3), (14, 14)), "h100", choice=Choice(items=2))
    slot, y, x = 1, 1, 3
    assert slot * p.pixels + y * p.width + x == 213
    assert (p.origin, p.image_positions, p.row_positions) == (16, 225, 15)
    assert p.origin + slot * p.image_positions + y * p.row_positions + x == 259
    assert p.lane_width == 16
    assert (slot * p.height + y) * p.lane_width + x == 243


def dense(channels, hidden, batch):
    return Shape((channels, hidden, channels), batch)


def image(channels, hidden, side, batch):
    return Shape((channels, hidden, hidden, channels), batch, (3, 1, 3), (side, side))


# For every family of tiles, branches that no other way runs as fast: card, precision and the tiles of the products.
CHOSEN = {
    "dense 4": [(toy(5), "h100", FULL, 4, {WIDE, NARROW})],
    "dense 8": [(toy(1000), "h100", FULL, 4, {WIDE, NARROW})],
    "dense 16": [
        (dense(6, 512, 1000), "rtx3090", FULL, 4, {WIDE, NARROW}),
        (toy(100), "h100", FULL, 8, {WIDE, NARROW}),
    ],
    "dense 32": [(dense(2, 16, 10000), "t4", FULL, 4, {WIDE, NARROW})],
    "image 7": [(mnist(264), "h100", FULL, 4, {MID, NARROW}), (image(4, 64, 7, 64), "t4", FULL, 4, {WIDE, NARROW})],
    "image 8": [
        (image(1, 16, 16, 64), "h100", FULL, 4, {MID, NARROW}),
        (image(1, 64, 16, 64), "h100", FULL, 4, {WIDE, NARROW}),
        (image(12, 32, 4, 64), "h100", FULL, 8, {WIDE}),
    ],
    "tensor dense": [
        (dense(43, 64, 10000), "h100", TF32, 4, {WIDE}),
        (dense(21, 64, 10000), "a100", BF16, 4, {WIDE, MID}),
    ],
    "tensor image": [
        (image(12, 128, 8, 64), "a100", BF16, 4, {WIDE, MID}),
        (image(192, 32, 4, 128), "a100", TF32, 4, {WIDE, MID}),
    ],
}


@pytest.mark.parametrize("family", CHOSEN)
def test_every_family_and_every_tile_is_chosen_for_some_branch(family):
    """What the model never chooses would be a kernel that nobody runs."""
    for shape, card, precision, size, tiles in CHOSEN[family]:
        p, layered, text = plan(shape, card, precision=precision, element_bytes=size)
        assert p.resident, (shape, layered)
        assert f"tiles of family {family}\n" in text, shape
        assert p.precision == precision
        assert {stage.tile for stage in p.stage[: p.stages]} == tiles, shape


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("kind", range(4))
def test_wide_images_are_layered(card, kind):
    assert not plan(large(64), card, kind)[0].resident
    assert not plan(large(64), card, kind, choice=Choice())[0].resident


def test_a_plan_can_be_forced_to_be_layered():
    for shape in (toy(1000), large(64)):
        for card, wanted, usable in (("h100", FULL, FULL), ("h100", BF16, BF16), ("t4", BF16, FULL)):
            p, _, text = plan(shape, card, precision=wanted, choice=LAYERED)
            assert (p.resident, p.precision) == (False, usable)
            assert "layered" in text


def test_many_stages_are_layered():
    assert not plan(Shape((2,) * 18, 10), "h100")[0].resident


def test_a_large_batch_of_one_item_plans_shares_out_evenly():
    p, _, _ = plan(mnist(133), "h100")
    assert p.resident
    assert p.blocks <= p.groups


def test_the_model_counts_with_the_tile_that_will_be_used():
    """On an idle card a layered product of 64 columns is four tiles side by side, each as fast as one of 16 columns."""
    wide, narrow = (modelled(Shape((64, columns), 64), "h100", FORWARD)[1].layered for columns in (64, 16))
    assert wide == narrow


@pytest.mark.parametrize("shape", [toy(1000), large(64)], ids=str)
def test_constants_are_a_cards_own_and_can_be_given(shape):
    known = constants_of("h100")
    assert known["clock_megahertz"] == 1755
    assert constants_of("a100")["float_fma_cycles"] == 2 * known["float_fma_cycles"]
    assert constants_of("between") == constants_of("rtx3090")
    p, case = modelled(shape, "h100", constants=known)
    assert p.microseconds == (case.resident if p.resident else case.layered)
    without_launches = known | {"launch_microseconds": 0}
    slow = modelled(shape, "h100", constants=without_launches)[1]
    fast = modelled(shape, "h100", constants=without_launches | {"clock_megahertz": 2 * 1755})[1]
    assert fast.layered == pytest.approx(slow.layered / 2)
    assert fast.resident == pytest.approx(slow.resident / 2)


# Its products of 192 and 8 channels are those of a library, where there is one.
WIDE_ENDS = Shape((8, 192, 192, 8), 1, (3, 1, 3), (6, 6))


def test_every_constant_counts():
    """A constant that changes no time could not be fitted."""
    cases = [
        (toy(1000), FULL, 4, Choice(weights_shared=0, derivatives_shared=0)),
        (mnist(2), FULL, 8, Choice()),
        (toy(1000), TF32, 4, Choice()),
        (large(64), TF32, 4, None),
        (large(64), BF16, 4, None),
        (Shape((4096, 4096), 4096), BF16, 4, None),
        (WIDE_ENDS, FULL, 4, None),
        (WIDE_ENDS, TF32, 4, None),
    ]
    known = constants_of("h100")
    counts = set()
    for shape, precision, size, choice in cases:

        def times(constants, shape=shape, precision=precision, size=size, choice=choice):
            case = modelled(
                shape, "h100 with libraries", TRANSPOSED, 1, 10, precision, size, choice, constants=constants
            )[1]
            return case.resident, case.layered

        before = times(known)
        counts |= {name for name, value in known.items() if times(known | {name: value / 3}) != before}
    assert counts == set(known)


def test_a_plan_in_words():
    text = plan(mnist(264), "h100")[2]
    lines = text.splitlines()
    assert lines[0].startswith("h100, full precision: resident")
    assert len(lines) == 8
    assert "224 x 4" in lines[-1]
