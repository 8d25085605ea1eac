// The inverse of x -> x + g(x) by fixed-point iterations.
#pragma once

#include <vector>

#include "cuda/device/workspace.h"
#include "iresnet_fast/params.h"

namespace irf::cuda {

template <class T>
struct Inverse {
  Branch<T> branch;
  std::vector<Buffer<T>> weights;  // [L] packed in the forward form
  ResidualInverseOperands<T> operands;
};

}  // namespace irf::cuda
