"""The examples run, write what they promise, and are short; the figures themselves come from their full runs."""

import copy
import gzip
import importlib
import json
import math
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from iresnet_fast import data, reference
from iresnet_fast.models import IResNetFlow

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = (
    "anomaly_detection",
    "conditional_density",
    "digits_density",
    "estimator_variance",
    "inverse_error",
    "inverse_problem",
    "logdet_bias",
    "mcmc_proposal",
    "mnist_classify",
    "mnist_density",
    "tables",
    "toy_densities",
)


@pytest.fixture
def module(monkeypatch, one_thread):
    """Import a module of examples/ by name, as its scripts do."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module


@pytest.fixture
def run(module, monkeypatch, tmp_path, capsys):
    """Run an example with --quick in this process; returns its results, checked for what all of them promise."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, "--quick", "--threads", "1", "--out", str(tmp_path), *arguments])
        if name not in ("anomaly_detection", "inverse_error", "inverse_problem"):
            sys.argv += ["--runs", str(tmp_path / "runs")]
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        results = json.loads((tmp_path / f"{name}.json").read_text())
        numbers = list(leaves(results))
        assert len(numbers) > 10
        assert all(math.isfinite(number) for number in numbers)
        page = (tmp_path / f"{name}.md").read_text()
        assert page in capsys.readouterr().out
        assert f"({name}.png)" in page
        assert torch.__version__ in page  # the machine line
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        return results

    return run


@pytest.fixture
def mnist(tmp_path):
    """A folder of MNIST's four files, of noise."""
    rng = np.random.default_rng(0)
    for part, n in (("train", 130), ("t10k", 70)):
        for kind, shape, top in (("images-idx3", (n, 28, 28), 256), ("labels-idx1", (n,), 10)):
            head = bytes((0, 0, 8, len(shape))) + np.array(shape, ">u4").tobytes()
            content = head + rng.integers(0, top, shape, dtype=np.uint8).tobytes()
            (tmp_path / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(content))
    return str(tmp_path)


