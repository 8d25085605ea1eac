"""`python -m iresnet_fast plan`: plans of branches on the CPU, and on GPUs that need not be there."""

import pytest
import torch

from iresnet_fast import _library, ops
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
            "--card must be one of a100, b200, h100, rtx3090, rtx4090, rtx5090, t4, this, or cpu, got 'h200'.",
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


CPU_WALKS = ["branch, g(x)", "log-determinant, 10 terms", "a training step, 10 terms, one probe", "inverse, 20 iter"]


def test_a_cpu_goes_in_tiles_where_they_fill_its_cores(capsys):
    plans = plan(capsys, "plan", "--branch", "conv:4,32,32,4:3,1,3:14x14", "--card", "cpu", "--threads", "2")
    assert [text.startswith(title) for text, title in zip(plans, CPU_WALKS, strict=True)] == [True] * 4
    for text in plans:
        assert text.splitlines()[1].startswith("cpu, 2 threads: tiles of ")
        assert " on 2 cores, " in text


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_cpu_goes_layer_by_layer_where_the_weights_are_what_costs(capsys, dtype):
    wide = ("plan", "--branch", "dense:1024,1024,1024,1024", "--card", "cpu", "--threads", "2", "--dtype", dtype)
    plans = plan(capsys, *wide, "--batch", "4")
    assert ["layer by layer" in text for text in plans] == [True] * 4
    for text in plans:
        assert "modelled: tiles " in text


def test_a_plan_of_a_cpu_is_what_runs():
    """The rule is asked by the op with the sizes that a plan shows."""
    torch.set_num_threads(1)
    module = _library.extension()
    planned = module.cpu_way([512, 512, 512], [1, 1], (0, 0), 4, 1, 1, 0, 1, False, 1, 4)
    assert planned["layers"]
    weights = [torch.randn(512, 512) for _ in range(2)]
    x, biases, activations = torch.randn(4, 512), [None, None], ["identity", "elu"]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        ops.branch(x, weights, biases, activations)
    assert [event.count for event in profiler.key_averages() if event.key == "aten::mm"] == [2]
