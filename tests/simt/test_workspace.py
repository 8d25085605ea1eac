"""Where the buffers of a call lie, and who may decide which kernels use them."""

import re

import torch

from .builder import KERNELS, ROOT
from .emulator import project_emulator

COUNTS, REQUESTS = [3, 1, 0, 100, 33], [100, 3000, 17]


def layout(counts, requests):
    """Return where pieces of so many float64 begin, where the shared region begins, and the size of it all."""
    begins, size = torch.zeros(len(counts) + 1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    lists = [torch.tensor([*values, 0]) for values in (counts, requests)]
    arguments = lists[0], len(counts), lists[1], len(requests), begins, size
    project_emulator("fast").call("workspace_layout", *arguments)
    return *begins.tolist(), size.item()


def test_pieces_are_aligned_and_lie_side_by_side():
    *begins, shared, size = layout(COUNTS, [])
    assert all(begin % 256 == 0 for begin in (*begins, shared))
    ends = [begin + 8 * count for begin, count in zip(begins, COUNTS, strict=True)]
    assert all(end <= begin < end + 256 for end, begin in zip(ends, [*begins[1:], shared], strict=True))
    assert size == shared


def test_the_shared_region_lies_behind_and_is_as_large_as_the_largest_request():
    *begins, shared, size = layout(COUNTS, REQUESTS)
    assert (*begins, shared) == layout(COUNTS, [])[:-1]
    assert max(REQUESTS) <= size - shared < max(REQUESTS) + 256


def test_only_the_engine_asks_the_plan():
    asks = re.compile(r"\b(plan_walk|plan_resident|cheapest_precision|cheapest_layered_precision)\(|\.resident\b")
    sources = [path for path in (ROOT / KERNELS).rglob("*.*") if path.parent.name != "plan"]
    assert {path.name for path in sources if asks.search(path.read_text())} == {"engine.cu"}