def leaves(value):
    """All numbers in a JSON value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for entry in value:
            yield from leaves(entry)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value


def test_digits_density_merges_the_backends(run, capsys):
    alone = run("digits_density", "--backend", "kernels")
    assert set(alone["runs"]) == {"kernels"}
    assert alone["speed"] is None
    both = run("digits_density", "--backend", "reference")
    kernels, plain = both["runs"]["kernels"], both["runs"]["reference"]
    assert kernels == alone["runs"]["kernels"]
    # One recipe, one seed: after so few steps only rounding tells them apart.
    assert kernels["train_config"] == plain["train_config"]
    assert plain["bits_per_dim"] == pytest.approx(kernels["bits_per_dim"], abs=1e-3)
    for one in (kernels, plain):
        assert [point["step"] for point in one["curve"]] == [2, 4]
        assert [row["terms"] for row in one["bias"]] == [5, 10, 20, 40]
        assert one["truncation_bound"] > 0  # 40 terms, although 64 dimensions could be exact
        assert abs(one["bias"][-1]["mean"]) <= one["truncation_bound"]
        assert one["steps"] == 4
    with pytest.raises(SystemExit):
        run("digits_density", "--backend", "kernels", "--seed", "1")
    assert "choose another --out" in capsys.readouterr().err


def test_mnist_density(run, mnist):
    results = run("mnist_density", "--backend", "kernels", "--data-root", mnist, "--exact-images", "1")
    one = results["runs"]["kernels"]
    assert one["train_config"]["learning_rate"] == 4e-2
    assert one["train_config"]["batch_size"] == 32
    assert one["bias_images"] == 1
    assert 7.5 < one["bits_per_dim"] < 9  # noise has 8


def test_mnist_classify_keeps_the_other_bounds(run, mnist):
    run("mnist_classify", "--coeff", "none", "--data-root", mnist)
    results = run("mnist_classify", "--coeff", "0.9", "--data-root", mnist)
    assert list(results["runs"]) == ["0.9", "none"]
    bounded, free = results["runs"].values()
    assert 0.8 < bounded["largest_norm"] <= 0.9
    assert free["largest_norm"] > 1
    assert bounded["largest_pixel_error"] < 1e-5
    assert bounded["model_config"]["coeff"] == pytest.approx(0.99 * 0.9)
    assert free["model_config"]["coeff"] is None


def test_toy_densities(run):
    results = run("toy_densities", "--sets", "moons", "checkerboard")
    kernels, plain = (results["runs"][backend]["sets"] for backend in ("kernels", "reference"))
    for name in ("moons", "checkerboard"):
        assert plain[name]["nats"] == pytest.approx(kernels[name]["nats"], abs=1e-3)
        assert 0.8 < kernels[name]["mass_in_picture"] < 1.05


def test_conditional_density(run):
    results = run("conditional_density")
    assert results["test_points"] == 500
    # The exact posterior is the best there is, but for chance, and the measurements are worth something.
    assert results["gap"] > -4.0 * results["gap_error"]
    assert results["exact"] > results["prior"] + 0.5
    for one in results["contexts"]:
        assert 0.9 < one["mass"] < 1.02
        assert 0.0 < one["total_variation"] < 1.0


def test_inverse_error_attains_the_bound(run):
    for one in run("inverse_error")["runs"]:
        if one["branch"] == "worst" and one["dtype"] == "float64":
            assert one["errors"] == pytest.approx(one["bounds"], rel=1e-9)
        if one["branch"] == "random":
            assert one["errors"][0] > 1e-2
            assert one["errors"][10] < 1e-4 * one["errors"][0]
        assert one["solver_iterations_most"] > 3


def test_inverse_error_notices_a_violation(module):
    example = module("inverse_error")
    stages = example.worst_branch(0.9)
    with pytest.raises(AssertionError, match="above Banach's bound"):
        example.measure(torch.float64, torch.randn(2, 4, 14, 14, dtype=torch.float64), stages, 0.6, 20)


def printed(name, monkeypatch, capsys, *arguments):
    """What an example prints."""
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    return capsys.readouterr().out


def test_orthogonal_branch(module, monkeypatch, capsys):
    out = printed("orthogonal_branch", monkeypatch, capsys, "--steps", "3")
    assert out.count(f"Lipschitz constant {0.97**3:.4f}") == 4
    norms = [float(norm) for line in re.findall(r"norms of the weights \[(.*)\]", out) for norm in line.split(",")]
    assert norms == pytest.approx([1.0] * 12, abs=1e-5)
    assert float(re.search(r"error of the inverse (\S+)", out)[1]) < 1e-3
    assert "log-likelihood" in out


def test_cyclic_causal_graph(module, monkeypatch, capsys):
    out = printed("cyclic_causal_graph", monkeypatch, capsys, "--steps", "3", "--samples", "500")
    assert re.search(r"\d of 7 edges found", out)
    assert out.count(" -> ") >= 7
    assert float(re.search(r"error of the inverse (\S+)", out)[1]) < 1e-4


def test_its_data_solve_the_equations(module):
    example = module("cyclic_causal_graph")
    x, mask = example.draw(200)
    strength = torch.zeros(example.N, example.N)
    for edge, value in example.EDGES.items():
        strength[edge] = value
    e = x - mask * (torch.tanh(x) @ strength)
    free = e[mask.all(1)]
    assert free.std() == pytest.approx(example.NOISE, rel=0.2)  # more than five standard errors of either
    assert e[mask == 0.0].std() == pytest.approx(1.0, rel=0.4)
    torch.testing.assert_close(e[mask == 0.0], x[mask == 0.0])


def test_logdet_bias(run):
    for found in run("logdet_bias")["found"].values():
        first, last = found["rows"][0], found["rows"][-1]
        assert [row["terms"] for row in found["rows"]] == list(range(1, 21))
        assert all(abs(row["bias"]) <= row["bound_of_measured_norms"] <= 1.001 * row["bound"] for row in found["rows"])
        assert abs(last["bias"]) < 0.1 * abs(first["bias"])
        assert 1e-4 < last["spread"] < 1


def test_the_bias_is_that_of_the_jacobians(module):
    """Against the eigenvalues of the Jacobians that automatic differentiation gives."""
    bias = module("_bias")
    flow = IResNetFlow.preset("digits", blocks=(2,), hidden=(6, 6))
    images = data.load("digits").test[:2]
    flow.initialize(images)
    flow = copy.deepcopy(flow).double().eval()
    expected = torch.zeros(2, 2, dtype=torch.float64)
    for block, u in bias.block_inputs(flow, images):
        with torch.no_grad():
            stages = block.branch.stages(u.shape[2:])[:3]
        for i in range(2):
            jacobian = torch.func.jacrev(lambda v, stages=stages: reference.branch(v[None], *stages)[0])(u[i])
            eigenvalues = torch.linalg.eigvals(jacobian.detach().reshape(64, 64))
            for row, n in zip(expected, (1, 4), strict=True):
                terms = sum((-1) ** (k + 1) / k * eigenvalues**k for k in range(1, n + 1))
                row[i] += (terms - torch.log(1 + eigenvalues)).sum().real
    found = bias.series_bias(flow, images, (1, 4))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-11)
    assert found[0].abs().min() > 1e-5


def test_estimator_variance(run, mnist):
    def by_terms(rows, probes):
        return [row["std_nats"] for row in rows if row["probes"] == probes and row["exact_terms"] != "auto"]

    results = run("estimator_variance", "--models", "digits", "toy")
    assert list(results["runs"]) == ["toy", "digits"]
    results = run("estimator_variance", "--models", "mnist", "--data-root", mnist)
    assert list(results["runs"]) == ["toy", "digits", "mnist"]
    for name, one in results["runs"].items():
        for probes in dict.fromkeys(row["probes"] for row in one["rows"]):
            none, first, both = by_terms(one["rows"], probes)
            if (name, probes) == ("toy", "2 orthogonal"):  # a basis: the trace of every power
                assert max(none, first, both) < 1e-12
            else:
                assert none > 3.0 * first > 9.0 * both > 0.0
        assert one["rows"][0]["cost"] == one["rows"][0]["variance_ratio"] == 1.0
        assert one["gradient"][1]["relative_std"] < 0.5 * one["gradient"][0]["relative_std"]


@pytest.mark.parametrize(("hidden", "leading"), [((9,), False), ((9,), True), ((9, 8), False)])
def test_all_estimators_agree_with_the_exact_density(module, hidden, leading):
    example = module("_estimator_noise")
    torch.manual_seed(0)
    options = {"event_shape": (5,), "blocks": (2,), "hidden": hidden, "preactivation": leading}
    flow, x = IResNetFlow.preset("tabular", **options), torch.randn(30, 5)
    flow.fit_preprocessing(x)
    flow.initialize(x)
    found = example.noise(flow.eval(), x[:10], 50, 1)
    assert len(found["rows"]) == 16
    for row in found["rows"]:
        # The mean square of z has a tail longer than that of a normal number.
        assert abs(row["z_mean"]) < 4.0, row
        assert abs(row["z_square"]) < 5.0, row


def test_agreement_notices_an_error(module):
    example = module("_estimator_noise")
    draws = torch.randn(50, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    signs = 1.0 - 2.0 * (torch.arange(40) % 2)
    for truth, z_mean, z_square in ((0.0, 0, 0), (0.3, -1, 1), (0.3 * signs, 0, 1)):
        found = example.agreement(draws, torch.zeros(40) + truth)
        for name, sign in (("z_mean", z_mean), ("z_square", z_square)):
            assert (abs(found[name]) < 3.0) if sign == 0 else (sign * found[name] > 6.0), (name, found)


def test_inverse_problem(run):
    for methods in run("inverse_problem")["learnt_from"].values():
        assert len(methods) == 4
        for name, found in methods.items():
            assert len(found["psnr"]) == 2
            if name.startswith("i-ResNet"):
                # An upper bound of a convolution may be some per cent above its norm.
                assert all(0.0 < lipschitz <= 1.05 * found["parameter"] for lipschitz in found["lipschitz"])
                first, second = found["lipschitz"]
                assert found["stretches_at_most"] == pytest.approx(1.0 / ((1.0 - first) * (1.0 - second)))


def test_the_baselines_of_deblurring_undo_the_blur(module):
    example = module("_deblurring")
    clean = example.photographs()[0][200:296, 200:296]
    methods = ((example.tikhonov, 1e-9, 1e-3), (example.total_variation, 1e-6, 3e-4))
    for noise, least in ((0.0, 8.0), (0.01, 4.0)):  # decibels gained, with next to no penalty and with one
        image = example.blur(clean) + noise * np.random.default_rng(0).standard_normal(clean.shape)
        for restore, none, some in methods:
            gained = example.quality(clean, restore(image, some if noise else none)) - example.quality(clean, image)
            assert gained > least, (restore, noise)


@pytest.mark.parametrize("shape", [(32, 32), (50, 81)])
def test_tiles_cover_an_image_once(module, shape):
    image = np.random.default_rng(0).random(shape)
    again = module("_deblurring").by_tiles(lambda tiles: tiles, image, 48, 8)
    np.testing.assert_allclose(again, image, rtol=1e-6)


@pytest.mark.parametrize(
    ("kernels", "before", "minutes", "ratio"),
    [([3.0, 2.0, 1.0], 1.0, 2.0, 2.0), ([3.0, 2.9, 2.5], 3.0, None, None), ([1.9, 2.1, 1.0], 0.0, 1.0, 4.0)],
)
def test_speed_is_the_first_point_as_good_as_the_end_of_the_reference(module, kernels, before, minutes, ratio):
    curve = [{"minutes": i + 1.0, "test_bits_per_dim": value} for i, value in enumerate(kernels)]
    end = [{"minutes": 1.0, "test_bits_per_dim": 1.5}, {"minutes": 4.0, "test_bits_per_dim": 2.0}]
    found = module("_density").speed({"kernels": {"curve": curve}, "reference": {"curve": end}})
    assert found == {"goal": 2.0, "before": before, "minutes": minutes, "ratio": ratio}


def test_mcmc_proposal(run):
    results = run("mcmc_proposal")
    for found in results["targets"].values():
        rows = found["rows"]
        assert len(rows) == (11 if results["torchflows"] is None else 12)
        assert all(0.0 < row["acceptance"] <= 1.0 and row["per_second"] > 0.0 for row in rows)
        assert all(len(row["means"]) == len(found["truths"]) for row in rows)
        noise = {(row["exact"], row["probes"]): row["noise"] for row in rows if "noise" in row}
        for probes in (1, 4, 16):
            assert noise[2, probes] < 0.7 * noise[1, probes] < 0.4 * noise[0, probes]


def test_mcmc_proposal_says_what_it_left_out(run, module, monkeypatch, tmp_path):
    monkeypatch.setattr(module("_proposals"), "torchflows_version", lambda: None)
    results = run("mcmc_proposal")
    assert {row["proposal"] for found in results["targets"].values() for row in found["rows"]} == {"flow", "Gaussian"}
    assert "torchflows is not installed" in (tmp_path / "mcmc_proposal.md").read_text()


def test_anomaly_detection(run):
    tables = run("anomaly_detection")["tables"]
    assert len(tables) == 3
    for rows in tables.values():
        assert len(rows) == 12
        assert rows[0]["lost"] == 0.0
        assert all(row["lost"] == pytest.approx(rows[0]["auc"] - row["auc"]) for row in rows)
        noise = {(row["exact"], row["probes"]): row["noise"] for row in rows if "noise" in row}
        for probes in (1, 4, 16):
            assert noise[2, probes] < 0.7 * noise[1, probes] < 0.4 * noise[0, probes]
    assert min(row["auc"] for row in tables["breast cancer"]) > 0.85  # the easiest of the three, even for a flow so raw


def test_tables_go_on_where_they_were(run, capsys):
    first = run("tables", "--only", "cancer")
    assert list(first["runs"]) == ["cancer"]
    both = run("tables", "--only", "iris,cancer", "--resume")
    assert list(both["runs"]) == ["iris", "cancer"]
    assert both["runs"]["cancer"] == first["runs"]["cancer"]  # to the digits of its seconds
    for one in both["runs"].values():
        assert (one["rows"], one["test_rows"], one["steps"]["ours"]) == (40, 8, 2)
        assert set(one["gain"]) == {"ours", "mixture", "normflows"}
        difference = one["gain"]["ours"][0] - one["gain"]["mixture"][0]
        assert one["ours_over_mixture"][0] == pytest.approx(difference)
    with pytest.raises(SystemExit):
        run("tables", "--only", "cancers")
    assert "got cancers" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_examples_are_short(path):
    assert len(path.read_text().splitlines()) < 150


def test_the_readme_names_every_example():
    readme = (EXAMPLES / "README.md").read_text()
    assert all(f"{name}.py" in readme for name in (*NAMES, "orthogonal_branch", "cyclic_causal_graph"))
