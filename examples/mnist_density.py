"""Bits per dimension of MNIST against minutes of training, kernels and plain torch.

    python examples/mnist_density.py --data-root DIR                       # 20 minutes each
    python examples/mnist_density.py --data-root DIR --backend kernels     # one of the two; the other's results stay

DIR holds the four standard files (train-images-idx3-ubyte.gz, ...). Two scales of four blocks, 57 thousand parameters,
batches of 32; the experiment is in _density.py. Writes docs/results/mnist_density.{json,md,png}.
"""

from _density import main

if __name__ == "__main__":
    main("mnist", 20.0, 6, __doc__)
