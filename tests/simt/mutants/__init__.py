"""The table of mutate.py.

How the mutants were chosen: every barrier, every wait for a copy and every vote of csrc/cuda is removed in
turn (mutate.py refuses a table that leaves one out), then the bounds of every kind of loop and store, the zero fill
of pads and copies, buffers taken for one another, one term of each kind of index, and every decision of the host about
precision, tiles, memory and when to stop. What changes no result is no bug: such synchronisation is listed as
equivalent, with the reason.
"""

from . import flow, gradients, host, layered, resident, spectral, traces
from .table import Equivalent, Mutant

__all__ = ["EQUIVALENT", "MUTANTS", "Equivalent", "Mutant"]

MUTANTS = (
    *gradients.weight_gradients(), *gradients.backward(), *gradients.of_samples(), *gradients.kept(),
    *layered.products(), *layered.gathered(), *layered.operands(), *layered.rows(), *layered.inverse(),
    *layered.pieces(), *layered.tangents(), *resident.products(), *resident.chain(), *resident.forward(),
    *resident.tangents(), *spectral.norms(), *spectral.lanczos(), *spectral.normalisation(), *host.plans(),
    *host.tiles(), *host.shared_memory(), *flow.steps(), *traces.values(), *traces.gradients(),
)  # fmt: skip
EQUIVALENT = (
    Equivalent(
        "layered/weight_gradient.cuh",
        "  __syncthreads();\n  slope = block_sum",
        "the loop above reads scratch from element kRows on, the sum writes the few before it",
    ),
    Equivalent(
        "device/block_sum.cuh",
        "  __syncthreads();\n  return sum;",
        "frees the scratch for the next call, before which every caller has a barrier of its own",
    ),
    Equivalent(
        "resident/chain.cuh",
        "  __pipeline_wait_prior(0);  // a chunk fetched ahead of need",
        "nothing reads the chunk; a block that ends must not leave copies behind",
    ),
    Equivalent(
        "resident/forward.cuh",
        "  __pipeline_wait_prior(0);  // a chunk fetched ahead of need",
        "nothing reads the chunk; a block that ends must not leave copies behind",
    ),
)
