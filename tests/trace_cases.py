"""Branches whose traces are known in closed form, one for every pair of stages that those are made of."""

from typing import NamedTuple

from problems import Case

from iresnet_fast._traces import places_of


class Exact(NamedTuple):
    """A case, and how many of its first terms are exact."""

    case: Case
    terms: int

    @property
    def name(self):
        """Say both."""
        return f"{self.case.name} {self.terms}"


CASES = [
    Case("one stage", (5,), batch=9, activations=("tanh",), per_sample=True),
    Case("one stage of images", (3, 5, 9), kernels=(3,), batch=3, activations=("lipswish",), probes=2),
    Case("one pointwise stage", (6, 3, 4), kernels=(1,), batch=4, activations=("softplus",), pixel_factor=(0,)),
    Case("two stages", (3,), (65,), batch=33, activations=("identity", "lipswish"), probes=3, per_sample=True, terms=3),
    Case("straight", (3,), (33,), batch=5, activations=("identity", "relu"), terms=2),
    Case("straight with a mask", (5,), (7,), batch=17, sample_factor=(1,), activations=("identity", "half_abs")),
    Case("two convolutions", (2, 5, 7), (35,), (3, 5), batch=3, activations=("identity", "elu"), terms=3),
    Case(
        "two convolutions with masks",
        (3, 4, 5),
        (17,),
        (3, 3),
        batch=3,
        activations=("identity", "lipswish"),
        sample_bias=(0,),
        pixel_factor=(1,),
    ),
    Case("two pointwise stages", (5, 3, 3), (18,), (1, 1), batch=3, activations=("identity", "sin"), probes=2),
    Case("activation first", (5,), (33,), batch=9, activations=("lipswish", "tanh"), per_sample=True),
    Case("a mask first", (5,), (9,), batch=9, sample_factor=(0,), activations=("identity", "elu"), probes=2),
    Case("activation before images", (3, 5, 6), (17,), (3, 5), batch=3, activations=("elu", "lipswish"), terms=3),
    Case(
        "activation before images with masks",
        (2, 4, 5),
        (9,),
        (3, 1),
        batch=3,
        activations=("lipswish", "relu"),
        sample_factor=(0,),
        pixel_factor=(1,),
        per_sample=True,
    ),
    Case("three stages", (3,), (33, 20), batch=9, activations=("identity", "lipswish", "elu"), terms=2),
    Case(
        "three stages with contexts",
        (5,),
        (7, 35),
        batch=5,
        activations=("identity", "softplus", "lipswish"),
        sample_bias=(0, 1, 2),
        sample_factor=(1, 2),
        probes=2,
        per_sample=True,
    ),
    Case("three pointwise stages", (3, 4, 3), (9, 6), (1, 1, 1), batch=3, activations=("identity", "tanh", "sin")),
]
# Wide enough for tensor cores to be the cheaper way.
WIDE = [
    Case("wide two", (8,), (64,), batch=140, activations=("identity", "elu")),
    Case("wide first", (20, 5, 6), (40,), (3, 3), batch=3, activations=("elu", "lipswish"), terms=2),
    Case("wide three", (16,), (64, 40), batch=140, activations=("identity", "elu", "tanh"), terms=2),
]


def closed(cases):
    """Return every case with 1 and 2 exact terms, where that many are known."""
    return [Exact(case, terms) for case in cases for terms in range(1, len(places(case)) + 1)]


def places(case):
    """Return the stages of the traces of a case."""
    n_stages = len(case.hidden) + 1
    shapes = [_Sides(kernel) for kernel in case.kernels] or [_Sides(0)] * n_stages
    factors = [True if i in (*case.sample_factor, *case.pixel_factor) else None for i in range(n_stages)]
    return places_of(shapes, list((case.activations * n_stages)[:n_stages]), factors)


class _Sides:
    """A weight, as far as `places_of` looks at it."""

    def __init__(self, kernel):
        self.shape = (1, 1, kernel, kernel) if kernel else (1, 1)

    def dim(self):
        return len(self.shape)
