"""`make matrix`: the tests against one wheel under the oldest and the newest torch, a line for each at the end."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

TORCH = ("2.11.0", "2.14.1")
ROOT = Path(__file__).resolve().parent.parent
# These test the source tree and its build, not the installed package.
LEFT_OUT = (
    "simt",
    "test_arm.py",
    "test_build.py",
    "test_build_cuda.py",
    "test_build_flags.py",
    "test_checkout.py",
    "test_static.py",
    "test_static_cpu.py",
)
# Of requirements/dev.txt: torch is what differs, and an older one may refuse tools which only builds and linters need.
NOT_NEEDED = ("torch=", "pybind11=", "setuptools=", "clang-format=", "mypy=", "ruff=", "nvidia-")


def main():
    """Try every version, also after one that failed, and exit with 1 if any did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for the environments: kept, and used again")
    parser.add_argument("wheel", type=Path)
    parser.add_argument("pytest", nargs=argparse.REMAINDER, help="options of pytest")
    options = parser.parse_args()
    folder, wheel = options.folder.resolve(), options.wheel.resolve()
    results = {version: result_under(version, folder / version, wheel, options.pytest) for version in TORCH}
    for version, (_, line) in results.items():
        print(f"torch {version}: {line}")
    sys.exit(any(status != 0 for status, _ in results.values()))


def result_under(version, environment, wheel, options):
    """Return the exit status and the last line of the tests under this torch."""
    python = environment / "bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    pins = (ROOT / "requirements/dev.txt").read_text().splitlines()
    needed = [pin for pin in pins if pin and not pin.startswith(("#", *NOT_NEEDED))]
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    for command in ([f"torch=={version}", *needed], ["--no-deps", "--force-reinstall", wheel]):
        if subprocess.run([*pip, *command]).returncode != 0:
            return 1, "could not be installed"
    left_out = [f"--ignore={ROOT / 'tests' / name}" for name in LEFT_OUT]
    command = [environment / "bin/pytest", "-c", ROOT / "pyproject.toml", ROOT / "tests", "-q", *left_out, *options]
    # Not in the source tree, and not by `python -m`: its iresnet_fast would be imported in place of the wheel.
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    tests = subprocess.Popen(command, cwd=environment, env=variables, stdout=subprocess.PIPE, text=True)
    line = "no test ran"
    for line in tests.stdout:
        print(line, end="", flush=True)
    return tests.wait(), line.strip()


if __name__ == "__main__":
    main()
