// The kernels of an evaluation and of a training step of the log-determinant, in the order of their launches, and what
// each is modelled to cost. Listed from the plans that the launches ask too; for tables and tests, not for launches.
#pragma once

#include <string>
#include <vector>

#include "cuda/device/card.h"
#include "cuda/plan/product.h"
#include "iresnet_fast/params.h"

namespace irf::cuda {

struct LaunchedKernel {
  std::string name;  // as in the source, without template arguments; of a library: "library product"
  int64_t blocks;    // where this file plans the grid itself (weight gradients); else 0
  KernelCost cost;
};

struct LogdetStep {
  int terms;      // of the series, for one probe, without a stop
  bool training;  // with the Neumann vector and what is kept, then the gradients of x and of all parameters
};

// Of float32 numbers, in full precision or TF32: for bf16 weight gradients count as in TF32. Pointers in the branch are
// only compared with null.
std::vector<LaunchedKernel> logdet_kernels(const Branch<float>& branch, const LogdetStep& step, Precision wanted,
                                           const Card& card);

}  // namespace irf::cuda
