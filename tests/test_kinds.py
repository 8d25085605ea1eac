"""What is said of kinds of branches and activations, in the documents and by the program, is what a block does."""

import re
from pathlib import Path

import pytest
import torch
from comparison import RecordedOps

from iresnet_fast import activations, nn
from iresnet_fast.__main__ import report
from iresnet_fast.nn import _kinds

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
FEATURES = (ROOT / "docs" / "features.md").read_text()
ACTIVATIONS = [name for known in (True, False) for name in _kinds.activation_names(known)]


def raw_ops_of_a_block(branch):
    """The names of the raw ops that a training step of a block calls, but those of its norms."""
    x = torch.randn(3, 2, *((2, 2) if any(p.dim() == 4 for p in branch.parameters()) else ()))
    context = (torch.randn(3, 3),) if isinstance(branch, nn.ConditionalBranch) else ()
    block = nn.InvertibleResidualBlock(branch, lipschitz=0.9)
    with RecordedOps() as recorded:
        z, logdet = block(x, *context)
        (z.sum() + logdet.sum()).backward()
    return set(recorded.names) & {"residual_logdet", "branch_backward"}


@pytest.mark.filterwarnings("ignore:iresnet_fast")
@pytest.mark.parametrize("row", _kinds.kinds(), ids=lambda row: row.kind)
def test_a_kind_runs_on_what_is_said(row):
    expected = {"residual_logdet", "branch_backward"} if row.kernels else set()
    assert raw_ops_of_a_block(_kinds.EXAMPLES[row.kind]()) == expected
    assert bool(row.why) != row.kernels


@pytest.mark.filterwarnings("ignore:iresnet_fast")
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_runs_on_what_is_said(name):
    expansion = activations.get(name).expansion
    layers = [nn.SpectralLinear(2, 4), nn.SpectralLinear(4 * expansion, 2)]
    branch = nn.ResidualBranch(layers, ["identity", name])
    known = name in _kinds.activation_names(True)
    assert raw_ops_of_a_block(branch) == ({"residual_logdet", "branch_backward"} if known else set())
    assert _kinds.served("", branch).kernels == known


@pytest.mark.filterwarnings("ignore:iresnet_fast")
def test_an_activation_of_the_users_runs_on_the_twin(monkeypatch):
    monkeypatch.setattr(activations, "REGISTRY", dict(activations.REGISTRY))
    activations.register("arctan", torch.atan, lambda a: 1 / (1 + a * a), lambda a: -2 * a / (1 + a * a) ** 2, 1.0)
    branch = nn.ResidualBranch.dense([2, 4, 2], "arctan")
    assert raw_ops_of_a_block(branch) == set()
    assert _kinds.served("", branch).why == "activation 'arctan' has no kernel"
    assert "arctan" in _kinds.activation_names(False)


def test_the_readme_has_the_table():
    found = re.search(r"<!-- kinds:begin -->\n(.*?)\n<!-- kinds:end -->", README, re.DOTALL)
    assert found[1] == _kinds.markdown(), "python benchmarks/report.py --kinds writes it"


def row_of(feature):
    (line,) = [line for line in FEATURES.splitlines() if line.startswith(f"| {feature} |")]
    return [cell.strip() for cell in line.strip("|").split("|")][4]


def test_the_features_list_the_activations():
    text = row_of("activations")
    assert f"kernels for {_kinds.sentence(True)};" in text
    assert f"the twin for {_kinds.sentence(False)} and those of your own;" in text


def test_the_features_list_the_kinds():
    text = row_of("own kernels")
    for known, introduction in ((True, "on both for "), (False, "none for ")):
        assert introduction + _kinds.kind_names(known) in text


def test_the_program_prints_them():
    lines = report().splitlines()
    for row in _kinds.kinds():
        (line,) = [line for line in lines if line.startswith(row.kind.replace("`", "") + "  ")]
        cells = re.split(r"  +", line)
        assert cells[1].startswith("kernel" if row.kernels else "twin")
        assert cells[2].startswith(("kernel", "twin (no kernels here)") if row.kernels else "twin")
        assert cells[3:] == ([row.why] if row.why else [])
    for known, words in ((True, "kernel"), (False, "twin")):
        for name in _kinds.activation_names(known):
            assert any(re.match(rf"{re.escape(name)} +{words}( |$)", line) for line in lines)
