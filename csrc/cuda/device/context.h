// What a call is described for, and what its launch knows.
#pragma once

#ifndef SIMT_EMULATED
#include <cuda_runtime_api.h>
#endif

#include "cuda/device/card.h"
#include "cuda/device/workspace.h"

namespace irf::cuda {

class LibraryProducts;
class Progress;

struct Target {
  Card card;
  Precision precision;  // of an op's operands: the least exact one that will do; of a walk: the one it runs at
};

struct Context : Target {
  Memory memory;
  cudaStream_t stream;
  Progress* progress;          // null: nothing may wait, as in a capture
  LibraryProducts* libraries;  // null where card.libraries is false
};

}  // namespace irf::cuda
