"""Plans and their modelled times, from the entry plan_case; the structs mirror plan.h."""

import ctypes
from ctypes import POINTER, Structure, c_bool, c_char_p, c_double, c_int, c_int64, pointer

import torch

from .emulator import project_emulator
from .operands import Target
from .resident import FULL, MAX_STAGES, Choice, branch_struct

TRANSPOSED, TANGENT, FORWARD, INVERSE = range(4)
NOT_SHARED = -1


def ints(names):
    return tuple((name, c_int) for name in names.split())


class StagePlan(Structure):
    _fields_ = (
        *ints("K N kernel K_padded N_padded flat_rows column_pitch tile row_tiles column_tiles splits chunk weight"),
        ("scaled", c_bool),
        *ints("derivative bias"),
    )


class Plan(Structure):
    _fields_ = (
        ("resident", c_bool),
        *ints("precision family threads items blocks blocks_per_multiprocessor"),
        ("groups", c_int64),
        ("stages", c_int),
        ("stage", StagePlan * MAX_STAGES),
        *ints("height width pixels origin row_positions image_positions positions pitch padded_rows lane_width"),
        *ints("padded_lane_rows event_channels event_pitch stream stream_size state exchange entry first_vector"),
        *ints("second_vector sums slopes rows lane_rows shared_bytes"),
        ("microseconds", c_double),
    )


class PlanCase(Structure):
    _fields_ = (
        ("kind", c_int),
        ("probes", c_int64),
        *ints("repeats sums neumann element_bytes"),
        ("choice", Choice),
        ("forced", c_int),
        ("text", c_char_p),
        ("plan", POINTER(Plan)),
        ("plan_bytes", c_int64),
        ("constants", POINTER(c_double)),
        ("resident", c_double),
        ("layered", c_double),
    )


def modelled(
    shape,
    card,
    kind=TRANSPOSED,
    probes=1,
    terms=10,
    precision=FULL,
    element_bytes=4,
    choice=None,
    constants=None,
    library=None,
):
    """The plan, and its case filled in; `constants`: of the model, by name, instead of the card's.

    `library`: of the entries; the fast emulator's if there is none.
    """
    chain = kind in (TRANSPOSED, TANGENT)
    text, result = ctypes.create_string_buffer(8192), Plan()
    case = PlanCase(kind, probes, terms, chain, kind == TRANSPOSED, element_bytes, choice or Choice())
    case.forced, case.text = choice is not None, ctypes.cast(text, c_char_p)
    case.plan, case.plan_bytes = pointer(result), ctypes.sizeof(Plan)
    if constants is not None:
        case.constants = (c_double * len(constants))(*constants.values())
    weights = [torch.empty(1)] * (len(shape.channels) - 1)
    branch = branch_struct(shape, [4] * len(weights), weights)
    target = Target(card.encode(), precision)
    (library or project_emulator("fast")).call("plan_case", pointer(branch), pointer(case), target)
    return result, case


def constants_of(card, library=None):
    """The constants of the model for a card, by name."""
    library = library or project_emulator("fast")
    names = library._text("model_constant_names").split(",")
    values = (c_double * len(names))()
    library.call("model_constants_of", card.encode(), values)
    return dict(zip(names, values, strict=True))
