"""What the kernels of a step of the log-determinant are modelled to cost, from the entry kernel_costs."""

import ctypes
from ctypes import Structure, c_bool, c_char_p, c_int, c_int64, pointer
from typing import NamedTuple

from .emulator import project_emulator
from .resident import branch_struct
from .structs import Target

TEXT_BYTES = 1 << 20


class Kernel(NamedTuple):
    """One launch; `blocks` of a weight gradient, else 0."""

    name: str
    blocks: int
    slots: float  # issue slots of a scheduler of the busiest multiprocessor
    bytes: float
    microseconds: float


class CostsCase(Structure):
    _fields_ = (
        ("terms", c_int),
        ("training", c_bool),
        ("libraries", c_int),
        ("text", c_char_p),
        ("text_bytes", c_int64),
    )


def kernel_costs(shape, activations, terms, training, card, precision=0, libraries=False, library=None):
    """The kernels in the order of their launches.

    `activations`: their numbers. `libraries`: whether products may be torch's. `library`: of the entries.
    """
    text = ctypes.create_string_buffer(TEXT_BYTES)
    case = CostsCase(terms, training, libraries, ctypes.cast(text, c_char_p), TEXT_BYTES)
    branch = branch_struct(shape, activations, [None] * len(activations))
    target = Target(card.encode(), precision)
    (library or project_emulator("fast")).call("kernel_costs", pointer(branch), pointer(case), target)
    rows = (line.split("\t") for line in text.value.decode().splitlines())
    return [Kernel(name, int(blocks), *map(float, numbers)) for name, blocks, *numbers in rows]


def card_sizes(card, library=None):
    """The multiprocessors of a card, and the bytes of its second-level cache."""
    multiprocessors, l2_bytes = c_int64(), c_int64()
    (library or project_emulator("fast")).call("card_sizes", card.encode(), pointer(multiprocessors), pointer(l2_bytes))
    return multiprocessors.value, l2_bytes.value
