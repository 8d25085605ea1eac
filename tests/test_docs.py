"""What the documents show works, and the figures they quote are those of the committed run."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from iresnet_fast import activations

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=[snippet.splitlines()[1] for snippet in SNIPPETS])
def test_readme_snippet_runs(snippet, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(activations, "REGISTRY", dict(activations.REGISTRY))  # one snippet registers its own
    exec(compile(snippet, "README.md", "exec"), {"__name__": "readme"})


def test_readme_example_inverts(capsys):
    (example,) = (snippet for snippet in SNIPPETS if "certified_inverse" in snippet)
    exec(compile(example, "README.md", "exec"), {"__name__": "readme"})
    error, sum_of_logdets = (float(number) for number in re.findall(r"tensor\(([\d.e+-]+)\)", capsys.readouterr().out))
    assert error < 1e-5
    assert sum_of_logdets < 1e-3


def committed_records(name):
    """The results in git, not those in the work tree: the benchmark may have run again since; none: it never did."""
    path = f"benchmarks/results/{name}.json"
    shown = subprocess.run(["git", "show", f"HEAD:{path}"], cwd=ROOT, capture_output=True, text=True)
    if shown.returncode == 0:
        return json.loads(shown.stdout)
    return json.loads((ROOT / path).read_text()) if (ROOT / path).exists() else []


def test_readme_quotes_the_committed_run(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from report import summary

    setting, table = summary(committed_records("bench_logdet"))
    assert setting in README
    assert table in README


def test_readme_quotes_the_committed_run_of_branches(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from report_branches import BEGIN, END, readme_block

    assert f"{BEGIN}\n{readme_block(committed_records('bench_branches'))}\n{END}" in README


def test_readme_quotes_the_noise_of_estimators(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    from _estimator_report import BEGIN, END, readme_block

    found = json.loads((ROOT / "docs/results/estimator_variance.json").read_text())
    assert f"{BEGIN}\n{readme_block(found)}\n{END}" in README


def test_links_in_the_documents_lead_somewhere():
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_readme_quotes_the_experiments():
    quoted = [line for line in README.splitlines() if "bits/dim |" in line]
    assert len(quoted) == 2
    for name, line in zip(("digits", "mnist"), quoted, strict=True):
        found = json.loads((ROOT / f"docs/results/{name}_density.json").read_text())
        kernels, reference = (found["runs"][backend] for backend in ("kernels", "reference"))
        for run in (kernels, reference):
            assert f"{run['bits_per_dim']:.3f} ± {run['standard_error']:.3f}" in line
        assert f"{found['settings']['minutes']:g} minutes" in line
        assert f"{found['speed']['ratio']:.1f} times sooner" in line


def test_readme_quotes_the_classifier():
    (line,) = (line for line in README.splitlines() if "error |" in line)
    run = json.loads((ROOT / "docs/results/mnist_classify.json").read_text())["runs"]["0.9"]
    assert f"{run['error_percent']:.2f} % error" in line
    assert f"{run['largest_pixel_error']:.0e}" in line


def test_readme_quotes_the_tables():
    runs = json.loads((ROOT / "docs/results/tables.json").read_text())["runs"]
    page = (ROOT / "docs/results/tables.md").read_text()
    (said,) = re.findall(r"our flow is (at least as good as .*)\.\n", page)
    text = " ".join(README.split())
    assert (
        f"Of twelve tables that scikit-learn and statsmodels bring, with 150 to 6,366 rows, our flow is {said}" in text
    )
    assert len(runs) == 12
    assert (min(run["rows"] for run in runs.values()), max(run["rows"] for run in runs.values())) == (150, 6366)
    seconds = [round(run["seconds"]) for run in runs.values()]
    assert f"for {min(seconds)} to {max(seconds)} seconds" in text


def test_readme_quotes_the_training_step():
    (found,) = json.loads((ROOT / "benchmarks/results/bench_train_step.json").read_text())
    times, ours = found["baselines"], found["ours_ms"]
    assert min(times, key=times.get) == "compiled"
    text = " ".join(README.split())
    assert f"takes {ours:.0f} ms: {times['series'] / ours:.1f} times as fast as through the autograd series" in text
    assert f"{times['compiled'] / ours:.1f} times as fast as our own formula compiled by torch" in text
