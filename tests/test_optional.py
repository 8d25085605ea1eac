"""What works with torch and numpy alone, and what is said where a module of an extra is missing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import iresnet_fast
from iresnet_fast._optional import EXTRAS, MissingModuleError, needed

ROOT = Path(__file__).parents[1]
BLOCK = f"""
import sys
from importlib.abc import MetaPathFinder

class Blocked(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

missing = set(sys.argv[1].split(","))
for name in missing:
    sys.modules[name] = None
sys.meta_path.insert(0, Blocked())
sys.path.insert(0, {str(Path(iresnet_fast.__file__).parents[1])!r})
"""


def run(code, *arguments, missing=tuple(EXTRAS)):
    """What a program prints that is run without modules."""
    command = [sys.executable, "-c", BLOCK + code, ",".join(missing), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_layers_ops_and_models_need_torch_and_numpy_only():
    out, _ = run("""
import torch
import iresnet_fast
from iresnet_fast import certify, data, models, nn, ops, training

branch = nn.ResidualBranch([nn.SpectralLinear(2, 8), nn.SpectralLinear(8, 2)], ["elu", "identity"])
x = torch.randn(4, 2)
z, logdet = nn.InvertibleResidualBlock(branch)(x)
flow = models.IResNetFlow(models.FlowConfig((2,), blocks=(2,), hidden=(8, 8)))
flow.log_prob(x).mean().backward()
training.evaluate(flow, x)
certify.certify(flow)
print(len(data.DataSet("mine", x, x).train), "rows")
""")
    assert out == "4 rows\n"


SENTENCES = {
    "data.load('moons')": "the density moons needs scikit-learn, got none; pip install 'iresnet_fast[sklearn]'.",
    "data.load('digits')": "the data set digits needs scikit-learn, got none; pip install 'iresnet_fast[sklearn]'.",
    "data.load('rows.csv', '.')": "reading tables needs pandas, got none; pip install 'iresnet_fast[tables]'.",
    "iresnet_fast.sklearn": "iresnet_fast.sklearn needs scikit-learn, got none; pip install 'iresnet_fast[sklearn]'.",
    "training.load_model('rows.csv')": "reading checkpoints needs safetensors, got none; pip install 'iresnet_fast[train]'.",  # noqa: E501
    "training.pictures.image_grid(torch.zeros(1, 1, 2, 2), 'a.png')": "drawing pictures needs matplotlib, got none; pip install 'iresnet_fast[train]'.",  # noqa: E501
}  # fmt: skip


def test_a_missing_module_is_one_sentence(tmp_path):
    (tmp_path / "rows.csv").write_text("a,b\n" + "".join(f"{i},{i * i % 7}.5\n" for i in range(30)))
    out, _ = run(
        f"""
import os
import torch
import iresnet_fast
from iresnet_fast import data, training

os.chdir(sys.argv[2])
for code in {list(SENTENCES)!r}:
    try:
        eval(code)
    except ModuleNotFoundError as error:
        print(error)
""",
        tmp_path,
    )
    assert out.splitlines() == list(SENTENCES.values())


TRAIN = """
import torch
from iresnet_fast import data, models, training

torch.manual_seed(0)
flow = models.IResNetFlow(models.FlowConfig((2,), blocks=(1,), hidden=(4, 4)))
dataset = data.DataSet("mine", torch.randn(40, 2), torch.randn(9, 2))
run = training.fit(flow, dataset, training.TrainConfig(batch_size=20, max_steps=3), sys.argv[2])
print(training.load_model(sys.argv[2]).config.blocks)
"""


def test_training_goes_on_without_tensorboard_matplotlib_and_rich(tmp_path):
    out, err = run(TRAIN, tmp_path, missing=("tensorboard", "matplotlib", "rich"))
    assert out.splitlines()[-1] == "(1,)"
    assert err.count("iresnet_fast: the run is logged in log.csv alone, since TensorBoard is not installed") == 1
    assert (tmp_path / "log.csv").is_file()
    assert not (tmp_path / "tensorboard").exists()


def test_training_begins_nothing_that_it_could_not_write(tmp_path):
    with pytest.raises(AssertionError, match=r"training needs safetensors, got none; pip install 'iresnet_fast\[tra"):
        run(TRAIN, tmp_path / "run", missing=("safetensors",))
    assert not list(tmp_path.rglob("*.csv"))


def test_estimators_need_no_tensorboard_and_say_nothing_of_it(tmp_path):
    _, err = run(
        """
import numpy as np
from iresnet_fast.sklearn import ResidualFlowDensity

ResidualFlowDensity(n_blocks=1, hidden=(4,), max_steps=2).fit(np.random.default_rng(0).normal(size=(60, 2)))
""",
        missing=("tensorboard", "matplotlib", "rich", "pandas", "pyarrow"),
    )
    assert err == ""


def test_the_main_benchmark_does_without_its_plot(tmp_path):
    code = f"""
sys.path.insert(0, {str(ROOT / "benchmarks")!r})
import bench_logdet
sys.argv[1:2] = []
bench_logdet.main(["--quick", "--cases", "toy2d", "--seconds", "0.01", "--output", sys.argv[1]])
"""
    out, err = run(code, tmp_path, missing=(*EXTRAS, "normflows"))
    assert "left out: the plot: the module matplotlib is missing\n" in out
    assert "bench_logdet: toy2d: preparing\n" in err
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]


def test_other_errors_are_left_alone():
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_module'") as caught:
        with needed("nothing"):
            import no_such_module  # noqa: F401
    assert not isinstance(caught.value, MissingModuleError)
    with pytest.raises(MissingModuleError, match="inner needs rich"), needed("outer"), needed("inner"):
        raise ModuleNotFoundError(name="rich.progress")
