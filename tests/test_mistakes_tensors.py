"""The commonest wrong tensors, at every public door: one sentence about the argument, what it must be, what to do."""

import copy
import re

import pytest
import torch
from mistaken_calls import ENTRIES, VECTOR, N, models

from iresnet_fast import nn, ops
from iresnet_fast.models import hybrid_loss

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:iresnet_fast")]

# What no sentence to a user may speak of.
INTERNAL = ("NoneType", "object has no", "not supported between", "argument '", "mat1", "_", "image_size must be known")

# What is passed for the right x, and what is said; {name} is the argument.
TYPES = {
    "an array": (lambda x: x.numpy(), "be a torch.Tensor, got numpy.ndarray; pass torch.from_numpy({name})."),
    "a list": (lambda x: x.tolist(), "be a torch.Tensor, got list; pass torch.tensor({name})."),
    "what a layer returned": (
        lambda x: (x, torch.zeros(N)),
        "be a torch.Tensor, got tuple; pass its first entry, as in {name}, logdet = layer(...), or torch.stack it.",
    ),
    "nothing": (lambda x: None, "be a torch.Tensor, got None; pass a tensor."),
    "a class": (lambda x: torch.nn.Linear, "be a torch.Tensor, got the class Linear; pass a tensor."),
    "a number": (lambda x: 3.0, "be a torch.Tensor, got float; pass torch.tensor({name})."),
    "a word": (lambda x: "x", "be a torch.Tensor, got str; pass a tensor."),
    "a sparse tensor": (
        lambda x: x.to_sparse(),
        "be a dense tensor, got layout torch.sparse_coo; pass {name}.to_dense().",
    ),
    "a nested tensor": (
        lambda x: torch.nested.nested_tensor(list(x)),
        "be a dense tensor, got a nested one; pass {name}.to_padded_tensor(0.0).",
    ),
}
OWNER = "(model|branch|layer|prior|weights)"
DTYPES = {
    "float64": (lambda x: x.double(), f"have the dtype of the {OWNER}, torch.float32, got torch.float64; .*{{name}}"),
    "float16": (lambda x: x.half(), f"have the dtype of the {OWNER}, torch.float32, got torch.float16; .*{{name}}"),
    "integers": (lambda x: x.long(), "(have the dtype of|be a floating point tensor).* got torch.int64; .*{name}"),
    "bools": (lambda x: x > 0, "(have the dtype of|be a floating point tensor).* got torch.bool; .*{name}"),
    "complex numbers": (
        lambda x: x.to(torch.complex64),
        "(have the dtype of|be a floating point tensor).* got torch.complex64; pass {name}.real",
    ),
}
SHAPES = {
    "no batch dimension": (
        lambda x: x[0],
        r"have shape \[(B|\.\.\.), .*got \({shape},?\); (add the batch dimension, {name}\[None\]|reshape it)",
    ),
    "channels that are too many": (lambda x: torch.cat((x, x), 1), r"have (shape|events).* got .*; .*"),
    "five dimensions": (lambda x: torch.ones(N, 3, 2, 2, 2), r"have (shape|events).*\(4, 3, 2, 2, 2\); .*"),
    "no dimension": (lambda x: torch.tensor(1.0), r"have (shape|events).*\(\); .*"),
    "channels that come last": (
        lambda x: x.movedim(1, -1),
        r"have shape .*got \(4, 4, 6, 3\); move its channels to the front, {name}\.permute\(0, 3, 1, 2\)\.",
    ),
}
# What fits by chance, or is allowed.
FITS = {
    "no batch dimension": {"SpectralLinear", "InducedNormLinear", "SpectralConv2d", "InducedNormConv2d"},
    "five dimensions": {
        *("SpectralLinear", "InducedNormLinear", "block of a torch module", "block of a torch module.inverse"),
        *("ActNorm", "InvertibleLinear", "Permutation", "Affine"),
        *("ActNorm.inverse", "InvertibleLinear.inverse", "Permutation.inverse", "Affine.inverse"),
    },
}


def sentence(call, argument):
    """The error of a call."""
    with pytest.raises((TypeError, ValueError)) as caught:
        call(argument)
    return str(caught.value)


def is_one_sentence(said, name):
    assert said.startswith(f"{name} must ")
    assert said.endswith(".")
    assert "\n" not in said
    assert ", got " in said
    assert "; " in said
    plain = said
    for public in ("from_numpy", "to_dense", "sparse_coo", "to_padded_tensor", "n_levels"):
        plain = plain.replace(public, "")
    assert not [word for word in INTERNAL if word in plain], said
    return said


def right(entry):
    torch.manual_seed(1)
    return torch.rand(N, *entry.event)


