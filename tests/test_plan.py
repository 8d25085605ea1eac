"""`python -m iresnet_fast plan`: plans of branches on GPUs that need not be there."""

import pytest
import torch

from iresnet_fast.__main__ import main

CONV = ["plan", "--branch", "conv:4,32,32,4:3,1,3:14x14", "--card", "h100"]
WIDE = ["plan", "--branch", "conv:48,512,512,48:3,1,3:16x16", "--card", "h100"]
WALKS = ["branch, g(x)", "log-determinant, 10 terms", "the same in training", "its gradient", "inverse, 20 iterations"]


def plan(capsys, *arguments):
    main(arguments)
    return capsys.readouterr().out.rstrip().split("\n\n")


def test_every_walk_is_planned(capsys):
    plans = plan(capsys, *CONV)
    assert [text.startswith(title) for text, title in zip(plans, WALKS, strict=True)] == [True] * 5
    for text in plans:
        assert "\nh100, full precision: " in text


@pytest.mark.parametrize("card", ["t4", "a100", "rtx3090", "rtx4090", "h100", "b200", "rtx5090"])
@pytest.mark.parametrize("branch", ["dense:2,128,128,128,2", "conv:12,512,512,12:3,1,3:16x16"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_card_and_dtype(capsys, branch, card, dtype):
    plans = plan(capsys, "plan", "--branch", branch, "--card", card, "--dtype", dtype, "--batch", "64")
    assert len(plans) == 5
    for text in plans:
        assert text.splitlines()[1].startswith(f"{card}, full precision: ")
        assert "us modelled" in text


def precisions(plans):
    return [text.splitlines()[1].split(", ")[1].split(" ")[0] for text in plans]


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_precision_is_that_of_all_but_the_inverse(capsys, precision):
    plans = plan(capsys, *WIDE, "--precision", precision)
    assert precisions(plans) == [precision] * 4 + ["full"]
    plans = plan(capsys, *WIDE, "--precision", precision, "--dtype", "float64")
    assert precisions(plans) == ["full"] * 5


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_a_branch_that_tensor_cores_would_slow_down_keeps_its_precision(capsys, precision):
    assert plan(capsys, *CONV, "--batch", "32", "--precision", precision) == plan(capsys, *CONV, "--batch", "32")


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--branch", "dense:2,128", "a branch must return as many channels as it takes, got [2, 128]"),
        ("--branch", "dense:2", "a branch of 0 stages needs 1 numbers of channels, got 1"),
        ("--branch", "conv:4,32,4:3:14x14", "a branch of 1 stages needs 2 numbers of channels, got 3"),
        ("--branch", "conv:4,32,4:3,2:14x14", "kernels must be odd, got [3, 2]"),
        ("--branch", "conv:4,32,4", "expected dense:2,128,2 (widths) or conv:4,32,32,4:3,1,3:14x14"),
        ("--branch", "dense:2,x,2", "got 'dense:2,x,2'"),
        ("--branch", "dense:" + ",".join(["2"] * 18), "a branch must have 1 to 16 stages"),
        (
            "--card",
            "h200",
            "--card must be one of a100, b200, h100, rtx3090, rtx4090, rtx5090, t4, or this, got 'h200'.",
        ),
        ("--batch", "0", "expected a positive whole number, got '0'"),
        ("--precision", "fp8", "invalid choice: 'fp8'"),
    ],
)
def test_errors_are_sentences(capsys, option, value, sentence):
    with pytest.raises(SystemExit):
        main([*CONV, option, value])
    assert sentence in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_this_card_needs_a_gpu(capsys):
    with pytest.raises(SystemExit):
        main([*CONV, "--card", "this"])
    assert f"--card this needs a GPU, and torch {torch.__version__} " in capsys.readouterr().err
