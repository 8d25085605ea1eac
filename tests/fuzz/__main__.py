"""`python -m fuzz`, from the folder of the tests: calls under the sanitizers, and a table of what became of them."""

import argparse
import subprocess
import sys

from .runner import run


def main():
    """Run it."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--extension", help="the extension built for the sanitizers; default: the one installed")
    options = parser.parse_args()
    environment = sanitizers() if options.extension else {}
    outcomes, wrong = run(options.calls, options.seed, options.jobs, options.extension, environment)
    for (name, outcome), count in sorted(outcomes.items()):
        print(f"{count:6d}  {name:32s} {outcome}")
    for line in wrong:
        print(f"WRONG {line}")
    print(f"{sum(outcomes.values())} calls, {len(wrong)} wrong")
    sys.exit(bool(wrong))


def sanitizers():
    """Return the environment in which Python, which knows nothing of them, runs with the sanitizers of gcc."""
    names = ("libasan.so", "libstdc++.so")  # the second one, since the first looks for what throws exceptions
    paths = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in names
    ]
    asan = "detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=2048:quarantine_size_mb=64"
    return {
        "LD_PRELOAD": " ".join(paths),
        "ASAN_OPTIONS": f"{asan}:abort_on_error=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    }


if __name__ == "__main__":
    main()
