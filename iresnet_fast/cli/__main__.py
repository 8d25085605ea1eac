"""`python -m iresnet_fast.cli`: the same as the command `iresnet-fast`."""

import sys

from .main import main

if __name__ == "__main__":
    sys.exit(main())
