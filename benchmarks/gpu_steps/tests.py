"""pytest -m cuda: every op, its gradients, graphs, streams, precisions and layers on the GPU."""

from __future__ import annotations

import sys

from pytest_run import run_pytest
from step import ROOT, Run


def main() -> None:
    """Run the tests."""
    run = Run("tests")
    files = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests").glob("test_cuda*.py"))
    few = ["--device", "cpu", "-k", "test_matches_reference and branch and toy"] if run.dry else []
    sys.exit(run_pytest(run, [*files, "-m", "cuda", *few], run.out / "pytest.xml"))


if __name__ == "__main__":
    main()
