"""Checkpoints with a right checksum and wrong contents, which anybody can write: one sentence each, at little cost."""

import copy
import json
import shutil
import struct
from pathlib import Path

import mutations
import pytest
import torch
from short_runs import newest, run, sentence_of
from training_examples import make_model, same_bits

from iresnet_fast import training
from iresnet_fast.training import checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

GONE = object()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    torch.set_num_threads(1)
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in ("plane", "classifier", "hybrid")}
    for kind, folder in folders.items():
        run(folder, kind)
    return folders


@pytest.fixture
def folder(runs, tmp_path):
    return Path(shutil.copytree(runs["plane"], tmp_path / "run"))


def craft(path, changes=None, tensors=None):
    """Write a checkpoint anew with other entries of the metadata ("data.n_levels": 3), or other tensors."""
    found = checkpoint.read(path)
    metadata = copy.deepcopy(found.metadata)
    for name, value in (changes or {}).items():
        *parts, last = name.split(".")
        place = metadata
        for part in parts:
            place = place[part]
        if value is GONE:
            del place[last]
        else:
            place[last] = value
    checkpoint.write(path, found.tensors if tensors is None else tensors(found.tensors), metadata)


def raw(text):
    """A file without tensors whose metadata are this text."""

    def write(path):
        header = json.dumps({"__metadata__": {"iresnet_fast": text}}).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header)

    return write


NESTED = {"type": "HybridConfig", "flow": {"type": "HybridConfig", "flow": {}}}
METADATA = {
    "no model": ({"model": GONE}, "must say in its metadata what the model is"),
    "a list of models": ({"model": ["IResNetFlow"]}, "model must be a text, got a list of 1"),
    "a long name": ({"model": "x" * 10**6}, "must hold one of IResNetFlow"),
    "no configuration": ({"model_config": GONE}, "what the model_config is"),
    "a list for it": ({"model_config": [1]}, "model_config must be an object, got a list of 1"),
    "no data": ({"data": GONE}, "what the data.n_levels is"),
    "a number of data": ({"data": 3}, "data must be an object, got 3"),
    "no levels": ({"data.n_levels": GONE}, "what the data.n_levels is"),
    "levels in words": ({"data.n_levels": "256"}, "data.n_levels must be an integer or null, got '256'"),
    "levels true": ({"data.n_levels": True}, "data.n_levels must be an integer or null, got True"),
    "one level": ({"data.n_levels": 0}, "data.n_levels of two at least, got 0"),
    "half a step": ({"step": 0.5}, "step must be an integer, got 0.5"),
    "a step back": ({"step": -1}, "must have taken a number of steps and minutes, got -1"),
    "minutes without end": ({"minutes": float("inf")}, "steps and minutes, got 2 and inf"),
    "minutes NaN": ({"minutes": float("nan")}, "must have the metadata of iresnet_fast"),
    "blocks": ({"model_config.blocks": [10**9]}, "of the size of the weights, got a much larger one"),
    "blocks beyond bits": ({"model_config.blocks": [10**400]}, "cannot be built"),
    "layers": ({"model_config.hidden": [1] * 10**5}, "of the size of the weights, got a much larger one"),
    "widths": ({"model_config.hidden": [10**9]}, "of the size of the weights, got a much larger one"),
    "features": ({"model_config.event_shape": [10**6]}, "of the size of the weights, got a much larger one"),
    "an image": (
        {"model_config.event_shape": [3, 1 << 20, 1 << 20], "model_config.kernel_sizes": [3, 3, 3]}, "much larger one"
    ),
    "no event": ({"model_config.event_shape": GONE}, "must have a value for event_shape"),
    "another name": ({"model_config.widths": [3]}, "got 'widths'"),
    "words for numbers": ({"model_config.hidden": ["16"]}, "must be a list, each an integer, got a list of 1"),
    "true for a number": ({"model_config.growth": True}, "model_config.growth must be an integer, got True"),
    "a number for a flag": ({"model_config.actnorm": 1}, "model_config.actnorm must be true or false, got 1"),
    "a list for a name": ({"model_config.activation": ["elu"]}, "model_config.activation must be a text"),
    "a norm of two": ({"model_config.coeff": 2}, "coeff must be in (0, 1), got 2"),
    "no estimator": ({"model_config.eval_estimator": {"type": "FixedPoint"}}, "must be an object of type PowerSeries"),
    "bad estimator": (
        {"model_config.eval_estimator": {"type": "PowerSeries", "n_terms": "5"}}, "eval_estimator.n_terms must be"
    ),
    "no solver": ({"model_config.solver": None}, "model_config.solver must be an object of type FixedPoint, got None"),
    "nested": ({"model_config.solver": NESTED}, "must be an object of type FixedPoint"),
    "a flow for a classifier": ({"model": "IResNetClassifier"}, "keys of image_shape"),
}  # fmt: skip


@pytest.mark.parametrize("case", METADATA)
def test_metadata(case, folder):
    changes, words = METADATA[case]
    craft(newest(folder), changes)
    assert words in sentence_of(training.load_model, folder)
    assert mutations.outcome(lambda: training.load_model(folder), ValueError, 0.5, 30) == "refused"