@pytest.mark.parametrize("door", ENTRIES)
def test_what_fits_is_taken(door):
    entry = ENTRIES[door]
    entry.call(right(entry))


@pytest.mark.parametrize("mistake", TYPES)
@pytest.mark.parametrize("door", ENTRIES)
def test_what_is_no_tensor(door, mistake):
    entry, (make, expected) = ENTRIES[door], TYPES[mistake]
    said = is_one_sentence(sentence(entry.call, make(right(entry))), entry.name)
    assert said == f"{entry.name} must {expected.format(name=entry.name)}"


@pytest.mark.parametrize("mistake", DTYPES)
@pytest.mark.parametrize("door", [door for door, entry in ENTRIES.items() if entry.dtypes])
def test_another_dtype(door, mistake):
    entry, (make, expected) = ENTRIES[door], DTYPES[mistake]
    x = make(right(entry))
    if entry.integers and mistake in ("integers", "bools"):
        entry.call(x)
        return
    if "classifier" in door and mistake in ("integers", "bools") and entry.name == "x":
        assert sentence(entry.call, x).startswith("x must be of floating point for a classifier whose n_levels is None")
        return
    said = is_one_sentence(sentence(entry.call, x), entry.name)
    assert re.match(f"{entry.name} must {expected.format(name=entry.name)}", said)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("door", [door for door, entry in ENTRIES.items() if entry.integers])
def test_quantized_numbers_are_no_integers(door):
    entry = ENTRIES[door]
    x = torch.quantize_per_tensor(right(entry), 0.1, 0, torch.qint8)
    said = is_one_sentence(sentence(entry.call, x), entry.name)
    assert said == f"{entry.name} must be data or whole numbers, got torch.qint8; pass {entry.name}.dequantize()."


@pytest.mark.parametrize("mistake", SHAPES)
@pytest.mark.parametrize("door", ENTRIES)
def test_another_shape(door, mistake):
    entry, (make, expected) = ENTRIES[door], SHAPES[mistake]
    if door in FITS.get(mistake, ()) or (mistake == "channels that come last" and len(entry.event) == 1):
        return
    said = is_one_sentence(sentence(entry.call, make(right(entry))), entry.name)
    pattern = expected.replace("{name}", entry.name).replace("{shape}", ", ".join(map(str, entry.event)))
    if mistake != "no batch dimension" or "have shape [B, *event]" not in said:
        assert re.match(f"{entry.name} must {pattern}", said), said


@pytest.mark.parametrize("door", [door for door, entry in ENTRIES.items() if entry.devices])
def test_another_device(door):
    entry = ENTRIES[door]
    said = is_one_sentence(sentence(entry.call, right(entry).to("meta")), entry.name)
    assert re.match(rf"{entry.name} must be on the device of the {OWNER}, cpu, got meta; ", said)


@pytest.mark.parametrize("door", ENTRIES)
def test_a_tensor_with_gradient_in_inference_mode_is_taken(door):
    entry = ENTRIES[door]
    with torch.inference_mode():
        entry.call(right(entry).requires_grad_())


@pytest.mark.parametrize("door", ["flow", "flow.inverse", "image flow", "dense block", "conv block.inverse", "ActNorm"])
def test_autocast_lets_narrower_numbers_in(door):
    entry = ENTRIES[door]
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        with torch.autocast("cpu", torch.bfloat16):
            entry.call(right(entry).to(dtype))
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(TypeError, match="must have the dtype of the"):
        entry.call(right(entry).double())


CONTEXTS = {
    "none": (None, "context must (have shape|be given)"),
    "an array": (
        torch.ones(N, 3).numpy(),
        r"context must be a torch.Tensor, got numpy.ndarray; pass torch.from_numpy\(con",
    ),
    "one for all": (torch.ones(3), "context must have shape .*, got .*; pass"),
    "too few rows": (torch.ones(N - 1, 3), "context must have shape .*, got .*; pass"),
    "too narrow": (torch.ones(N, 2), "context must have shape .*, got .*; pass"),
    "float64": (
        torch.ones(N, 3).double(),
        "context must have the dtype of the (model|network), torch.float32, got torch.float64",
    ),
    "integers": (torch.ones(N, 3).long(), r"context must have the dtype of .* got torch.int64; pass context.float\(\)"),
}


@pytest.mark.parametrize("mistake", CONTEXTS)
def test_contexts(mistake):
    context, expected = CONTEXTS[mistake]
    model, x = models()[2], torch.ones(N, *VECTOR)
    block = nn.InvertibleResidualBlock(nn.ConditionalBranch.dense([2, 4, 2], 3)).eval()
    for call in (model, model.log_prob, model.inverse, model.reconstruct, block, block.inverse):
        said = is_one_sentence(
            sentence(lambda c, call=call: call(x, c), context).replace("context_features", ""), "context"
        )
        assert re.match(expected, said)


