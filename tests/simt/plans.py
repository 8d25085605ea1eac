"""Plans and their modelled times, from the entry plan_case; the structs mirror plan.h."""

import ctypes
from ctypes import POINTER, Structure, c_bool, c_char_p, c_double, c_int, c_int64, pointer

from .emulator import project_emulator
from .resident import FULL, MAX_STAGES, Choice, branch_struct
from .structs import Target

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


class PlanRequest:
    """A plan to be found for a shape and modelled, as often as wanted, with any constants."""

    def __init__(
        self,
        shape,
        card,
        kind=TRANSPOSED,
        probes=1,
        terms=10,
        precision=FULL,
        element_bytes=4,
        choice=None,
        library=None,
    ):
        """`choice`: at exactly this precision. `library`: of the entries; the fast emulator's if there is none."""
        self.library = library or project_emulator("fast")
        chain, stages = kind in (TRANSPOSED, TANGENT), len(shape.channels) - 1
        self.text, self.plan = ctypes.create_string_buffer(8192), Plan()
        self.case = PlanCase(kind, probes, terms, chain, kind == TRANSPOSED, element_bytes, choice or Choice())
        self.case.forced, self.case.text = choice is not None, ctypes.cast(self.text, c_char_p)
        self.case.plan, self.case.plan_bytes = pointer(self.plan), ctypes.sizeof(Plan)
        self.branch = branch_struct(shape, [4] * stages, [None] * stages)
        self.target = Target(card.encode(), precision)

    def modelled(self, constants=None):
        """The plan, and its case filled in; `constants`: of the model, by name, instead of the card's."""
        self.case.constants = None if constants is None else (c_double * len(constants))(*constants.values())
        self.library.call("plan_case", pointer(self.branch), pointer(self.case), self.target)
        return self.plan, self.case


def modelled(*request, constants=None, **more):
    """The plan of a PlanRequest, and its case filled in."""
    return PlanRequest(*request, **more).modelled(constants)


def constants_of(card, library=None):
    """The constants of the model for a card, by name."""
    library = library or project_emulator("fast")
    names = library._text("model_constant_names").split(",")
    values = (c_double * len(names))()
    library.call("model_constants_of", card.encode(), values)
    return dict(zip(names, values, strict=True))
