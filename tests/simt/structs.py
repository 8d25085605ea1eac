"""The structs of csrc/include/iresnet_fast/params.h and of the emulator's entries, as ctypes reads them."""

from ctypes import Structure, c_bool, c_char_p, c_double, c_float, c_int, c_int64, c_void_p
from functools import cache

import torch

SCALARS = {torch.float32: ("float", c_float), torch.float64: ("double", c_double)}


class Stage(Structure):
    _fields_ = (
        *((name, c_int) for name in ("activation", "in_channels", "out_channels", "kernel")),
        *((name, c_void_p) for name in ("weight", "bias", "beta", "factor")),
    )


class FloatStage(Stage):
    _fields_ = (("constant", c_float), ("bias_spread", c_int), ("factor_spread", c_int))


class DoubleStage(Stage):
    _fields_ = (("constant", c_double), ("bias_spread", c_int), ("factor_spread", c_int))


STAGES = {torch.float32: FloatStage, torch.float64: DoubleStage}


class Branch(Structure):
    _fields_ = (
        ("stages", c_int),
        ("stage", c_void_p),
        ("height", c_int),
        ("width", c_int),
        ("batch", c_int64),
    )


class Trace(Structure):
    _fields_ = (
        *((name, c_int) for name in ("left", "right", "kernel")),
        ("map", c_void_p),
        ("size", c_int64),
    )


class NormLayer(Structure):
    _fields_ = (
        *((name, c_int) for name in ("out_channels", "in_channels", "height", "width", "kernel_height")),
        *((name, c_int) for name in ("kernel_width", "stride_height", "stride_width", "padding_height")),
        *((name, c_int) for name in ("padding_width", "dilation_height", "dilation_width", "groups")),
        *((name, c_void_p) for name in ("weight", "u", "v")),
    )


class Target(Structure):
    _fields_ = (("card", c_char_p), ("precision", c_int))


# Names ending in * are pointers, in # counts of 64 bits, in ? flags, in = numbers of the element type, in & other
# structs of this table; others int.
_FIELDS = {
    "branch": "x* g* residual?",
    "traces": "trace_count trace* trace_coefficients* trace_terms trace_per_sample?",
    "branch_backward": "x* grad* pairs tangents* cotangents* weight* residual? grad_x* grad_parameters* kept* "
    "kept_size# traces&",
    "series": "terms coefficients* per_sample? tail* tolerance= relative? value* neumann* norms* terms_used* traces&",
    "residual_logdet": "x* probes probe* series& z* kept*",
    "jacobian_powers": "x* start* count transpose? powers*",
    "jacobian": "x* jacobian*",
    "residual_inverse": "z* residual_limit= max_iterations# captured_iterations# lipschitz= x* iterations* residual*",
    "sizes": "batch# channels pixels#",
    "actnorm": "sizes& x* bias* log_scale* z* logdet*",
    "actnorm_backward": "sizes& z* log_scale* grad* weight* grad_x* grad_bias* grad_log_scale*",
    "rearrange": "batch# event_size# x* index* transpose? z*",
    "sum_rows": "rows columns# values* sum*",
    "spectral_norm": "layers layer* max_iterations# tolerance= sigma* iterations* u* v*",
    "lanczos_norm": "layers layer* companion_hint* seed* max_iterations# tolerance= sigma* residual* iterations* u* v* "
    "companion*",
    "spectral_normalize": "layers layer* sigma* coeff* grad* through_sigma? result*",
    "spectral_normalize_backward": "layers layer* sigma* coeff* grad* through_sigma? result*",
}


@cache
def struct_of(op, scalar):
    """Return the struct of an op for an element type, by the names of its fields."""
    types = {"*": c_void_p, "#": c_int64, "?": c_bool, "=": scalar}
    fields, inner = [], []  # the fields of an inner struct are also attributes of the outer one
    for name in _FIELDS[op].split():
        kind = types.get(name[-1], c_int)
        name = name.rstrip("*#?=")
        if name.endswith("&"):
            name = name.rstrip("&")
            inner.append(name)
            kind = struct_of(name, scalar)
        fields.append((name, kind))
    return type(op, (Structure,), {"_anonymous_": inner, "_fields_": fields})