def test_a_context_that_nothing_takes():
    x, context = torch.ones(N, *VECTOR), torch.ones(N, 3)
    blocks = [
        nn.InvertibleResidualBlock(branch, lipschitz=0.9)
        for branch in (nn.ResidualBranch.dense([2, 4, 2]), nn.DenseBranch.dense(2, 4), torch.nn.Linear(2, 2))
    ]
    for call in (models()[0].log_prob, *blocks, nn.Sequential(*blocks)):
        assert sentence(lambda c, call=call: call(x, c), context).startswith("context must be None")


LABELS = {
    "float": (torch.ones(N), "labels must be integers, the numbers of classes, got torch.float32; pass labels.long()."),
    "one-hot": (torch.ones(N, 3), "labels must have shape (4,), got (4, 3); pass labels.argmax(1) of one-hot rows."),
    "too few": (torch.ones(3).long(), "labels must have shape (4,), got (3,); pass one number for each sample."),
    "a list": ([0, 1, 2, 0], "labels must be a torch.Tensor, got list; pass torch.tensor(labels)."),
    "none": (None, "labels must be a torch.Tensor, got None; pass a tensor."),
    "too large": (
        torch.tensor([0, 1, 2, 3]),
        "labels must have values in [0, 2], got values from 0 to 3; number the classes from 0.",
    ),
}


@pytest.mark.parametrize("mistake", LABELS)
def test_labels(mistake):
    labels, expected = LABELS[mistake]
    hybrid, x = models()[4], torch.ones(N, *VECTOR)
    assert sentence(lambda wrong: hybrid.loss(x, wrong), labels) == expected
    assert sentence(lambda wrong: hybrid_loss(torch.ones(N, 3), torch.ones(N), wrong), labels) == expected


def test_integers_of_any_dtype_are_labels():
    hybrid, x, labels = models()[4], torch.ones(N, *VECTOR), torch.tensor([0, 1, 2, 0])
    expected = hybrid.loss(x, labels)
    for dtype in (torch.int32, torch.int16, torch.uint8):
        assert torch.equal(hybrid.loss(x, labels.to(dtype)), expected)


def test_a_branch_that_returns_another_shape_is_not_broadcast():
    block = nn.InvertibleResidualBlock(torch.nn.Linear(2, 1), lipschitz=0.9)
    with pytest.raises(
        ValueError, match=r"branch must return the shape of its input, \(4, 2\), got \(4, 1\) from Linear"
    ):
        block(torch.ones(N, 2))
    block = nn.InvertibleResidualBlock(torch.nn.LSTM(2, 2), lipschitz=0.9)
    with pytest.raises(TypeError, match="branch must return a tensor, got tuple from LSTM"):
        block(torch.ones(N, 2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_of_half_precision_works(dtype):
    for model, event in ((models()[0], VECTOR), (models()[1], (3, 4, 6)), (models()[3], (3, 4, 6))):
        half = copy.deepcopy(model).to(dtype)
        x = torch.rand(N, *event).to(dtype)
        found = half(x)
        assert (found if isinstance(found, torch.Tensor) else found[0]).dtype == dtype
        with pytest.raises(TypeError, match=f"x must have the dtype of the model, {dtype}, got torch.float32; pass x"):
            half(x.float())
    assert copy.deepcopy(models()[0]).to(dtype).sample(3).dtype == dtype


@pytest.mark.parametrize(
    "which", ["weights[0]", "weights[1]", "biases[0]", "biases[1]", "parameters[1]", "probe"]
)  # fmt: skip
def test_sparse_tensors_of_a_branch_are_named(which):
    tensors = {
        "weights": [torch.ones(3, 2), torch.ones(2, 3)],
        "biases": [torch.ones(3), torch.ones(2)],
        "parameters": [None, torch.ones(1)],
        "probe": [torch.ones(N, 2)],
    }
    name, place = re.fullmatch(r"(\w+)(?:\[(\d)\])?", which).groups()
    tensors[name][int(place or 0)] = tensors[name][int(place or 0)].to_sparse()
    weights, biases, parameters, (probe,) = tensors.values()
    with pytest.raises(
        TypeError, match=f"^{re.escape(which)} must be a dense tensor, got layout torch.sparse_coo; pass"
    ):
        ops.residual_logdet(
            torch.ones(N, 2), weights, biases, ["identity", "lipswish"], probe, torch.ones(3), parameters=parameters
        )
