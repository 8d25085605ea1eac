"""The raw ops of csrc/library.cpp on the emulator, so that the Python layer above them runs on the CUDA kernels."""

import importlib

import pytest
import torch

from iresnet_fast import _traces

from . import operands

exact = importlib.import_module("iresnet_fast.ops.residual_logdet_exact")  # the package has a function of this name
BRANCH_OPS = ("branch", "branch_backward", "residual_logdet", "jacobian_powers", "jacobian", "residual_inverse")
LAYER_OPS = ("spectral_norm", "lanczos_norm", "fingerprint", "spectral_normalize", "spectral_normalize_backward")


def _contiguous(argument):
    if isinstance(argument, torch.Tensor):
        return argument.detach().contiguous()
    if isinstance(argument, (list, tuple)):
        return [_contiguous(item) for item in argument]
    return argument


def _emulated(op, names, emulator, card, precision):
    function = getattr(operands, op)
    target = {"card": card, "precision": precision} if op in BRANCH_OPS else {"card": card}

    def call(*arguments):
        given = dict(zip(names, map(_contiguous, arguments), strict=True))
        given.pop("precision", None)  # the test decides
        if "lipschitz" in given:
            # It also decides what a graph records, and there is none here.
            given["captured_iterations"] = given["max_iterations"]
            given["lipschitz"] *= given.pop("accelerate")
        results = function(emulator, **given, **target)
        return (*results, given["x"].new_empty(0)) if given.get("keep") is False else results

    return call


@pytest.fixture
def emulated_ops(monkeypatch, emulator):
    """Call it with a card, and iresnet_fast.ops runs on the emulated kernels from then on."""
    names = {
        op: [argument.name for argument in getattr(torch.ops.iresnet_fast, op).default._schema.arguments]
        for op in (*BRANCH_OPS, *LAYER_OPS)
    }

    def install(card="h100", precision=0):
        monkeypatch.setattr(exact, "_LARGEST_NATIVE", {})  # not that of the CPU
        monkeypatch.setattr(_traces, "_MAKING", ())  # likewise
        for op in names:
            replacement = _emulated(op, names[op], emulator, card, precision)
            monkeypatch.setattr(torch.ops.iresnet_fast, op, replacement, raising=False)
        return emulator

    return install
