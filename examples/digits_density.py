"""Bits per dimension of scikit-learn's 8 x 8 digits against minutes of training, kernels and plain torch.

    python examples/digits_density.py                       # 2 minutes each, no download
    python examples/digits_density.py --backend kernels     # one of the two; the other's results stay

One scale of eight blocks, batches of 64; the experiment is in _density.py. Writes
docs/results/digits_density.{json,md,png}.
"""

from _density import main

if __name__ == "__main__":
    main("digits", 2.0, 100, __doc__)
