"""Makes the calls of a range of numbers and says on standard output what became of each.

`python -m fuzz.worker SEED FIRST LAST [EXTENSION]`, with the extension built for the sanitizers if one is given. A line
begins with the number of a call before it is made, so that the last line of a worker that dies names its call.
"""

import importlib.util
import os
import resource
import sys
import warnings

import torch

MEMORY = 8 << 30
RAISES = (ValueError, TypeError, RuntimeError, IndexError, OverflowError, MemoryError)


def main():
    """Make the calls."""
    seed, first, last = (int(word) for word in sys.argv[1:4])
    # What the calls print belongs elsewhere, libraries of C included.
    report = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    torch.set_num_threads(2)
    if len(sys.argv) > 4:
        load_extension(sys.argv[4])
    else:  # so that no call takes what others need; the address sanitizer needs all addresses, and has a limit itself
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    from .calls import call_of

    for index in range(first, last):
        name, call, expectation = call_of(seed, index)
        report.write(f"{index} {name} ")
        report.flush()
        try:
            call()
            outcome = "returned"
        except RAISES as error:
            outcome = f"raised {type(error).__name__} {str(error).splitlines()[0] if str(error) else ''}"
        wrong = (expectation == "must raise") if outcome == "returned" else expectation == "must not raise"
        report.write(f"{'WRONG ' if wrong else ''}{outcome}\n")


def load_extension(path):
    """Let `iresnet_fast._C` be this library."""
    spec = importlib.util.spec_from_file_location("iresnet_fast._C", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["iresnet_fast._C"] = module


if __name__ == "__main__":
    main()
