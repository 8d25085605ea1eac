import importlib
import os
from pathlib import Path

import nn_models
import pytest
import timed_flows
import torch

from iresnet_fast import _library, ops
from iresnet_fast.nn._group import SpectralGroup


def pytest_addoption(parser):
    parser.addoption(
        "--device",
        choices=["cuda", "cpu", "emulated"],
        default="cuda",
        help="where tests marked cuda run (default: cuda); without a GPU, cpu tries the tests themselves on the CPU "
        "kernels, and emulated the binding and the CUDA kernels in the emulator of tests/simt",
    )


def pytest_collection_modifyitems(config, items):
    """Leave out the tests that need a GPU unless -m names them."""
    if "cuda" in config.option.markexpr:
        return
    left_out = [item for item in items if item.get_closest_marker("cuda")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def pytest_collection_finish(session):
    """Say so if tests were asked for that need a GPU which is not there: they must not seem to pass."""
    device = session.config.option.device
    if device == "cpu" or not any(item.get_closest_marker("cuda") for item in session.items):
        return
    if device == "emulated":
        from simt.binding import install

        install()
        return
    if not torch.cuda.is_available():
        built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "is a CPU build"
        pytest.exit(
            f"the tests marked cuda need a GPU that torch can use; torch {torch.__version__} {built} and finds none", 1
        )
    if not _library.HAS_CUDA:
        pytest.exit(f"the tests marked cuda need the CUDA kernels, which are unavailable: {_library.CUDA_ERROR}", 1)


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report):
    """After an illegal access no call works in this process: let pytest-xdist go on in another one."""
    if not (report.failed and "cuda" in report.keywords and os.environ.get("PYTEST_XDIST_WORKER")):
        return
    if torch.cuda.is_initialized():
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            os._exit(1)


@pytest.fixture
def device(request):
    """Where the tensors of a test marked cuda are."""
    return "cuda" if request.config.option.device == "cuda" else "cpu"


@pytest.fixture(autouse=True)
def _seed_and_restore():
    """Every test starts from seed 0 and may change threads, instruction set and backend: they are put back."""
    torch.manual_seed(0)
    threads, isa = torch.get_num_threads(), _library.cpu_isa()
    with _library.use_backend(_library.backend()):
        yield
    torch.set_num_threads(threads)
    if isa is not None:
        _library.set_cpu_isa(isa)


@pytest.fixture(autouse=True)
def _full_precision(request):
    """Float32 on a GPU is compared as it is: convolutions, torch's and ours, use TF32 there unless told otherwise."""
    if not request.node.get_closest_marker("cuda"):
        yield
        return
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


@pytest.fixture
def one_thread():
    torch.set_num_threads(1)  # tiny layers: waking a second thread costs more than it brings


@pytest.fixture
def calls(monkeypatch):
    """The number of layers of every refresh of norms."""
    counts, iterate = [], SpectralGroup.iterate

    def counting(group, layers, *others):
        counts.append(len(layers))
        iterate(group, layers, *others)

    monkeypatch.setattr(SpectralGroup, "iterate", counting)
    return counts


@pytest.fixture
def normalisations(monkeypatch):
    """The number of layers of every call of ops.spectral_normalize."""
    return nn_models.count_calls(monkeypatch, "spectral_normalize")


@pytest.fixture
def flow():
    """A small density model of the kind whose training step is timed."""
    return timed_flows.mnist_flow()


@pytest.fixture
def module(monkeypatch):
    """Import a module of benchmarks/ by name, as its scripts do."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module


@pytest.fixture
def runs(monkeypatch):
    """The number of steps of every call of ops.residual_flow."""
    counts, flow = [], ops.residual_flow

    def count(x, steps, *others):
        counts.append(len(steps))
        return flow(x, steps, *others)

    monkeypatch.setattr(ops, "residual_flow", count)
    return counts