@pytest.mark.parametrize(
    "text",
    [
        '{"format": 1, "version": "0.1.0"}',
        '{"version": "0.1.0", "checksum": 3}',
        "[" * 100_000,
        '{"a":' * 100_000,
        "null",
        "1" * 100_000,
        '{"format": 1, "version": "0.1.0", "checksum": 1, "checksum": 2}',
        '{"format": 1, "version": "0.1.0", "checksum": NaN}',
        '{"format": [1], "version": {}, "checksum": 0}',
        '{"format": 1, "version": "0.1.0", "checksum": "0"}',
    ],
)
def test_text(text, tmp_path):
    raw(text)(tmp_path / "a.safetensors")
    sentence_of(training.load_model, tmp_path / "a.safetensors")
    sentence_of(training.read_metadata, tmp_path / "a.safetensors")


def each(change, ending=""):
    """Change the tensors whose names end so."""
    return lambda tensors: {name: change(value) if name.endswith(ending) else value for name, value in tensors.items()}


def without(ending):
    return lambda tensors: {name: value for name, value in tensors.items() if not name.endswith(ending)}


WEIGHTS = {
    "whole numbers": (each(torch.Tensor.int), "that models compute in, got none"),
    "some whole numbers": (each(torch.Tensor.int, ".weight"), "weight of torch.float32, got torch.int32"),
    "complex": (each(lambda t: t.to(torch.complex64), ".weight"), "weight of torch.float32, got torch.complex64"),
    "two types": (each(torch.Tensor.double, ".weight"), "that models compute in, got torch.float32, torch.float64"),
    "eight bits": (each(lambda t: t.to(torch.float8_e4m3fn)), "that models compute in, got torch.float8_e4m3fn"),
    "norms in pairs": (each(lambda t: torch.stack((t, t)), ".sigma"), "weights of this IResNetFlow"),
    "vectors of zeros": (each(torch.zeros_like, ".u"), "a singular vector of length 1 as"),
    "long vectors": (each(lambda t: 1e30 * t, ".v"), "of length 1e+30"),
    "NaN": (each(lambda t: t * float("nan"), ".weight"), "finite numbers, got others in"),
    "infinite": (each(lambda t: t + float("inf"), ".bias"), "finite numbers, got others in"),
    "flat": (each(torch.Tensor.flatten, ".weight"), "weights of this IResNetFlow"),
    "numbers": (each(lambda t: t.new_ones(()), ".u"), "weights of this IResNetFlow"),
    "no bias": (without(".bias"), "Missing key(s) in state_dict"),
    "another": (lambda tensors: {**tensors, "average.x": torch.ones(2)}, "Unexpected key(s) in state_dict"),
    "none": (lambda tensors: {}, "that models compute in, got none"),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights(case, folder):
    change, words = WEIGHTS[case]
    craft(newest(folder), tensors=change)
    assert words in sentence_of(training.load_model, folder)
    sentence_of(run, folder, resume=True, max_steps=3)


@pytest.fixture
def linear(tmp_path):
    """A flow with invertible linear maps, and a function that loads it from a file after a change of its tensors."""
    flow = make_model()
    flow = type(flow)(flow.config.replace(linear=True))
    metadata = {"model": "IResNetFlow", "model_config": flow.config.to_dict(), "data": {"n_levels": None}}

    def load(change):
        tensors = {f"model.{key}": value for key, value in flow.state_dict().items()}
        checkpoint.write(tmp_path / "a.safetensors", change(tensors), metadata)
        return training.load_model(tmp_path / "a.safetensors")

    return flow, load


@pytest.mark.parametrize(
    ("ending", "change", "words"),
    [
        (".permutation", torch.zeros_like, "a permutation of channels as"),
        (".permutation", torch.ones_like, "a permutation of channels as"),
        (".permutation", lambda t: 0.5 * torch.ones_like(t), "a permutation of channels as"),
        (".permutation", lambda t: torch.stack((t[0], t[0])), "a permutation of channels as"),
        (".permutation", lambda t: torch.stack((t[0], t[0]), 1), "a permutation of channels as"),
        (".permutation", lambda t: 2.0 * t - t.flip(0), "a permutation of channels as"),
        (".permutation", lambda t: 1.01 * t, "a permutation of channels as"),
        (".permutation", lambda t: torch.zeros(2, dtype=torch.int64), "an order of 2 channels as"),
        (".permutation", torch.Tensor.int, "permutation of torch.float32, got torch.int32"),
        (".sign", torch.zeros_like, "signs as"),
    ],
)
def test_maps_that_cannot_be_inverted(ending, change, words, linear):
    """Torch would take any numbers."""
    flow, load = linear
    assert same_bits(load(lambda tensors: tensors).state_dict(), flow.state_dict())
    assert words in sentence_of(load, each(change, ending))


def test_an_order_of_channels_becomes_a_matrix(linear):
    """Older versions wrote the order."""
    flow, load = linear
    again = load(each(lambda matrix: matrix.argmax(1), ".permutation"))
    assert same_bits(again.state_dict(), flow.state_dict())


def test_flags_of_earlier_versions_load_and_go_on(folder):
    expected = checkpoint.load_model(folder).state_dict()
    as_bools = lambda tensors: {  # noqa: E731
        name: value.bool() if name.endswith(".initialized") else value for name, value in tensors.items()
    }
    for path in checkpoint.paths(folder):
        craft(path, tensors=as_bools)
    found = checkpoint.load_model(folder).state_dict()
    assert any(value.dtype == torch.bool for value in checkpoint.read(newest(folder)).tensors.values())
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    run(folder, resume=True)


def test_weights_of_zeros_have_no_vectors(tmp_path):
    """So training leaves them, and so they are loaded."""
    model = type(make_model())(make_model().config.replace(hidden=(8,)))
    model.log_prob(torch.randn(16, 2))
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.mul_(0.0 if name.endswith("weight") else 1.0)
    for _ in range(3):
        model.log_prob(torch.randn(16, 2)).mean().backward()
    model.eval().log_prob(torch.randn(16, 2))
    state = model.state_dict()
    assert not state["body.1.branch.layers.0.u"].any()
    metadata = {"model": "IResNetFlow", "model_config": model.config.to_dict(), "data": {"n_levels": None}}
    tensors = {f"model.{name}": value for name, value in state.items()}
    checkpoint.write(tmp_path / "a.safetensors", tensors, metadata)
    assert same_bits(training.load_model(tmp_path / "a.safetensors").state_dict(), state)


OF_A_RUN = {
    "no optimizer": ({}, without(".exp_avg"), "as optimizer.0.exp_avg, got none"),
    "another optimizer": (
        {},
        lambda tensors: {**tensors, "optimizer.0.momentum_buffer": torch.ones(2)},
        "got also optimizer.0.momentum",
    ),
    "an index in words": ({}, lambda tensors: {**tensors, "optimizer.x.step": torch.ones(())}, "got also optimizer.x"),
    "an index too many": ({}, lambda tensors: {**tensors, "optimizer.99.step": torch.ones(())}, "also optimizer.99"),
    "flat moments": ({}, each(torch.Tensor.flatten, ".exp_avg_sq"), "numbers of shape (16, 2) as optimizer."),
    "whole moments": ({}, each(torch.Tensor.int, ".exp_avg"), "got torch.int32 of shape"),
    "infinite moments": ({}, each(lambda t: t + float("inf"), ".exp_avg"), "finite numbers as optimizer.0.exp_avg"),
    "no losses": ({}, without("log.loss"), "as log.loss, got none"),
    "losses of two dimensions": ({}, each(lambda t: t[None], "log.loss"), "numbers of shape (n,) as log.loss"),
    "more losses": ({}, each(lambda t: torch.cat((t, t)), "log.loss"), "a gradient norm for each loss"),
    "half a norm unsettled": ({}, each(lambda t: t + 0.5, "log.unsettled_norms"), "a count as log.unsettled_norms"),
    "no step": ({"step": GONE}, None, "what the step is"),
    "no seed": ({"seed": GONE}, None, "what the seed is"),
    "no minutes": ({"minutes": GONE}, None, "what the minutes is"),
    "no recipe": ({"train_config": GONE}, None, "what the train_config is"),
    "a recipe in words": ({"train_config": "adam"}, None, "train_config must be an object, got 'adam'"),
    "no data": ({"data": {}}, None, "must be of data with name = 'curve' to go on from, got None"),
}


@pytest.mark.parametrize("case", OF_A_RUN)
def test_a_run_goes_on_from_none_of_it(case, folder):
    changes, tensors, words = OF_A_RUN[case]
    craft(newest(folder), changes, tensors)
    assert words in sentence_of(run, folder, resume=True, max_steps=3)
    assert not (folder / "checkpoint-00000003.safetensors").exists()


@pytest.mark.parametrize("kind", ["plane", "classifier", "hybrid"])
def test_any_change_is_loaded_or_refused(kind, runs, tmp_path):
    """Every entry of the metadata gets values of every type: one of them may be what it can be."""
    path = tmp_path / "a.safetensors"
    found = checkpoint.read(newest(runs[kind]))
    names = [(name,) for name in found.metadata]
    names += [("data", name) for name in found.metadata["data"]]
    names += [("model_config", name) for name in found.metadata["model_config"]]
    values = (None, True, -1, 0, 10**9, 0.5, "x", [], [10**9], [[1]], {}, {"type": "FlowConfig"}, GONE)

    def load_all():
        refused = 0
        for i, at in enumerate(names):
            for value in values[i % 3 :: 3]:
                shutil.copy(newest(runs[kind]), path)
                craft(path, {".".join(at): value})
                try:
                    training.load_model(path)
                except training.CheckpointError:
                    refused += 1
        assert refused > len(names)

    assert mutations.outcome(load_all, (), seconds=300) == "loaded"
