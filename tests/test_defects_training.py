"""What other invertible residual networks got wrong around training: rates, decay, checkpoints, memory, imports."""

import gc
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import iresnet_fast
from iresnet_fast import data, training
from iresnet_fast.models import IResNetFlow, ResidualFlow
from iresnet_fast.training.schedule import learning_rate

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:iresnet_fast. Block runs"),
]
PACKAGE = Path(iresnet_fast.__file__).parent


def points():
    return data.DataSet("points", torch.randn(64, 2), torch.randn(16, 2))


def run(folder, **changes):
    """A tiny flow and its run; the same weights and the same batches at every call."""
    torch.manual_seed(0)
    flow = IResNetFlow.preset("toy", blocks=(2,), hidden=(8,))
    before = {name: parameter.detach().clone() for name, parameter in flow.named_parameters()}
    options = {"batch_size": 16, "learning_rate": 0.01, "decay_start": 1.0, "ema": None, "log_steps": 1, **changes}
    config = training.TrainConfig(**options)
    return before, training.fit(flow, points(), config, folder=folder, show_progress=False)


@pytest.mark.parametrize("warmup_steps", [0, 1, 5])
def test_defect_29_the_warm_up_ends_at_the_rate_asked_for(warmup_steps):
    """i-ResNet ramps past it: to twice the rate for densities, where it stays, and to 1.1 times it for classifiers."""
    config = training.TrainConfig(learning_rate=0.003, warmup_steps=warmup_steps, decay_start=1.0, max_steps=100)
    rates = [learning_rate(config, step, step / 100) for step in range(100)]
    rising = rates[:warmup_steps]
    assert rising == pytest.approx([0.003 * (step + 1) / warmup_steps for step in range(warmup_steps)])
    assert rates[warmup_steps:] == [0.003] * (100 - warmup_steps)
    decayed = [learning_rate(config.replace(decay_start=0.5), step, step / 100) for step in range(100)]
    assert max(decayed) == 0.003
    assert decayed[:50] == rates[:50]


def test_defect_29_the_optimizer_gets_the_rate_of_the_schedule(tmp_path):
    """A step of plain SGD without momentum yet is the rate times the gradient: the first step shows the rate used."""
    options = {"optimizer": "sgd", "clip": None, "max_steps": 1}
    steps = []
    for warmup_steps in (0, 4):
        before, done = run(tmp_path / str(warmup_steps), warmup_steps=warmup_steps, **options)
        steps.append(dict(done.model.named_parameters())["body.1.branch.layers.0.weight"].detach())
        assert done.history[0]["learning_rate"] == pytest.approx(0.01 / max(warmup_steps, 1))
    start = before["body.1.branch.layers.0.weight"]
    torch.testing.assert_close((steps[0] - start) / 4, steps[1] - start, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_defect_31_the_weight_decay_is_the_one_asked_for(optimizer, tmp_path):
    """residual-flows' optimizers add the decay to a copy: with 0 and with 10 the weights are the same."""
    weights = []
    for weight_decay in (0.0, 0.5):
        before, done = run(tmp_path / str(weight_decay), optimizer=optimizer, weight_decay=weight_decay, max_steps=1)
        weights.append(dict(done.model.named_parameters())["body.1.branch.layers.0.weight"].detach())
    start = before["body.1.branch.layers.0.weight"]
    # In the first step of both: rate * decay * weight less than without, float32 differences of numbers of size 1.
    torch.testing.assert_close(weights[1] - weights[0], -0.01 * 0.5 * start, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["adam", "adamax"])
def test_defect_31_the_weight_decay_shrinks_the_weights(optimizer, tmp_path):
    norms = []
    for weight_decay in (0.0, 10.0):
        _, done = run(tmp_path / str(weight_decay), optimizer=optimizer, weight_decay=weight_decay, max_steps=20)
        weights = [p for name, p in done.model.named_parameters() if name.endswith("weight")]
        norms.append(float(torch.stack([weight.detach().norm() for weight in weights]).norm()))
    # Twenty steps of 0.01 against weights of size 0.3: the decay decides the sign of nearly all of them.
    assert norms[1] < 0.8 * norms[0]


def test_defect_32_a_checkpoint_is_plain_tensors_and_json(tmp_path, monkeypatch):
    """Earlier codes pickle whole modules: they break when code moves, and torch.load refuses them by default."""
    safetensors = pytest.importorskip("safetensors")
    _, done = run(tmp_path, max_steps=4, ema=0.9)
    files = sorted(tmp_path.glob("**/*.safetensors"))
    assert files
    for path in tmp_path.glob("**/*"):
        assert path.suffix not in (".pt", ".pth", ".pkl", ".ckpt")
        if path.is_file():
            assert not path.read_bytes().startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x04", b"\x80\x05"))
    with safetensors.safe_open(files[-1], "pt") as file:
        described = json.loads(next(iter(file.metadata().values())))
    assert described["model"] == "IResNetFlow"
    assert described["model_config"] == json.loads(json.dumps(done.model.config.to_dict()))

    def refuse(*arguments, **options):
        raise AssertionError("a pickle was read")

    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    x = torch.randn(5, 2)
    again = training.load_model(tmp_path)
    assert torch.equal(again.log_prob(x), done.best.log_prob(x))


def test_defect_33_nothing_hides_memory_that_is_not_freed():
    """residual-flows empties torch's cache and runs the garbage collector in every iteration."""
    for path in PACKAGE.glob("**/*.py"):
        assert not re.search(r"empty_cache|gc\.collect|import gc", path.read_text()), path.name


def live_tensors():
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


@pytest.mark.parametrize("kind", ["roulette", "dense branch"])
def test_defect_33_memory_does_not_grow_with_the_steps(kind):
    """With the collector switched off: what a step leaves behind must go by itself, whatever depth was drawn."""
    if kind == "roulette":
        flow = ResidualFlow.preset("toy", blocks=(2,), hidden=(8,))
    else:
        flow = ResidualFlow.preset("toy", blocks=(2,), branch="dense", growth=3, depth=1)
    flow.initialize(torch.randn(32, 2))
    optimizer = torch.optim.Adam(flow.parameters(), 1e-3)
    counts = []
    gc.collect()
    gc.disable()
    try:
        for step in range(1, 61):
            optimizer.zero_grad()
            (-flow.log_prob(torch.randn(8, 2)).mean()).backward()
            optimizer.step()
            if step in (20, 60):
                counts.append(live_tensors())
    finally:
        gc.enable()
    assert counts[0] == counts[1]


def test_defect_34_an_import_compiles_nothing(tmp_path):
    """MonotoneFlows builds its CUDA kernel when it is imported, and cannot be imported without a compiler."""
    code = "import sys, iresnet_fast; sys.exit('torch.utils.cpp_extension' in sys.modules)"
    environment = {"PATH": "", "HOME": str(tmp_path), "TORCH_EXTENSIONS_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr
    assert not any(tmp_path.iterdir())
